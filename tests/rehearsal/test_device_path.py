"""The device path's own cells, compiled by MindSpore for 8 cards: what it makes of them is what we say it does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.checkpoint.strategy.strategy_file import read_strategy, without_compilers_own
from shardline.parallel.layouts import strategy_of
from shardline.settings.run_config import RunConfig
from tests.rehearsal.networks import rehearsed
from tests.rehearsal.rehearse import PROJECT, describe, launch

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
STAGES = {"pipeline_stages": 2}
NUMBER_OF_THE_FILE = 0x08
"""The key of a strategy file's first field: how many its process has written, in one byte as long as they are few."""
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
    "gpt, 6 layers": ("gpt", GPT | {"layers": 6, "hidden_size": 16}),
    "gpt, optimizer sharding": ("gpt", GPT | {"tensor_parallel": 2, "enable_parallel_optimizer": True}),
    "tutorial, SGD, 2 stages": ("mlp", STAGES | {"optimizer": "SGD"}),
    "tutorial, Momentum, 2 stages": ("mlp", STAGES | {"optimizer": "Momentum", "strategy_save_file": "strategy.json"}),
    "tutorial, Adam, 2 stages": ("mlp", STAGES | {"optimizer": "Adam", "micro_batches": 4}),
    "tutorial, Adam, 2 stages, optimizer sharding": ("mlp", STAGES | {"enable_parallel_optimizer": True}),
    "gpt, 2 stages": ("gpt", GPT | STAGES | {"layers": 2, "tensor_parallel": 2}),
    "gpt, 2 stages, float16": ("gpt", GPT | STAGES | {"layers": 2, "precision": "float16"}),
    "gpt, 2 stages, optimizer sharding": (
        "gpt",
        GPT | STAGES | {"layers": 3, "tensor_parallel": 2, "enable_parallel_optimizer": True},
    ),
    "own cell, tutorial": ("shardline.recipes.examples.tutorial:tutorial", {"optimizer": "Momentum"}),
    "own cell, residual": ("tests.cells:residual", {"optimizer": "Adam"}),
    "own cell, convolutional": ("tests.cells:convolutional", {"optimizer": "Momentum"}),
    "own cell, gpt": ("tests.cells:gpt", {"optimizer": "Adam", "batch_size": 8}),
    "own cell, gpt, optimizer sharding": ("tests.cells:gpt", {"batch_size": 8, "enable_parallel_optimizer": True}),
}
COMPARED_BETWEEN_RANKS = {
    "mixed, Momentum": 8,
    "tutorial, Adam, 2 stages, optimizer sharding": 4,
    "tutorial, Adam, optimizer sharding": 2,
    "gpt, optimizer sharding": 2,
    "gpt, 2 stages, optimizer sharding": 2,
}
"""So many ranks of each stage compile these; the other cases are compiled by one, from case to case by another."""


def config_of(case: str) -> RunConfig:
    return RunConfig(device_target="GPU", **CASES[case][1])


def compiled_by(case: str, stage: int) -> list[int]:
    """The ranks of `stage` that compile a case."""
    size, number = config_of(case).ranks_per_stage, list(CASES).index(case)
    return [stage * size + (number + more) % size for more in range(COMPARED_BETWEEN_RANKS.get(case, 1))]


@pytest.fixture(scope="session")
def compiled(cuda, tmp_path_factory) -> Path:
    """A folder with a run of every case, each compiled by 8 ranks."""
    folder = tmp_path_factory.mktemp("rehearsal")
    runs, cells = [], []
    for case, (network, parameters) in CASES.items():
        config = config_of(case)
        run = folder / case.replace(" ", "_")
        describe(
            run, network, config, [rank for stage in range(config.pipeline_stages) for rank in compiled_by(case, stage)]
        )
        runs.append(run)
        if ":" in network:
            cells.append({"graph": str(run / "network.mindir"), "parameters": {"network": network, **parameters}})
    (folder / "cells.json").write_text(json.dumps(cells))
    subprocess.run([sys.executable, "-m", "tests.exported_cells", folder / "cells.json"], cwd=PROJECT, check=True)
    outcome = launch(cuda, runs, ranks=8)
    assert outcome.returncode == 0, outcome.stdout
    return folder


def graph_in(run: Path) -> Path | None:
    """The exported cell of a run, if it is of one."""
    return graph if (graph := run / "network.mindir").exists() else None


@pytest.mark.parametrize("case", CASES)
def test_the_compilers_strategy_file_is_ours_item_for_item(compiled, case):
    run = compiled / case.replace(" ", "_")
    config = config_of(case)
    for stage in range(config.pipeline_stages):
        ours = strategy_of(rehearsed(config, CASES[case][0], graph_in(run)), config, stage)
        theirs = read_strategy(run / f"rank_{compiled_by(case, stage)[0]}" / config.strategy_save_file)
        if config.pipeline_stages > 1:
            theirs = without_compilers_own(theirs)
        assert theirs.stage == stage
        assert dict(theirs.operators) == dict(ours.operators)
        assert dict(theirs.layouts) == dict(ours.layouts)


@pytest.mark.parametrize("case", COMPARED_BETWEEN_RANKS)
def test_all_ranks_of_a_stage_write_the_same_strategy_file(compiled, case):
    run = compiled / case.replace(" ", "_")
    config = config_of(case)
    for stage in range(config.pipeline_stages):
        ranks = compiled_by(case, stage)
        files = [(run / f"rank_{rank}" / config.strategy_save_file).read_bytes() for rank in ranks]
        assert all(file[0] == NUMBER_OF_THE_FILE and file[1] < 128 for file in files)
        assert len({file[2:] for file in files}) == 1


def test_a_wrong_strategy_does_not_compile(cuda, tmp_path):
    run = tmp_path / "wrong"
    describe(run, "wrong", RunConfig(device_target="GPU", world_size=2), [0, 1])
    outcome = launch(cuda, [run], ranks=2)
    assert outcome.returncode == 1
    assert f": {run}: " in outcome.stdout
    assert "MatMul" in outcome.stdout
