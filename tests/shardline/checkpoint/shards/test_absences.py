from pathlib import Path

import pytest

from shardline.base.errors import MissingShard
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.tensor_types import FLOAT32
from shardline.checkpoint.shards.absences import check_absences
from shardline.checkpoint.shards.selection import Selection
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import StagedLayouts

ROWS, COLUMN = Layout((2,), ((0,), ())), Layout((2,), ((0,),))
WEIGHTS = {"a.w": ROWS, "b.w": ROWS, "b.bias": COLUMN}
MOMENTS = {f"{state}.{name}": layout for state in ("moment1", "moment2") for name, layout in WEIGHTS.items()}
FILES = {"a.w": (2, 4), "b.w": (2, 4), "b.bias": (3,)}
WHERE = Path("weights")


def check(layouts, files=FILES, stages=1, **selection: object):
    headers = {name: TensorHeader(name, FLOAT32, shape) for name, shape in files.items()}
    names = list(layouts)
    split = tuple({name: layouts[name] for name in names[stage::stages]} for stage in range(stages))
    return check_absences(WHERE, headers, StagedLayouts(split, 2), Selection(**selection))


@pytest.mark.parametrize("stages", [1, 2])
def test_weights_alone_are_whole_where_all_that_is_missing_are_states(stages):
    (notice,) = check(WEIGHTS | MOMENTS, stages=stages)
    assert notice.startswith("the weights alone are there: 6 optimizer states that the strategy knows, such as moment1")
    (notice,) = check(WEIGHTS | MOMENTS, stages=stages, weights_only=True)
    assert notice.startswith("weights only: 6 optimizer states that the strategy knows, such as moment1")
    assert check(WEIGHTS) == ()


@pytest.mark.parametrize("states", [{"moments": 1}, {"accum": 1}, {"adam_m": 1}, {"prev": 1, "step_size": 1}])
def test_states_of_other_optimizers_may_be_missing_too(states):
    layouts = {f"{state}.{name}": layout for state in states for name, layout in WEIGHTS.items()}
    assert len(check(WEIGHTS | layouts)) == 1


def test_a_missing_weight_is_refused_by_name():
    files = {name: shape for name, shape in FILES.items() if name != "b.w"}
    for options in ({}, {"weights_only": True}):
        with pytest.raises(MissingShard, match=r"knows 1 parameter that no file holds: b\.w; .*--exclude"):
            check(WEIGHTS, files, **options)
    with pytest.raises(MissingShard, match=r"b\.w"):
        check(WEIGHTS | MOMENTS, files, include=("*.w",))


def test_a_missing_weight_may_be_left_out_by_name():
    assert check(WEIGHTS | {"b.w.lora_a": ROWS}, exclude=("*lora*",)) == ()
    assert check(WEIGHTS, {"a.w": (2, 4)}, include=("a.*",)) == ()


def test_adapters_and_copies_are_no_states():
    for name in ("b.w.lora_a", "ema.b.w", "linear.b.w"):
        with pytest.raises(MissingShard, match=f"no file holds: {name}"):
            check(WEIGHTS | {name: ROWS})


def test_a_part_of_the_states_is_refused():
    files = FILES | {f"moment1.{name}": shape for name, shape in FILES.items()}
    with pytest.raises(MissingShard, match=r"3 optimizer states that no file holds, such as moment2.*moment1.*there"):
        check(WEIGHTS | MOMENTS, files)
    assert "3 optimizer states" in check(WEIGHTS | MOMENTS, files, weights_only=True)[0]
    assert check(WEIGHTS | MOMENTS, files, exclude=("moment2.*",)) == ()


def test_a_list_of_names_asks_for_nothing_else():
    assert check(WEIGHTS, {"a.w": (2, 4)}, weights_only=True, trainable=("a.w",)) == ()


def test_sums_of_gradients_begin_anew():
    assert check(WEIGHTS | {f"accu_grads.{name}": layout for name, layout in WEIGHTS.items()}) == ()
