"""How parameters are sharded: layouts, their geometry, and the strategy files that hold them, in both forms."""
