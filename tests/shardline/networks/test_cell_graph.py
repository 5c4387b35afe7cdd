"""Cells exported by MindSpore itself, read as operators; and what is refused, by the cell it stands in."""

from dataclasses import replace
from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from shardline.base.errors import ConfigError
from shardline.networks.cell_graph import operators_of
from shardline.networks.cell_network import built
from shardline.networks.operators import Notation
from shardline.parallel.layouts import strategy_of
from shardline.recipes.examples.tutorial import tutorial as tutorials_factory
from shardline.recipes.lookup import network_of
from shardline.recipes.mlp import MLP
from shardline.settings.run_config import RunConfig
from tests import cells, refused_cells

TUTORIAL = tutorials_factory(RunConfig()).network


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function: the operators of a `CellNetwork`, exported for four samples."""

    def operators(network):
        output = tmp_path_factory.mktemp("exported") / "network"
        samples = np.zeros((4, *network.sample_shape), network.sample_type)
        mindspore.export(built(network, 1).set_train(), Tensor(samples), file_name=str(output), file_format="MINDIR")
        return operators_of(output.with_suffix(".mindir"))

    return operators


@pytest.fixture(scope="module")
def tutorial(exported):
    return exported(TUTORIAL)


def test_operators_have_the_strategies_that_shard_gave_them(tutorial):
    assert {operator.name: operator.splits for operator in tutorial if operator.weights} == {
        "MatMul_layer1.weight": ((2, 1), (1, 2)),
        "Add_layer1.bias": None,
        "MatMul_layer2.weight": None,
        "Add_layer2.bias": None,
        "MatMul_layer3.weight": ((2, 2), (2, 1)),
        "Add_layer3.bias": None,
    }


def test_the_tutorials_cell_is_the_built_in_network(tutorial):
    def described(operators):
        return [(each.primitive, each.shapes, each.splits, [w.name for w, _ in each.weights]) for each in operators]

    flatten, *others = described(tutorial)
    reshape, *of_built_in = described(MLP.operators(4))
    assert others == of_built_in
    assert (flatten[0], flatten[1:]) == ("Flatten", reshape[1:])
    for world_size in (4, 8):
        config = RunConfig(world_size=world_size, optimizer="Adam", batch_size=4)
        cell, built_in = replace(TUTORIAL, graph=tutorial, batch_size=4), network_of(config)
        assert strategy_of(cell, config) == strategy_of(built_in, config)


def test_parameters_start_as_the_cells_own(tutorial):
    expected = built(TUTORIAL, 1)
    found = {weight.name: weight.initial.array for operator in tutorial for weight, _ in operator.weights}
    assert set(found) == {parameter.name for parameter in expected.get_parameters()}
    for parameter in expected.get_parameters():
        np.testing.assert_array_equal(found[parameter.name], parameter.asnumpy())


def test_every_operator_takes_what_one_before_it_gives(tutorial):
    given = {"samples"}
    for operator in tutorial:
        assert {value.name for value in operator.inputs} - {weight.name for weight, _ in operator.weights} <= given
        given.add(operator.output.name)
    assert tutorial[-1].output.shape == (4, 10)


def test_a_convolution_is_cut_by_samples_alone(exported):
    operators = exported(cells.convolutional(SimpleNamespace(min_accuracy=0.5)).network)
    first, second = (operator for operator in operators if operator.primitive == "Conv2D")
    assert (first.splits, first.notation.whole) == (((4, 1, 1, 1), (1, 1, 1, 1)), "chwkxij")
    assert second.attributes | {"pad_mode": "pad", "pad": (1, 1, 1, 1), "stride": (2, 2)} == second.attributes
    (pool,) = (operator for operator in operators if operator.primitive == "MaxPool")
    assert pool.notation == Notation(("nchw",), "ncyz", whole="hw")
    assert (pool.attributes["kernel_size"], pool.output.shape) == ((2, 2), (4, 8, 7, 7))


REFUSALS = {
    refused_cells.Branch: r"control flow depends on values that are known when it runs.*ops\.select",
    refused_cells.Dropped: r"dropout-Dropout/Dropout-op0: Dropout draws random numbers .* p=0",
    refused_cells.Half: r"Cast-op0: Cast changes a tensor's type",
    refused_cells.Unknown: r"CumSum can't be sharded on the CPU, and isn't known to give the same on every rank",
    refused_cells.Tied: r"each parameter .* by one operator, found dense\.bias by dense-Dense/BiasAdd-op0 and",
    refused_cells.TwoOutputs: r"expected the last operator to give the logits",
    refused_cells.StrategyOfWhole: r"ReduceSum of \[4, 10\] is computed whole .* as its strategy \(\(2, 1\),\) says",
    refused_cells.OutStrategy: r"dense-Dense/MatMul-op0: MatMul was given an out_strategy",
    refused_cells.Frozen: r"to be trained, found norm\.moving_mean, norm\.moving_variance with requires_grad False",
}


@pytest.mark.parametrize("build", REFUSALS)
def test_what_cannot_be_sharded_is_refused_where_it_stands(exported, build):
    with pytest.raises(ConfigError, match=REFUSALS[build]):
        exported(refused_cells.network_of(build))
