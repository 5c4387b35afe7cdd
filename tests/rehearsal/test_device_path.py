"""The device path's own cells, compiled by MindSpore for 8 cards: what it makes of them is what we say it does."""

import os
import subprocess
from pathlib import Path

import pytest

from tasks.checkpoint.strategy import read_strategy
from tasks.config import RunConfig
from tasks.parallel.layouts import strategy_of
from tests.rehearsal.networks import rehearsed
from tests.rehearsal.rehearse import launch

pytestmark = [pytest.mark.rehearsal, pytest.mark.timeout(1800)]

LOADED = str(Path(__file__).parents[1] / "fixtures" / "strategy" / "tutorial_sgd.ckpt")
CASES = {
    "tutorial, SGD": ("mlp", {"optimizer": "SGD"}),
    "tutorial, Momentum": ("mlp", {"optimizer": "Momentum"}),
    "tutorial, Adam": ("mlp", {"optimizer": "Adam"}),
    "tutorial, Adam, only trainable": ("mlp", {"optimizer": "Adam", "strategy_only_trainable_params": True}),
    "tutorial, from a file": ("mlp", {"optimizer": "Adam", "strategy_load_file": LOADED}),
    "tutorial, JSON": ("mlp", {"optimizer": "Momentum", "strategy_save_file": "strategy.json"}),
    "tensor parallel, Adam": ("tensor_parallel", {"optimizer": "Adam"}),
    "mixed, Momentum": ("mixed", {"optimizer": "Momentum"}),
}


@pytest.fixture(scope="session")
def cuda() -> Path:
    """CUDA 11's libraries: in SHARDLINE_REHEARSAL_CUDA, or kept under ~/.cache, 2.5 GB, fetched when missing."""
    folder = Path(os.environ.get("SHARDLINE_REHEARSAL_CUDA") or Path.home() / ".cache" / "shardline" / "cuda11")
    if not (folder / "bin" / "nvcc").exists():
        subprocess.run([Path(__file__).with_name("setup.sh"), folder], check=True)
    return folder


@pytest.fixture(scope="session")
def compiled(cuda, tmp_path_factory) -> Path:
    """A folder with a run of every case, each compiled by 8 ranks."""
    folder = tmp_path_factory.mktemp("rehearsal")
    runs = []
    for case, (network, parameters) in CASES.items():
        run = folder / case.replace(" ", "_")
        run.mkdir()
        (run / "network").write_text(network)
        (run / "config.json").write_text(RunConfig(device_target="GPU", **parameters).to_json())
        runs.append(run)
    outcome = launch(cuda, runs, ranks=8)
    assert outcome.returncode == 0, outcome.stdout
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_compilers_strategy_file_is_ours_item_for_item(compiled, case):
    run = compiled / case.replace(" ", "_")
    config = RunConfig.from_json((run / "config.json").read_bytes())
    ours = strategy_of(rehearsed(config, CASES[case][0]), config)
    theirs = read_strategy(run / "rank_0" / config.strategy_save_file)
    assert dict(theirs.operators) == dict(ours.operators)
    assert dict(theirs.layouts) == dict(ours.layouts)


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_write_the_same_strategy_file(compiled, case):
    run = compiled / case.replace(" ", "_")
    name = RunConfig.from_json((run / "config.json").read_bytes()).strategy_save_file
    assert len({(run / f"rank_{rank}" / name).read_bytes() for rank in range(8)}) == 1
