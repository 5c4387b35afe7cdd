"""A home with a promoted language model, whose ranks' logits are there: what a real run left."""

import shutil
from pathlib import Path

import pytest

from shardline.run.directory import Home
from shardline.store.model_store import current

RECORDED = Path(__file__).parents[2] / "fixtures" / "gpt_home"


@pytest.fixture
def home(tmp_path) -> Home:
    shutil.copytree(RECORDED, tmp_path / "home", symlinks=True)
    return Home(tmp_path / "home")


@pytest.fixture
def version(home):
    found = current(home, "gpt")
    assert found
    return found
