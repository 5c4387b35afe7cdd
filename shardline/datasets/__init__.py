"""Where the training data comes from, and the one form that it is brought into. Read `preparation` first."""
