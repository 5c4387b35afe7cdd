"""Training as each rank runs it: one loop for all backends, with saving, resuming and metrics."""
