from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore.parallel import strategy

from shardline.base.errors import LayoutError
from shardline.checkpoint.formats.checkpoint2_layout import RankedLayout, decode_layout, ranked_layout_of
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.merging.test_properties import layouts


def drawn_layouts() -> st.SearchStrategy[Layout]:
    return st.integers(1, 3).flatmap(layouts)


def test_the_document_is_mindsporess_to_dict():
    layout = RankedLayout(Layout((2, 2, 2), ((2, 0), (), (1,))), (8, 9, 10, 11, 12, 13, 14, 15), ("dp", "sp", "tp"))
    assert list(layout.to_document().items()) == [
        ("device_matrix", [2, 2, 2]),
        ("tensor_map", [[2, 0], -1, 1]),
        ("interleaved_parallel", False),
        ("alias_name", ["dp", "sp", "tp"]),
        ("rank_list", [8, 9, 10, 11, 12, 13, 14, 15]),
    ]
    assert decode_layout(layout.to_document()) == layout


def test_optimizer_sharding_becomes_axes_of_dimension_0():
    """Half of an axis of eight is cut off where the optimizer has four parts."""
    layout = Layout((2, 8), ((1,), ()), optimizer_shard_step=1, optimizer_shard_size=4)
    ranked = ranked_layout_of(layout, 16, (8, 3))
    assert ranked.layout == Layout((2, 2, 4), ((2, 0), ()))
    assert (ranked.ranks[0], ranked.aliases) == (16, ("a", "b", "c"))


@given(drawn_layouts())
def test_every_rank_keeps_its_slice(layout):
    try:
        ranked = ranked_layout_of(layout, 0, (1,) * len(layout.tensor_map))
    except LayoutError as error:
        assert "cannot say how the optimizer cuts" in str(error)  # noqa: PT017  # the others have to be said
        return
    assert np.array_equal(ranked.layout.slice_indices(), layout.slice_indices())
    expected = np.ravel_multi_index(tuple(layout.slice_indices().T), layout.shards())
    assert list(ranked.numbers) == expected.tolist()
    assert decode_layout(ranked.to_document()) == ranked
    for number, place in ranked.first_place_of_slice.items():
        assert ranked.numbers.index(number) == place
        assert ranked.replica_ids[place] == 0


@given(drawn_layouts())
def test_mindspore_itself_says_it_so(layout):
    """What a run in static graphs hands to MindFormers: `get_strategy_metadata`, of MindSpore 2.10."""
    try:
        ranked = ranked_layout_of(layout, 0, (1,) * len(layout.tensor_map))
    except LayoutError:
        return
    info = SimpleNamespace(
        opt_weight_shard_size=layout.optimizer_shard_size,
        dev_matrix=list(layout.device_matrix),
        tensor_map=[list(axes) or [-1] for axes in layout.tensor_map],
        rank_list=list(range(layout.world_size)),
        tensor_type="Float32",
        tensor_shape=[1],
    )
    reader = object.__new__(strategy._NetStrategyInfo)
    theirs = decode_layout(
        {key: list(value) if isinstance(value, tuple) else value for key, value in _lists(reader._layout_process(info))}
    )
    assert theirs.numbers == ranked.numbers
    assert theirs.aliases[: len(ranked.aliases)] == ranked.aliases


def _lists(processed):
    document = processed[0].to_dict()
    document["tensor_map"] = [list(entry) if isinstance(entry, tuple) else entry for entry in document["tensor_map"]]
    return document.items()


@pytest.mark.parametrize("axes", [1, 26, 27])
def test_axes_are_named_by_letters(axes):
    layout = Layout((1,) * axes, ((),))
    if axes <= 26:
        assert len(ranked_layout_of(layout, 0, (4,)).aliases) == axes
        return
    with pytest.raises(LayoutError, match="names axes by letters"):
        ranked_layout_of(layout, 0, (4,))
