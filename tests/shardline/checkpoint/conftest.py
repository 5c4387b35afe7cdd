import os

import pytest

from tests.shardline.checkpoint.merge_case import Case


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch):
    """Flushing to disk shows only when the power fails, and costs these tests more than all the rest."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)
