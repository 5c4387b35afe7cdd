"""What is a weight and what a state: made-up sets here, every optimizer of MindSpore in test_roles_in_mindspore."""

import pytest

from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.tensor_types import FLOAT32, TEXT
from shardline.checkpoint.shards.roles import Role, Trait, cut_like, fits, parameter_of, roles_of, would_be_cut
from shardline.checkpoint.strategy.layout import Layout, replicated

ROWS = Layout((4,), ((0,), ()))
WEIGHTS = {"dense.weight": (6, 4), "dense.bias": (6,), "head.weight": (2, 6)}


def prefixed(prefix, shapes=WEIGHTS, separator="."):
    return {f"{prefix}{separator}{name}": shape for name, shape in shapes.items()}


def found(shapes, role):
    roles = roles_of({name: Trait(shape) for name, shape in shapes.items()}, has_strategy=False)
    return [name for name, given in roles.items() if given is role]


@pytest.mark.parametrize(
    "states",
    [
        prefixed("momentum_buf") | {"step_t": ()},
        prefixed("moments") | {"global_step": (1,), "learning_rate": (), "momentum": ()},
        prefixed("moments") | prefixed("linear"),
        prefixed("optimizer.exp_avg") | prefixed("optimizer.exp_avg_sq") | {"optimizer.state_step": (1,)},
        prefixed("moment1.network"),
        prefixed("muon_m", {"dense.weight": (6, 4), "head.weight": (2, 6)}) | prefixed("adam_m", {"dense.bias": (6,)}),
        prefixed("eta", dict.fromkeys(WEIGHTS, ()), "_") | prefixed("ax_") | {"learning_rate": (100,)},
        prefixed("exp_avg_insta_row", {"dense.weight": (6,), "dense.bias": (1,), "head.weight": (2,)}, "_"),
        prefixed("exp_avg_sq_col", {"dense.weight": (4,), "dense.bias": (1,), "head.weight": (6,)}, "_"),
        prefixed("exp_avg", {"dense.weight": (3, 4), "dense.bias": (6,), "head.weight": (1, 6)}),
        prefixed("accu_grads") | {"scale_sense": (1,), "last_overflow_iterator_step": ()},
    ],
)
def test_states_are_told_from_weights(states):
    assert found(WEIGHTS | states, Role.WEIGHT) == list(WEIGHTS)
    assert found(WEIGHTS | states, Role.UNDECIDED) == []


@pytest.mark.parametrize(
    "layers",
    [
        {"linear.dense.weight": (6, 4), "linear.dense.bias": (6,)},
        {"accum.dense.weight": (6, 4), "moments.weight": (6, 4)},
        {"moments.dense.weight": (9, 9), "moments.dense.bias": (9,), "moments.head.weight": (1, 1, 1)},
        {"linear_head.weight": (2, 6), "mean_head.weight": (2, 6), "step_head.weight": (2, 6)},
        {"mean.head.weight": (2, 6), "linear.head.weight": (2, 6), "linear_proj.dense.weight": (6, 4)},
        {"encoder.dense.weight": (6, 4), "encoder.dense.bias": (6,), "encoder_head.weight": (2, 6)},
        {"bn.moving_mean": (6,), "bn.moving_variance": (6,), "dense.weight.lora_a": (2, 4)},
    ],
)
@pytest.mark.parametrize("beside", [{}, {"global_step": (1,), "epoch_num": (1,)}])
def test_layers_that_are_called_like_states_are_kept(layers, beside):
    kept = set(found(WEIGHTS | layers | beside, Role.WEIGHT)) | set(found(WEIGHTS | layers | beside, Role.UNDECIDED))
    assert kept == WEIGHTS.keys() | layers.keys()


def test_what_has_states_is_a_weight_for_certain():
    network = WEIGHTS | prefixed("linear") | prefixed("moments") | {"logit_scale": (1,), "momentum": ()}
    states = prefixed("moment1", network) | prefixed("moment2", network)
    assert found(network | states, Role.WEIGHT) == list(network)


def test_a_copy_of_the_network_is_undecided_beside_states():
    shapes = WEIGHTS | prefixed("ema") | prefixed("moment1") | prefixed("moment2")
    assert found(shapes, Role.UNDECIDED) == list(prefixed("ema"))
    assert found(shapes, Role.WEIGHT) == list(WEIGHTS)


def test_states_of_an_unheard_of_optimizer_are_kept_and_named_though_a_part_is_frozen():
    head = {"head.weight": (2, 6), "head.bias": (2,), "norm.gamma": (6,)}
    shapes = {"dense.weight": (6, 4)} | head | prefixed("zeta", head)
    assert found(shapes, Role.UNDECIDED) == []  # nothing says that there was an optimizer
    assert found(shapes | {"learning_rate": ()}, Role.UNDECIDED) == list(prefixed("zeta", head))
    beside_others = shapes | prefixed("moment1", head) | prefixed("moment2", head)
    assert found(beside_others, Role.UNDECIDED) == list(prefixed("zeta", head))


def test_a_frozen_layer_that_is_called_like_a_state_is_not_lost():
    frozen = {"linear.dense.weight": (6, 4), "linear.dense.bias": (6,)}
    shapes = WEIGHTS | frozen | prefixed("moment1") | prefixed("moment2") | {"global_step": (1,), "learning_rate": ()}
    assert found(shapes, Role.UNDECIDED) == list(frozen)


def test_a_hostile_name_takes_no_time():
    names = {"." * 2_000_000: (2,), "_a" * 1000: (2,), "a": (2,)}
    assert found(names, Role.WEIGHT) == list(names)


def test_a_network_of_one_parameter():
    shapes = {"w": (2, 2), "moments.w": (2, 2), "global_step": (1,), "learning_rate": ()}
    assert found(shapes, Role.WEIGHT) == ["w"]
    assert found({"w": (2, 2), "moments.w": (2, 2)}, Role.STATE) == []


def test_a_scalar_weight_is_no_counter():
    shapes = WEIGHTS | {"weight": (1,), "attention.scale": (), "bn.momentum": ()}
    assert found(shapes | {"global_step": ()}, Role.WEIGHT) == list(shapes)


def test_thors_matrices_are_states_where_thor_counted():
    thor = {
        "cov_step": (1,),
        "matrix_a_inv_0": (1, 1, 27, 27),
        "dense.matrix_a_cov": (6, 6),
        "dense.g_normalizer": (1,),
    }
    assert found(WEIGHTS | thor, Role.WEIGHT) == list(WEIGHTS)
    assert "dense.matrix_a_cov" in found(WEIGHTS | {"dense.matrix_a_cov": (6, 6)}, Role.WEIGHT)


def test_a_single_number_that_the_strategy_does_not_know_is_a_counter_or_undecided():
    traits = {"w": Trait((2, 4), ROWS), "cur_rank": Trait(()), "logit_scale": Trait((1,)), "a.temperature": Trait(())}
    traits |= {"__exception_save__": Trait((), is_discrete=True), "note": Trait((3,), is_text=True)}
    roles = roles_of(traits, has_strategy=True)
    assert [name for name, role in roles.items() if role is Role.BESIDE] == ["cur_rank", "__exception_save__", "note"]
    assert [name for name, role in roles.items() if role is Role.UNDECIDED] == ["logit_scale", "a.temperature"]
    with_states = {f"{state}.logit_scale": Trait((1,)) for state in ("moment1", "moment2")}
    with_states |= {f"{state}.w": Trait((2, 4), ROWS) for state in ("moment1", "moment2")}
    assert roles_of(traits | with_states, has_strategy=True)["logit_scale"] is Role.WEIGHT


def test_a_state_is_cut_as_its_parameter_is():
    columns = Layout((4,), ((), (0,)))
    traits = {"dense.weight": Trait((6, 4), ROWS), "exp_avg.dense.weight": Trait((6, 4), columns)}
    assert roles_of(traits, has_strategy=True)["exp_avg.dense.weight"] is Role.WEIGHT
    cut_further = Layout((4,), ((0,), ()), optimizer_shard_size=-1)
    assert fits(Trait((3, 4), cut_further), Trait((6, 4), ROWS))


@pytest.mark.parametrize(
    ("state", "parameter", "expected"),
    [
        ((6, 4), (6, 4), True),
        ((), (6, 4), True),
        ((6,), (6, 4), True),
        ((4,), (6, 4), True),
        ((5,), (6, 4), False),
        ((4, 6), (6, 4), False),
        ((12, 4), (6, 4), False),
        ((4, 2, 3), (4, 2, 3, 3), True),
    ],
)
def test_shapes_of_states(state, parameter, expected):
    assert fits(Trait(state), Trait(parameter)) is expected


def test_the_parameter_of_a_state_is_the_longest_that_it_ends_with():
    names = {"dense.weight", "linear.dense.weight"}
    assert parameter_of("moments.linear.dense.weight", names) == "linear.dense.weight"
    assert parameter_of("eta_dense.weight", names) == "dense.weight"
    assert parameter_of("xdense.weight", names) is None
    assert parameter_of(".dense.weight", names) is None


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("exp_avg.w", (2, 4), "w"),
        ("exp_avg_sq_row_w", (2,), "w"),
        ("exp_avg_sq_col_w", (4,), None),  # the columns are not cut, so that it is whole
        ("optimizer.exp_avg.w", (2, 4), "w"),
        ("ema.w", (8, 4), None),  # a whole copy
        ("ema.w", (2, 4), "w"),
        ("other", (2, 4), None),
        ("step.w", (), None),
        ("exp_avg.b", (4,), None),  # its parameter is not cut
    ],
)
def test_what_must_be_cut_like_a_parameter_is_found(name, shape, expected):
    layouts = {"w": ROWS, "b": replicated(4, 1)}
    headers = {each: TensorHeader(each, FLOAT32, size) for each, size in {"w": (2, 4), "b": (4,)}.items()}
    assert cut_like(TensorHeader(name, FLOAT32, shape), layouts, headers) == expected
    assert cut_like(TensorHeader(name, TEXT, (9,)), layouts, headers) is None


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("exp_avg.w", (8, 4), True),
        ("exp_avg_sq_w", (8, 4), True),
        ("ema.w", (8, 4), True),
        ("exp_avg_sq_row_w", (8,), True),
        ("exp_avg_sq_col_w", (4,), False),  # the columns are not cut
        ("ema.w", (8,), False),
        ("eta_w", (), False),
        ("exp_avg.b", (4,), False),  # its parameter is not cut
        ("exp_avg.gone", (8, 4), False),
        ("other", (8, 4), False),
    ],
)
def test_what_would_be_cut_by_a_new_strategy_is_found(name, shape, expected):
    layouts = {"w": ROWS, "b": replicated(4, 1), "gone": ROWS}
    headers = {each: TensorHeader(each, FLOAT32, size) for each, size in {"w": (8, 4), "b": (4,)}.items()}
    assert would_be_cut(TensorHeader(name, FLOAT32, shape), layouts, headers) is expected
