"""What a folder of MindFormers' Checkpoint 2.0 holds, from its metadata and its files' headers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardline.base.counts import counted
from shardline.base.progress import human_size
from shardline.checkpoint.formats.checkpoint2_storage import kind_of
from shardline.checkpoint.shards.checkpoint2 import all_iterations, find_iteration, plan_checkpoint2
from shardline.checkpoint.shards.held_slices import held_slices
from shardline.checkpoint.shards.plan import Plan, PlannedTensor
from shardline.checkpoint.shards.selection import Selection

KIND = "Checkpoint 2.0"
COLUMNS = ("tensor", "type", "shape", "cut into", "copies", "in", "layout")


def describe_checkpoint2(folder: Path, step: str | None = None) -> dict[str, Any]:
    """The iteration in `folder` that a merge would take, all that it holds, and which others are there."""
    iteration = find_iteration(folder, step)
    plan = plan_checkpoint2(iteration, Selection())
    return {
        "kind": KIND,
        "file": str(iteration.folder),
        "generation": "Checkpoint 2.0 of MindFormers 2",
        "step": iteration.step,
        "iteration": iteration.number,
        "iterations": [{"number": number, "complete": is_complete} for number, is_complete in all_iterations(folder)],
        "common": plan.slices.facts["common"],
        "notices": list(plan.slices.notices),
        "files": [
            {
                "path": file.path.name,
                "rank": file.rank,
                "holds": kind_of(file.path.name),
                "size": file.size,
                "tensors": len(file.schema.headers),
            }
            for file in plan.slices.files
        ],
        "tensors": [_tensor(tensor, plan) for tensor in plan.tensors],
    }


def _tensor(tensor: PlannedTensor, plan: Plan) -> dict[str, Any]:
    (copy,) = tensor.copies
    held = held_slices(copy, tensor.header.shape)
    kinds = {kind_of(plan.slices.files[holder].path.name) or "?" for holder in copy.holders}
    return {
        "name": tensor.header.name,
        "type": tensor.header.type.name,
        "shape": list(tensor.header.shape),
        "bytes": tensor.header.size,
        "cut_into": list(copy.layout.shards()),
        "copies": sorted({len(held.ranks(piece)) for piece in range(held.count)}),
        "in": "+".join(sorted(kinds)),
        "layout": str(copy.layout) if tensor.is_known else "whole on every rank",
    }


def total_of(described: dict[str, Any]) -> str:
    """A line for a person: which iteration, how much, and what there is to say of it."""
    files = described["files"]
    ranks, size = {file["rank"] for file in files}, sum(file["size"] for file in files)
    others = [
        f"{other['number']}{'' if other['complete'] else ' (not saved to its end)'}"
        for other in described["iterations"]
        if other["number"] != described["iteration"]
    ]
    parts = [
        f"iteration {'?' if described['iteration'] is None else described['iteration']}",
        f"{counted(len(described['tensors']), 'tensor')}, {human_size(size)} in {counted(len(files), 'file')} of "
        f"{counted(len(ranks), 'rank')}",
    ]
    parts += [f"other iterations: {', '.join(others)}"] if others else []
    notes = [f"\nnote: {notice}" for notice in described["notices"]]
    return ", ".join(parts) + "".join(notes)


def rows_of(described: dict[str, Any]) -> list[Sequence[object]]:
    """A row for each tensor, in the order of `COLUMNS`."""
    return [
        (
            item["name"],
            item["type"],
            item["shape"],
            item["cut_into"],
            "–".join(map(str, sorted({item["copies"][0], item["copies"][-1]}))),
            item["in"],
            item["layout"],
        )
        for item in described["tensors"]
    ]
