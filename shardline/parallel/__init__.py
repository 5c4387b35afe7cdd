"""How a network is computed on ranks: one device, the CPU ranks that we shard, the cards that MindSpore shards."""
