"""The core: checkpoints, strategies, shard sets, and what is made from them. NumPy, blake3 and the standard library.

| modules | what they know |
|---|---|
| `layout` | which rank holds which slice of a parameter |
| `wire`, `strategy`, `strategy_items`, `strategy_protobuf`, `strategy_json` | the strategy file, in both of its forms |
| `shard_set` | the manifest that makes a set of slices complete |
| `tensor_types`, `file_index`, `json_object`, `ckpt`, `safetensors_file` | the two formats of checkpoints, by headers |
| `checkpoint_file` | one checkpoint as a mapping from names to arrays |
| `source`, `selection`, `plan`, `forecast` | which slices there are, what to keep, what a merge will do and take |
| `blocks`, `tensor_io`, `workers`, `execute` | the merge itself, in bounded memory |
| `proof`, `digests`, `rank_identity`, `verify` | what is checked, of the inputs and of the output |
| `output`, `staging`, `output_lock`, `publish`, `record` | the files that come out, and merge.json |
| `request`, `work`, `merge`, `unchanged` | a merge from beginning to end |
| `parts` | the same in several processes |
| `reshard` | slices for another strategy |
| `progress` | what is said meanwhile |
"""
