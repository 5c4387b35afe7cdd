"""The command `shardline`, and its commands: one module each."""
