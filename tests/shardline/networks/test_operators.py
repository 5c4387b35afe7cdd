"""Operators as a graph records them: which dimensions belong together, and what is refused."""

import pytest

from shardline.base.errors import ConfigError
from shardline.networks.declaration import Dense, Network
from shardline.networks.graph import Graph
from shardline.networks.values import Fill, Value, Weight
from shardline.recipes.lookup import check_network_of, network_of
from shardline.settings.run_config import RunConfig


def reshaped(shape: tuple[int, ...], target: tuple[int, ...]) -> tuple[str, str, str]:
    graph = Graph()
    graph.reshape("y", Value("x", shape), target)
    notation = graph.operators[0].notation
    return notation.inputs[0], notation.output, notation.whole


@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ((8, 16, 32), (128, 32), ("abc", "ac", "b")),
        ((128, 32), (8, 16, 4, 8), ("ac", "abcd", "bd")),
        ((8, 1, 28, 28), (8, 784), ("abcd", "ab", "cd")),
        ((4, 1), (4,), ("ab", "a", "b")),
        ((4,), (4, 1), ("a", "ab", "b")),
    ],
)
def test_joined_dimensions_are_cut_along_the_outermost_alone(shape, target, expected):
    assert reshaped(shape, target) == expected


def test_what_has_other_elements_is_no_reshape():
    with pytest.raises(ConfigError, match=r"y: \[4, 6\] cannot be reshaped to \[5, 5\]"):
        Graph().reshape("y", Value("x", (4, 6)), (5, 5))


def test_shapes_that_do_not_fit_are_refused_with_both():
    graph, x = Graph(), Value("x", (4, 6))
    with pytest.raises(ConfigError, match=r"MatMul cannot take x \[4, 6\] and w \[5, 3\]: 6 and 5 differ"):
        graph.matmul("y", x, Weight("w", (5, 3), Fill(0.0)))
    with pytest.raises(ConfigError, match=r"Gather takes x with 2 dimensions, found \[7\]"):
        graph.gather("y", Weight("w", (5, 3), Fill(0.0)), Value("x", (7,)))


def test_what_an_operator_takes_whole_cannot_be_cut():
    graph, x = Graph(), Value("x", (4, 6))
    graph.softmax("y", x, ((2, 3),))
    (problem,) = graph.operators[0].problems(6)
    assert "Softmax_y: its strategy ((2, 3),) cuts dimension 1 of input 0, which Softmax takes whole" in problem


def test_a_parameter_belongs_to_one_operator():
    with pytest.raises(ConfigError, match=r"network two: the parameters a.bias, a.weight are used twice"):
        Network(name="two", sample_shape=(6,), layers=(Dense(name="a", inputs=6, outputs=6),) * 2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_size": 30}, "expected hidden_size to be a multiple of heads 4, found 30"),
        ({"heads": 2}, "expected heads to be a multiple of tensor_parallel 4, found 2"),
        ({"tensor_parallel": 3, "heads": 3, "hidden_size": 48}, "world_size to be a multiple of tensor_parallel 3"),
        ({"batch_size": 33}, "expected batch_size to be a multiple of .* data-parallel ranks, 2, found 33"),
        ({"precision": "bfloat16"}, "no bfloat16 multiplication on the CPU; expected precision float32 or float16"),
        (
            {"pipeline_stages": 3, "world_size": 12, "batch_size": 48, "device_target": "GPU"},
            "expected layers to be at least pipeline_stages 3, found 2",
        ),
        (
            {"pipeline_stages": 2, "world_size": 6, "device_target": "GPU", "tensor_parallel": 2},
            "expected world_size / pipeline_stages to be a multiple of tensor_parallel 2, found 3",
        ),
        (
            {"pipeline_stages": 2, "tensor_parallel": 2, "device_target": "GPU", "batch_size": 12, "micro_batches": 4},
            "expected batch_size / micro_batches to be a multiple of .* data-parallel ranks, 2, found 3",
        ),
        (
            {"pipeline_stages": 2, "device_target": "GPU", "batch_size": 12},
            "over all 4 cards of a stage; expected batch_size / micro_batches to be a multiple of that, found 6",
        ),
    ],
)
def test_a_transformer_that_cannot_be_cut_is_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        check_network_of(RunConfig(network="gpt", **parameters))


def test_a_transformer_is_cut_as_its_ranks_are_arranged():
    check_network_of(RunConfig(network="gpt"))
    check_network_of(RunConfig(network="gpt", world_size=6, tensor_parallel=2, batch_size=30))
    check_network_of(RunConfig(network="gpt", world_size=1, batch_size=3))
    network = network_of(RunConfig(network="gpt", precision="bfloat16", device_target="Ascend"))
    assert len({operator.name for operator in network.operators(8)}) == len(network.operators(8))
