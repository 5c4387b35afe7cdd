"""With `remove_redundancy` every slice is saved once, and no rank saves much more than another."""

from math import prod

from hypothesis import given, settings
from hypothesis import strategies as st

from shardline.checkpoint.strategy.layout import Layout
from shardline.training.redundancy import saved_by
from tests.shardline.checkpoint.merging.test_properties import layouts

RANKS = 8


@given(st.lists(st.tuples(layouts(2), st.integers(1, 1000)), min_size=1, max_size=6))
@settings(max_examples=60)
def test_every_slice_is_saved_by_exactly_one_of_its_holders(drawn):
    declared = {f"p{number}": layout for number, (layout, _) in enumerate(drawn)}
    sizes = {f"p{number}": size for number, (_, size) in enumerate(drawn)} | {"global_step": 4}
    chosen = [saved_by(rank, sizes, declared) for rank in range(RANKS)]
    assert all("global_step" in names for names in chosen)
    for name, layout in declared.items():
        for holders in layout.replica_groups():
            assert sum(name in chosen[rank] for rank in holders) == 1, name
        assert sum(name in names for names in chosen) == prod(layout.shards())


def test_replicated_tensors_are_spread_over_the_ranks():
    whole = {f"p{number}": Layout((4,), ((), ())) for number in range(8)}
    loads = [len(saved_by(rank, dict.fromkeys(whole, 100), whole)) for rank in range(4)]
    assert loads == [2, 2, 2, 2]
