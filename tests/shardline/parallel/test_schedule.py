"""The schedule of a transformer: Megatron's exchanges, and no others."""

import dataclasses
from typing import Any

import pytest

from shardline.parallel.layouts import layouts_of
from shardline.parallel.placement import movement
from shardline.parallel.schedule import Compute, Move, MoveWeights, Schedule, schedule_of
from shardline.recipes.lookup import network_of
from shardline.settings.run_config import RunConfig


def scheduled(**parameters: Any) -> Schedule:
    config = RunConfig(network="gpt", layers=2, tensor_parallel=4, **parameters)
    network = network_of(config)
    return schedule_of(network.operators(config.batch_size), 8, layouts_of(network, config))


def weights_of(schedule: Schedule) -> list[Move]:
    return [move for step in schedule.steps if isinstance(step, MoveWeights) for move in step.moves]


def groups(moves, rank: int, *, back: bool) -> list[tuple[int, ...]]:
    """Who sums with `rank`, move by move, on the way there or back; moves that need nobody are left out."""
    ways = [(move.target, move.source) if back else (move.source, move.target) for move in moves]
    found = [movement(source, target.layout, rank).group for source, target in ways]
    return [group for group in found if group]


TENSOR_PARALLEL, DATA_PARALLEL = (0, 1, 2, 3), (1, 5)


def test_each_block_has_two_sums_there_and_two_back():
    moves = [step for step in scheduled().steps if isinstance(step, Move)]
    *inner, logits = groups(moves, rank=1, back=False)
    assert inner == [TENSOR_PARALLEL] * (1 + 2 * 2), "the embedding, then each block's attention and feed-forward"
    assert logits == tuple(range(8))
    differentiable = [move for move in moves if move.is_differentiable]
    assert groups(differentiable, rank=1, back=True) == [TENSOR_PARALLEL] * (2 * 2 + 1)


def test_query_key_and_value_take_the_same_moved_activation():
    taken = [
        step.inputs[0]
        for step in scheduled().steps
        if isinstance(step, Compute) and step.operator.name.startswith("MatMul_block1.attention.")
    ]
    assert taken[0] == taken[1] == taken[2] != taken[3]


def test_gradients_are_summed_over_the_data_parallel_ranks_alone():
    assert set(groups(weights_of(scheduled()), rank=1, back=True)) == {DATA_PARALLEL}
    assert groups(weights_of(scheduled()), rank=1, back=False) == []


def test_with_optimizer_sharding_weights_are_gathered_and_gradients_shared_out():
    weights = {move.value: move for move in weights_of(scheduled(enable_parallel_optimizer=True))}
    up = weights["block1.up.weight"]
    there, back = movement(up.source, up.target.layout, 1), movement(up.target, up.source.layout, 1)
    assert (there.group, there.padding, there.region) == (DATA_PARALLEL, ((0, 32), (0, 0)), None)
    assert (back.group, back.padding, back.region) == (DATA_PARALLEL, None, (slice(0, 32), slice(0, 64)))


def test_samples_are_cut_where_they_are_and_nothing_comes_back():
    first = next(step for step in scheduled().steps if isinstance(step, Move))
    assert (first.value, first.is_differentiable) == ("samples", False)
    assert movement(first.source, first.target.layout, 5).group == ()


@pytest.mark.parametrize("sharded", [False, True])
def test_every_rank_plans_the_same_exchanges(sharded):
    plan = scheduled(enable_parallel_optimizer=sharded)
    for move in (*weights_of(plan), *(step for step in plan.steps if isinstance(step, Move))):
        for source, target in ((move.source, move.target), (move.target, move.source)):
            found = [movement(source, target.layout, rank).group for rank in range(8)]
            assert all(found[other] == found[rank] for rank in range(8) for other in found[rank])


def test_a_reshape_follows_what_it_is_given():
    steps = [step for step in scheduled().steps if isinstance(step, Compute)]
    joined = next(step for step in steps if step.output == "block1.attention.joined")
    assert joined.inputs == ("block1.attention.positions_first",)
    assert [len(axes) for axes in joined.placement.layout.tensor_map] == [1, 1]
    assert dataclasses.replace(joined.placement, partial=()) == joined.placement


def test_weights_move_together_before_they_are_taken_and_not_too_many():
    config = RunConfig(network="gpt", layers=5, tensor_parallel=4)
    network = network_of(config)
    plan = schedule_of(network.operators(config.batch_size), 8, layouts_of(network, config))
    numbers = [len(step.moves) for step in plan.steps if isinstance(step, MoveWeights)]
    assert len(numbers) > 1
    assert set(numbers[:-1]) == {16}
    given = {"samples"}
    for step in plan.steps:
        if isinstance(step, MoveWeights):
            given.update(move.output for move in step.moves)
            continue
        moved = {name for name in (step.inputs if isinstance(step, Compute) else [step.value]) if "→" in name}
        assert moved <= given
        given.add(step.output)
