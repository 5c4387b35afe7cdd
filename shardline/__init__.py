"""Sharded MindSpore training, merged, validated and promoted. `docs/architecture.md` names the floors."""
