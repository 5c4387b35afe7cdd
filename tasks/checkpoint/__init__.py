"""The core: checkpoints, strategies, shard sets, and what is made from them. NumPy, blake3 and the standard library.

| module | what it knows |
|---|---|
| `layout` | which rank holds which slice of a parameter |
| `wire`, `strategy` | protocol buffers; the parallel strategy file, in both of its forms |
| `shard_set` | the manifest that makes a set of slices complete |
"""
