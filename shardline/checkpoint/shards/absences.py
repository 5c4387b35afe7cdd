"""Parameters that a strategy knows and the files don't hold: which of them may be missing.

A strategy that was saved in training knows the optimizer's states too, and weights are often saved without them: a
pretrained model, MindFormers' `checkpoint_network`. Where all that is missing are states, and there are none at all,
the weights are whole. A weight may be missing only where the selection leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from shardline.base.counts import counted, of_count
from shardline.base.errors import MissingShard
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.shards.roles import Role, roles_of
from shardline.checkpoint.shards.selection import Selection, traits_of
from shardline.checkpoint.strategy.strategy_file import StagedLayouts


def check_absences(
    where: Path,
    headers: Mapping[str, TensorHeader],
    layouts: StagedLayouts,
    selection: Selection,
    right_one: str = "the run that saved these files",
) -> tuple[str, ...]:
    """What to tell about parameters that `layouts` know and `headers`, those of the files at `where`, lack.

    `right_one` says whose strategy it should be.
    Raises `MissingShard` for a weight, and for states where others are there.
    """
    listed = None if selection.trainable is None else frozenset(selection.trainable)
    absent = sorted(
        name
        for name in layouts.saved_names.difference(headers)
        if selection.matches(name) and (listed is None or name in listed)
    )
    if not absent:
        return ()
    roles = roles_of(traits_of(headers, layouts.by_name), has_strategy=True)
    weights = [name for name in absent if roles[name] not in (Role.STATE, Role.BESIDE)]
    if weights:
        raise MissingShard(_missing_weights(where, weights, right_one))
    if selection.weights_only:
        return (
            f"weights only: {counted(len(absent), 'optimizer state')} that the strategy knows, such as {absent[0]}, "
            f"{of_count(len(absent), 'is', 'are')} left out",
        )
    known = layouts.names
    there = [name for name in headers if name in known and roles[name] is Role.STATE]
    if there:
        raise MissingShard(
            f"{where}: the strategy knows {counted(len(absent), 'optimizer state')} that no file holds, such as "
            f"{absent[0]}, though {there[0]} is there; give the strategy of {right_one}, or leave "
            "the states out (--weights-only)"
        )
    return (
        f"the weights alone are there: {counted(len(absent), 'optimizer state')} that the strategy knows, such as "
        f"{absent[0]}, {of_count(len(absent), 'is', 'are')} in none of the files",
    )


def _missing_weights(where: Path, names: Sequence[str], right_one: str) -> str:
    listed = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return (
        f"{where}: the strategy knows {counted(len(names), 'parameter')} that no file holds: {listed}; give the "
        f"strategy of {right_one}, or, where they need not be there, leave them out by name (--exclude)"
    )
