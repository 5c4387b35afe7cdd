"""The device path's own cells, compiled by MindSpore for 8 cards: what it makes of them is what we say it does."""

from pathlib import Path

import pytest

from tasks.checkpoint.strategy import read_strategy
from tasks.config import RunConfig
from tasks.parallel.layouts import strategy_of
from tests.rehearsal.cuda_stubs import make_cuda
from tests.rehearsal.networks import rehearsed
from tests.rehearsal.rehearse import launch

pytestmark = [pytest.mark.rehearsal, pytest.mark.timeout(1800)]

LOADED = str(Path(__file__).parents[1] / "fixtures" / "strategy" / "tutorial_sgd.ckpt")
GPT = {
    "layers": 1,
    "hidden_size": 32,
    "sequence_length": 16,
    "batch_size": 8,
    "optimizer": "AdamW",
    "clip_norm": 1.0,
    "schedule": "cosine",
    "warmup_steps": 2,
}
CASES = {
    "tutorial, SGD": ("mlp", {"optimizer": "SGD"}),
    "tutorial, Momentum": ("mlp", {"optimizer": "Momentum"}),
    "tutorial, Adam": ("mlp", {"optimizer": "Adam"}),
    "tutorial, Adam, only trainable": ("mlp", {"optimizer": "Adam", "strategy_only_trainable_params": True}),
    "tutorial, from a file": ("mlp", {"optimizer": "Adam", "strategy_load_file": LOADED}),
    "tutorial, JSON": ("mlp", {"optimizer": "Momentum", "strategy_save_file": "strategy.json"}),
    "tensor parallel, Adam": ("tensor_parallel", {"optimizer": "Adam"}),
    "mixed, Momentum": ("mixed", {"optimizer": "Momentum"}),
    "tutorial, Adam, optimizer sharding": ("mlp", {"optimizer": "Adam", "enable_parallel_optimizer": True}),
    "gpt, AdamW": ("gpt", GPT),
    "gpt, float16": ("gpt", GPT | {"precision": "float16"}),
    "gpt, optimizer sharding": ("gpt", GPT | {"tensor_parallel": 2, "enable_parallel_optimizer": True}),
}


@pytest.fixture(scope="session")
def cuda(tmp_path_factory) -> Path:
    """CUDA, as far as MindSpore's GPU plugin needs it to be loaded."""
    return make_cuda(tmp_path_factory.mktemp("cuda") / "cuda")


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


def test_a_wrong_strategy_does_not_compile(cuda, tmp_path):
    (tmp_path / "network").write_text("wrong")
    (tmp_path / "config.json").write_text(RunConfig(device_target="GPU", world_size=2).to_json())
    outcome = launch(cuda, [tmp_path], ranks=2)
    assert outcome.returncode == 1
    assert f": {tmp_path}: " in outcome.stdout
    assert "MatMul" in outcome.stdout
