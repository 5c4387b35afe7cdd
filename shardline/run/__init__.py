"""The run directory: what lies where, who holds it, which run it is of, and the merge of a run."""
