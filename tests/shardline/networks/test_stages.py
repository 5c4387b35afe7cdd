"""Which pipeline stage each layer is in, and what is refused."""

from dataclasses import replace

import pytest

from shardline.base.errors import ConfigError
from shardline.networks.declaration import Dense, Network, even_stages
from shardline.networks.graph import Graph
from shardline.networks.values import Value
from shardline.recipes.lookup import check_network, check_network_of, network_of
from shardline.recipes.mlp import MLP
from shardline.recipes.transformer import Embedding, Sizes
from shardline.settings.run_config import RunConfig
from tests.shardline.parallel.stages import GPT_IN_STAGES

TWO = RunConfig(device_target="Ascend", pipeline_stages=2)


def stages_of(config: RunConfig) -> dict[str, int]:
    return {weight.name: each.stage for each in network_of(config).operators(8) for weight, _ in each.weights}


def refusal(network: Network, config: RunConfig = TWO) -> str:
    with pytest.raises(ConfigError) as refused:
        check_network(network, config)
    return str(refused.value)


@pytest.mark.parametrize(
    ("layers", "stages", "expected"), [(3, 1, "000"), (3, 2, "001"), (4, 2, "0011"), (5, 3, "00112")]
)
def test_layers_are_shared_out_evenly_in_their_order(layers, stages, expected):
    assert "".join(map(str, even_stages(layers, stages))) == expected


def test_the_tutorials_network_is_parted_between_its_layers():
    check_network_of(TWO)
    check_network_of(RunConfig(device_target="GPU", pipeline_stages=3, world_size=12, batch_size=48))
    assert stages_of(TWO)["layer2.bias"] == 0
    assert stages_of(TWO)["layer3.weight"] == 1


def test_a_transformer_is_parted_between_its_blocks():
    config = RunConfig(**GPT_IN_STAGES)
    check_network_of(config)
    stages = stages_of(config)
    assert stages["embedding.tokens"] == stages["block1.up.weight"] == stages["block2.down.bias"] == 0
    assert stages["block3.norm1.gamma"] == stages["norm.beta"] == stages["head.weight"] == 1


def test_more_stages_than_layers_are_refused():
    with pytest.raises(ConfigError, match="mlp has 3 layers; expected pipeline_stages to be at most that, found 4"):
        check_network_of(RunConfig(device_target="GPU", pipeline_stages=4, world_size=16))


def test_a_network_that_does_not_say_its_stages_is_refused():
    assert "pipeline_stages is 2, but its layers are in the stages [0]" in refusal(replace(MLP, stages=()))
    assert "Network.stages: see docs/networks.md" in refusal(replace(MLP, stages=(0, 2, 2)))


def test_stages_come_one_after_another():
    assert "layers in the order of their stages, found [1, 0]" in refusal(replace(MLP, stages=(1, 0, 0)))


def test_every_layer_has_a_stage():
    with pytest.raises(ConfigError, match=r"expected stages to name one for each of 3 layers, found \(0, 1\)"):
        replace(MLP, stages=(0, 1))


class Reshaped:
    """A layer without parameters."""

    name = "reshaped"

    def __call__(self, graph: Graph, x: Value) -> Value:
        return graph.reshape("reshaped", x, (x.shape[0], 12))


def test_every_stage_has_parameters_and_no_reshape_goes_to_the_next():
    dense = Dense(name="dense", inputs=12, outputs=4)
    idle = Network(name="idle", sample_shape=(3, 4), layers=(Reshaped(), dense), stages=(0, 1))
    assert "expected a parameter in each stage, found none in [0]" in refusal(idle)
    assert "reshaped, which a Reshape gives, would go from stage 0 to 1" in refusal(idle)


def test_an_embedding_alone_is_no_stage():
    sizes = Sizes(layers=1, hidden_size=12, heads=1, positions=4, vocabulary=8)
    layers = (Embedding(name="embedding", sizes=sizes), Dense(name="dense", inputs=12, outputs=4))
    network = Network(name="short", sample_shape=(4,), sample_type="int32", layers=layers, stages=(0, 1))
    assert "embedding.flat, which a Reshape gives, would go from stage 0 to 1; MindSpore takes" in refusal(network)
