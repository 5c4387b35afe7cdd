"""What is refused before any rank starts, and how the message reads."""

import subprocess
import sys
from typing import Any

import pytest

from shardline.base.errors import ConfigError
from shardline.networks.declaration import Dense, Network
from shardline.networks.operators import Splits
from shardline.recipes.lookup import check_network, check_network_of, network_of, train_spec
from shardline.settings.run_config import RunConfig


def dense(**strategies: Splits | None) -> Network:
    return Network(name="one", sample_shape=(12,), layers=(Dense(name="d", inputs=12, outputs=8, **strategies),))


def refusal(network: Network, **parameters: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        check_network(network, RunConfig(**parameters))
    return str(refused.value)


@pytest.mark.parametrize("network", ["mlp", "gpt"])
def test_the_forms_help_says_which_numbers_of_cards_a_network_allows(network):
    """`world_size`: of both 1, or a multiple of 4, which is *Tensor parallel*, unless that is changed."""
    fits = []
    for cards in range(1, 17):
        try:
            check_network_of(RunConfig(network=network, world_size=cards, batch_size=48))
        except ConfigError:
            continue
        fits.append(cards)
    assert fits == [1, 4, 8, 12, 16]
    said = RunConfig.model_fields["world_size"].description
    assert "**mlp**: 1, or a multiple of 4. **gpt**: 1, or a multiple of *Tensor parallel*" in said
    assert RunConfig().tensor_parallel == 4


@pytest.mark.parametrize("world_size", [1, 4, 8, 12, 64])
def test_the_tutorials_network_fits_multiples_of_four_ranks(world_size):
    check_network_of(RunConfig(world_size=world_size, batch_size=192))


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_that_a_strategy_cannot_use_are_refused(world_size):
    with pytest.raises(ConfigError) as refused:
        check_network_of(RunConfig(world_size=world_size))
    assert "MatMul_layer1.weight: its strategy ((2, 1), (1, 2)) needs 4 ranks or a multiple" in str(refused.value)
    assert f"found world_size {world_size}" in str(refused.value)
    assert "MatMul_layer3.weight" in str(refused.value), "every problem is named at once"


def test_on_one_rank_strategies_are_ignored():
    network = network_of(RunConfig(world_size=1))
    assert all(operator.splits is None for operator in network.operators(32))
    check_network_of(RunConfig(world_size=1, batch_size=3))


def test_a_batch_that_a_strategy_cannot_cut_is_refused():
    with pytest.raises(ConfigError, match=r"cuts a dimension of size 33 .*into 2 parts.*batch_size"):
        check_network_of(RunConfig(batch_size=33))


def test_cards_need_a_batch_that_all_of_them_share():
    check_network_of(RunConfig(batch_size=36, device_target="CPU"))
    with pytest.raises(ConfigError, match=r"on GPU.*batch_size to be a multiple of that, found 36"):
        check_network_of(RunConfig(batch_size=36, device_target="GPU"))


def test_a_dimension_that_does_not_divide_is_named():
    message = refusal(dense(matmul=((1, 5), (5, 1))), world_size=5)
    assert "a dimension of size 12 (dimension 1 of input 0 and dimension 0 of input 1) into 5 parts" in message


def test_dimensions_that_belong_together_take_the_same_number():
    assert "into 2 and 4 parts; give both the same number" in refusal(dense(matmul=((1, 2), (4, 1))))


@pytest.mark.parametrize("matmul", [((2, 1),), ((2,), (1, 2)), ((2, 1), (1, 2), (1,))])
def test_a_strategy_of_another_form_is_refused(matmul):
    assert "expected a strategy with 2 and 2 numbers" in refusal(dense(matmul=matmul))


@pytest.mark.parametrize("add", [((0, 2), (2,)), ((1, -2), (-2,)), ((True, 2), (2,))])
def test_a_strategy_of_anything_but_positive_numbers_is_refused(add):
    assert "expected a strategy of whole numbers of at least 1" in refusal(dense(add=add))


def test_layers_that_do_not_fit_together_are_refused():
    with pytest.raises(ConfigError, match="b takes 9 inputs, but what comes before gives 8"):
        Network(
            name="two",
            sample_shape=(3, 4),
            layers=(Dense(name="a", inputs=12, outputs=8), Dense(name="b", inputs=9, outputs=2)),
        )


def test_networks_are_imported_without_mindspore_and_numpy():
    program = "import sys; import shardline.recipes.lookup; sys.exit(bool({'mindspore', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("network", ["os:environ", "json:loads", "sys:exit", "subprocess:run", "os.path:join"])
def test_python_s_own_modules_are_no_networks(network):
    with pytest.raises(ConfigError, match=r"is a module of Python's own, which declares no network"):
        train_spec(RunConfig(network=network))


@pytest.mark.parametrize("attribute", ["environ", "returns_environ"])
def test_what_else_stands_under_a_name_is_not_told(attribute, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET", "hush")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "holds_secrets.py").write_text(
        "from os import environ\n\n\ndef returns_environ(config):\n    return environ['A_SECRET']\n"
    )
    with pytest.raises(ConfigError, match=r"expected .* found (_Environ|str)") as refused:
        train_spec(RunConfig(network=f"holds_secrets:{attribute}"))
    assert "hush" not in str(refused.value)
