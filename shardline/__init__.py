"""Sharded MindSpore training, merged, validated and promoted. `docs/architecture.md` names the floors."""

__version__ = "0.2.0"
