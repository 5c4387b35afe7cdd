"""The parameter `network`, as a user writes it, and what it may name."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base.errors import ConfigError
from shardline.networks.declaration import Network
from shardline.networks.train_spec import TrainSpec
from shardline.recipes.lookup import check_network, train_spec
from shardline.recipes.mlp import MLP
from shardline.run.environment import PROJECT
from shardline.settings.run_config import RunConfig

MODULE = """
import dataclasses
from shardline.recipes.mlp import train_spec as mlp

def own(config):
    return dataclasses.replace(mlp(config), network=dataclasses.replace(mlp(config).network, name="own"))

def nothing(config):
    return None

def two(config, batch_size):
    return mlp(config)

def no_metric(config):
    return dataclasses.replace(mlp(config), metric="accuracy")

def no_loss(config):
    return dataclasses.replace(mlp(config), loss="hinge")

NUMBER = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's, importable."""
    (tmp_path / "a_users_module.py").write_text(MODULE)
    (tmp_path / "a_broken_module.py").write_text("import nonesuch\n")
    (tmp_path / "an_unfinished_module.py").write_text("def own(config):\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_users_module"
    sys.modules.pop("a_users_module", None)


def test_a_built_in_network_is_known_by_its_name():
    spec = train_spec(RunConfig(min_accuracy=0.5))
    assert spec.network == dataclasses.replace(MLP, stages=(0, 0, 0))
    assert (spec.loss, spec.metric.name) == ("cross_entropy", "accuracy")


def test_a_factory_of_the_user_s_is_called_with_the_parameters(module: str):
    assert train_spec(RunConfig(network=f"{module}:own")).network.name == "own"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("nonesuch.module:own", r"module nonesuch.module cannot be imported \(ModuleNotFoundError: No module named"),
        ("a_broken_module:own", r"a_broken_module cannot be imported .* No module named 'nonesuch'.*PYTHONPATH"),
        ("an_unfinished_module:own", r"cannot be imported \(IndentationError"),
        ("a_users_module:mine", r"a function mine in a_users_module, found none; .* are mlp, own, nothing, two"),
        ("a_users_module:NUMBER", r"a function NUMBER in a_users_module, found int"),
        ("a_users_module:two", r"its factory to take one argument, the RunConfig, found \(config, batch_size\)"),
        ("a_users_module:nothing", r"return a shardline.networks.train_spec.TrainSpec, found NoneType"),
        ("a_users_module:no_metric", r"TrainSpec.metric: expected name, .*, found str, which lacks name, "),
        ("a_users_module:no_loss", r"TrainSpec.loss: expected one of cross_entropy, found 'hinge'"),
    ],
)
@pytest.mark.usefixtures("module")
def test_what_is_wrong_with_a_factory_is_said(network: str, message: str):
    with pytest.raises(ConfigError, match=message):
        train_spec(RunConfig(network=network))


@pytest.mark.parametrize("name", ["gtp", "mlp:", ":own", "a b:own", "../mlp", "mlp\n", "os.system('x'):y", ""])
def test_what_is_no_name_of_a_network_is_refused_with_the_other_parameters(name: str):
    with pytest.raises(ConfigError, match="network: String should match pattern"):
        RunConfig.from_json(json.dumps({"network": name}))


def test_prepare_dataset_refuses_a_wrong_factory_at_once(tmp_path: Path):
    (tmp_path / "mine.py").write_text("def net(config):\n    return 3\n")
    parameters = ["--run-directory", str(tmp_path / "run"), "--set", "network=mine:net"]
    finished = subprocess.run(
        [sys.executable, "-m", "tasks.prepare_dataset", *parameters],
        cwd=PROJECT,
        env=os.environ | {"SHARDLINE_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith("ConfigError: network 'mine:net': expected mine:net to return a")
    assert not (tmp_path / "data").exists()


def test_on_one_rank_nothing_is_sharded():
    operators = train_spec(RunConfig(world_size=1)).network.operators(32)
    assert {operator.splits for operator in operators} == {None}


def test_a_spec_says_what_its_parts_lack():
    spec = train_spec(RunConfig())
    with pytest.raises(ConfigError, match=r"TrainSpec.network: expected name, .*, found object, which lacks name, "):
        dataclasses.replace(spec, network=object())
    with pytest.raises(ConfigError, match=r"TrainSpec.dataset: expected prepare, load, found int"):
        TrainSpec(network=MLP, dataset=3, metric=spec.metric)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistaken:
    """A layer that takes from the graph, or from a value, what they do not have."""

    name: str
    of_the_graph: bool

    def __call__(self, graph, x):
        return graph.conv2d(x) if self.of_the_graph else x.shap


@dataclasses.dataclass(frozen=True, kw_only=True)
class Softmax:
    """A layer that cuts what softmax sums over."""

    name: str

    def __call__(self, graph, x):
        return graph.softmax(self.name, x, ((1, 8),))


def own(layer) -> Network:
    return Network(name="own", sample_shape=(8,), layers=(layer,))


def test_an_operator_that_cannot_be_sharded_is_named_with_those_that_can():
    with pytest.raises(ConfigError, match=r"a layer takes conv2d, .*; there are matmul, .*gather"):
        own(Mistaken(name="layer", of_the_graph=True))


def test_a_mistake_in_a_users_layer_is_not_hidden():
    with pytest.raises(AttributeError, match="has no attribute 'shap'"):
        own(Mistaken(name="layer", of_the_graph=False))


def test_a_strategy_that_cuts_what_an_operator_takes_whole_is_refused():
    with pytest.raises(ConfigError, match=r"Softmax_probabilities: .* which Softmax takes whole"):
        check_network(own(Softmax(name="probabilities")), RunConfig())
