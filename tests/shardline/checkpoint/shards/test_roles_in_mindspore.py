"""Every optimizer of MindSpore, really constructed: `weights_only` keeps the network's own parameters, all, alone."""

import inspect

import pytest

from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.tensor_types import FLOAT32
from shardline.checkpoint.shards.selection import Selection

pytest.importorskip("mindspore")
from mindspore import Parameter, ParameterTuple, Tensor, mint, nn
from mindspore.experimental import optim as experimental

ARGUMENTS = {
    "mindspore.nn.Momentum": {"learning_rate": 0.1, "momentum": 0.9},
    "mindspore.nn.Lamb": {"learning_rate": 0.1},
    "mindspore.experimental.optim.SGD": {"lr": 0.1},
    "mindspore.mint.optim.SGD": {"lr": 0.1},
}
"""What has no default, beside the parameters."""
WRAPPERS = {"LARS", "OptTFTWrapper"}
"""They take an optimizer, not parameters."""
NOT_ON_CPUS = {"FusedAdamW"}
OPTIMIZERS = {
    f"{module.__name__}.{name}": kind
    for module in (nn, mint.optim, experimental)
    for name, kind in vars(module).items()
    if inspect.isclass(kind)
    and issubclass(kind, (nn.Optimizer, experimental.Optimizer))
    and kind not in (nn.Optimizer, experimental.Optimizer)
    and name not in WRAPPERS | NOT_ON_CPUS
}


class Inner(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(4, 6)


class Ordinary(nn.Cell):
    def __init__(self):
        super().__init__()
        self.dense, self.conv = nn.Dense(4, 6), nn.Conv2d(2, 3, 3)
        self.norm, self.bn, self.embedding = nn.LayerNorm((6,)), nn.BatchNorm1d(6), nn.Embedding(7, 4)
        self.logit_scale = Parameter(Tensor([1.0]), name="logit_scale")


class Misleading(Ordinary):
    """Layers that are called like states, and hold layers that are called like others."""

    def __init__(self):
        super().__init__()
        self.linear, self.teacher, self.exp_avg = Inner(), Inner(), Inner()
        self.accum, self.moments = nn.Dense(4, 6), nn.Dense(4, 6)


class Single(nn.Cell):
    def __init__(self):
        super().__init__()
        self.w = Parameter(Tensor([[1.0, 2.0], [3.0, 4.0]]), name="w")


def kept(network, optimizer, others=()):
    saved = [*network.get_parameters(), *others, *optimizer.get_parameters()]
    headers = {each.name: TensorHeader(each.name, FLOAT32, tuple(each.shape)) for each in saved}
    return Selection(weights_only=True).choose(headers, None)


def names_of(network):
    return {parameter.name for parameter in network.get_parameters()}


@pytest.mark.parametrize("frozen", [(), ("conv", "bn", "embedding")])
@pytest.mark.parametrize("network", [Ordinary, Misleading, Single])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_networks_own_parameters_are_kept(name, network, frozen):
    if name.endswith("FTRL") and network is Misleading:
        pytest.skip("the state linear.dense.weight and the layer's would be of one name")
    cell = network()
    own = names_of(cell)
    for parameter in cell.get_parameters():
        parameter.requires_grad = parameter.requires_grad and not parameter.name.startswith(frozen or ("\0",))
    choice = kept(cell, OPTIMIZERS[name](cell.trainable_params(), **ARGUMENTS.get(name, {})))
    assert set(choice.names) == own
    assert not any("nothing decides" in notice for notice in choice.notices)


def test_all_optimizers_are_tried():
    assert len(OPTIMIZERS) >= 28


def test_a_misleading_layer_that_is_frozen_is_kept_and_named():
    cell = Misleading()
    own = names_of(cell)
    for parameter in [*cell.linear.get_parameters(), *cell.dense.get_parameters()]:
        parameter.requires_grad = False
    choice = kept(cell, nn.Adam(cell.trainable_params()))
    assert set(choice.names) == own
    assert "nothing decides whether 2 of these (linear.dense.weight and linear.dense.bias)" in choice.notices[-1]


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": [0.1, 0.2, 0.3]},
        {"learning_rate": 0.1, "use_amsgrad": True},
        {"learning_rate": nn.CosineDecayLR(0.1, 0.2, 10), "weight_decay": 0.1},
    ],
)
def test_rates_and_further_states_are_left_out(options):
    cell = Ordinary()
    own = names_of(cell)
    groups = [{"params": cell.trainable_params()[:2], "lr": [0.3, 0.4]}, {"params": cell.trainable_params()[2:]}]
    for parameters in (cell.trainable_params(), groups):
        if parameters is groups and not isinstance(options["learning_rate"], float):
            continue
        assert set(kept(cell, nn.Adam(parameters, **options)).names) == own


def test_wrappers_and_loss_scales_are_left_out():
    cell = Ordinary()
    own = names_of(cell)
    optimizer = nn.LARS(nn.Momentum(cell.trainable_params(), 0.1, 0.9))
    scaled = nn.TrainOneStepWithLossScaleCell(
        nn.WithLossCell(cell, nn.MSELoss()),
        nn.Momentum(cell.trainable_params(), 0.1, 0.9),
        scale_sense=nn.DynamicLossScaleUpdateCell(1024, 2, 1000),
    )
    assert set(kept(cell, optimizer).names) == own
    assert set(kept(cell, scaled).names) == own


def test_an_average_of_the_weights_is_kept_and_named():
    cell = Ordinary()
    average = ParameterTuple(cell.trainable_params()).clone(prefix="ema")
    choice = kept(cell, nn.Adam(cell.trainable_params()), average)
    assert set(choice.names) == names_of(cell) | {parameter.name for parameter in average}
    assert "nothing decides" in choice.notices[-1]
