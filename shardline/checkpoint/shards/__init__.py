"""Shard sets: the manifest, finding a step's slices, which tensors to keep, and the plan of what they make."""
