"""The two formats of checkpoints, .ckpt and .safetensors: indexed by headers, read and written at offsets."""
