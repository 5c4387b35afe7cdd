"""Exporting a cell in a process of its own: what comes of it, and what its message says where it fails."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shardline.base.errors import ConfigError, RunDirectoryError
from shardline.networks.source_lines import written_to
from shardline.recipes.exporting import export
from shardline.recipes.lookup import check_network, network_of, train_spec
from shardline.run.environment import PROJECT
from shardline.settings.run_config import RunConfig
from tests import refused_cells

TUTORIAL = "shardline.recipes.examples.tutorial:tutorial"
REFUSALS = {
    "frozen": r"^network refused: expected all parameters to be trained, found norm\.",
    "unused": r"^network refused: expected construct to take every parameter, .* spare\.bias, spare\.weight",
    "no_cell": r"^network refused: expected build to give a mindspore\.nn\.Cell, found 'a cell'",
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_cell_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ConfigError, match=REFUSALS[name]):
        export(RunConfig(network=f"tests.refused_cells:{name}"), tmp_path / "network.mindir")
    assert not list(tmp_path.iterdir())


WHERE = {
    "within": (r"^network refused: TopK-op0 ({file}:{line}: return ops.topk(x, 10)[0]): TopK can't be sharded", "topk"),
    "nested": (
        r"^network refused: blocks-SequentialCell/1-SequentialCell/1-Dropout/Dropout-op0 "
        r"({file}:{line}: return self.blocks(x)): Dropout draws random numbers .*nn.Dropout with p=0",
        "Nested",
    ),
    "nested_branch": (r"over a tensor's values: {file}:{line}: if y.sum() > 0:), so", "if y.sum"),
    "loop": (r"over a tensor's values: {file}:{line}: while y.sum() < 100:), so", "while"),
    "tied": (r"found dense.bias by dense-Dense/BiasAdd-op0 ({file}:{line}: return self.dense(x) + ", "dense(x) +"),
    "strategy_of_whole": (r"ReduceSum-op0 ({file}:{line}: return y / self.sum(y, 1)): ReduceSum of", "self.sum(y"),
}
"""What the refusal says, and what the line of code has that it names: or the class whose `construct` ends with it."""


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("refused")
    command = [sys.executable, "-m", "tests.refused_exports", str(folder / "refused.json"), *WHERE]
    subprocess.run(
        command, cwd=PROJECT, env=os.environ | written_to(folder / "compiled"), check=True, capture_output=True
    )
    found: dict[str, str] = json.loads((folder / "refused.json").read_text())
    return found


@pytest.mark.parametrize("name", WHERE)
def test_a_refusal_names_the_line_of_code(refused, name):
    said, mark = WHERE[name]
    file = Path(refused_cells.__file__)
    lines = file.read_text().splitlines()
    start = lines.index("class Nested(nn.Cell):") if mark == "Nested" else 0
    mark = "self.blocks(x)" if mark == "Nested" else mark
    line = next(number for number, code in enumerate(lines[start:], start + 1) if mark in code)
    expected = re.sub(r"[()\[\]+]", r"\\\g<0>", said).format(file=file, line=line)
    assert re.search(expected, refused[name]), refused[name]


def test_what_mindspore_refuses_is_said_in_its_words_with_the_line_of_code(tmp_path):
    with pytest.raises(ConfigError) as refused:
        export(RunConfig(network="tests.refused_cells:mismatch"), tmp_path / "network.mindir")
    first, *others = str(refused.value).splitlines()
    lines = Path(refused_cells.__file__).read_text().splitlines()
    line = next(number for number, code in enumerate(lines, 1) if "self.dense(self.dense(" in code)
    assert first == (
        f"network 'tests.refused_cells:mismatch': its cell can't be exported ({refused_cells.__file__}:{line}):"
    )
    assert "MatMul" in others[0]
    assert not any("Call Stack" in other for other in others)


def test_a_run_is_not_trained_on_a_graph_that_is_not_there(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"network\.mindir is missing: the task prepare_dataset writes it"):
        train_spec(RunConfig(network=TUTORIAL), tmp_path / "network.mindir")


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "network.mindir"
    with pytest.MonkeyPatch.context() as patch:  # names that MindSpore's own check of paths refuses
        odd = tmp_path_factory.mktemp("of one, + two")
        patch.setattr(tempfile, "tempdir", str(odd))
        export(RunConfig(network=TUTORIAL, batch_size=32), file)
    return file


def test_what_a_cell_leaves_no_room_for_is_refused(graph):
    config = RunConfig(network=TUTORIAL, batch_size=32)
    check_network(network_of(config, graph), config)
    half = config.model_copy(update={"precision": "float16"})
    with pytest.raises(ConfigError, match=r"a cell of your own has the types .* expected precision float32"):
        check_network(network_of(half, graph), half)
    three = config.model_copy(update={"world_size": 3})
    with pytest.raises(ConfigError, match=r"MatMul_layer1\.weight: its strategy .* needs 4 ranks or a multiple"):
        check_network(network_of(three, graph), three)


def test_a_graph_of_another_batch_is_refused(graph):
    network = network_of(RunConfig(network=TUTORIAL, batch_size=32), graph)
    with pytest.raises(ConfigError, match=r"its graph is of batch_size 32, found 16"):
        network.operators(16)
