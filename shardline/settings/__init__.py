"""Parameter documents: what users choose, declared once, with the form and the checks that follow from it."""
