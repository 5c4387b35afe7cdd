"""The core: checkpoints, strategies, shard sets, and what is made from them. NumPy, blake3 and the standard library.

| module | what it knows |
|---|---|
| `layout` | which rank holds which slice of a parameter |
| `wire`, `strategy` | protocol buffers; the parallel strategy file, in both of its forms |
| `shard_set` | the manifest that makes a set of slices complete |
| `ckpt`, `safetensors_file`, `file_index` | the two formats of checkpoints, by their headers |
| `checkpoint_file` | one checkpoint as a mapping from names to arrays |
| `source`, `selection`, `plan` | which slices there are, what to keep, what a merge will do |
| `blocks`, `execute`, `proof`, `workers` | the merge itself in bounded memory, and its proof |
| `output`, `staging`, `publish`, `record` | the files that come out, and merge.json |
| `request`, `merge`, `unchanged` | a merge from beginning to end |
"""
