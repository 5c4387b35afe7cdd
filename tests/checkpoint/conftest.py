import os

import pytest


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch):
    """Flushing to disk shows only when the power fails, and costs these tests more than all the rest."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
