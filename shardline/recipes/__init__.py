"""What a run's `network` may name: the built-in networks, examples, and the lookup of yours."""
