"""The core: checkpoints, strategies, shard sets, and what is made from them. NumPy, BLAKE3 and the standard library.

| package | what it knows |
|---|---|
| `strategy` | layouts (which rank holds which slice), their geometry, the strategy file in both of its forms |
| `formats` | .ckpt, .safetensors and Checkpoint 2.0, by their headers; reading and writing tensors at their offsets |
| `shards` | the manifest of a shard set, finding the slices of a step, which tensors to keep, what they make |
| `merging` | a merge from beginning to end, its proof and its record; in parts; resharding; verifying |

Each imports from those above it in this table alone.
"""
