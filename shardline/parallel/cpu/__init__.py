"""Operator-level parallelism on the CPU, where MindSpore 2.10 refuses to shard: our own, with explicit collectives."""
