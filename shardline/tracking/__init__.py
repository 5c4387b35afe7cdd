"""Runs as MLflow shows them: an MLflow server's REST interface, and what of a run it was sent."""
