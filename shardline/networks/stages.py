"""Pipeline stages: which a network's operators may be in, so that MindSpore's compiler can part it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shardline.networks.operators import FOLLOWERS, Operator

_NO_BORDER = (*FOLLOWERS, "LayerNorm")
"""Operators whose output can't go to the next stage: MindSpore refuses a Reshape there; LayerNorm gives a tuple."""


def stage_problems(operators: Iterable[Operator], stages: int) -> Iterator[str]:
    """What keeps the `operators` of a network from being `stages` stages: one sentence each, with its remedy."""
    operators = tuple(operators)
    found = [operator.stage for operator in operators]
    if sorted(set(found)) != list(range(stages)):
        yield (
            f"pipeline_stages is {stages}, but its layers are in the stages {sorted(set(found))}; change that, or have "
            "its factory give Network.stages: see docs/networks.md"
        )
        return
    if found != sorted(found):
        yield f"expected layers in the order of their stages, found {list(dict.fromkeys(found))}; change Network.stages"
        return
    trained = {operator.stage for operator in operators if operator.weights}
    if idle := sorted(set(found) - trained):
        yield f"expected a parameter in each stage, found none in {idle}; change Network.stages"
    yield from _border_problems(operators)


def _border_problems(operators: tuple[Operator, ...]) -> Iterator[str]:
    made_by = {operator.output.name: operator for operator in operators}
    for operator in operators:
        for value in operator.inputs:
            before = made_by.get(value.name, operator)
            if before.stage < operator.stage and before.primitive in _NO_BORDER:
                yield (
                    f"{value.name}, which a {before.primitive} gives, would go from stage {before.stage} to "
                    f"{operator.stage}; MindSpore takes the output of any other operator there: change Network.stages"
                )
