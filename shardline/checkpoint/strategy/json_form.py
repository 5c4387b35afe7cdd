"""The strategy file as JSON, which MindSpore writes where the name ends in `.json`: compact, keys sorted.

{"current_stage", "parallel_strategy_item": {NODE: {"stage", "parallel_strategy": [[…]]}},
 "parallel_layout_item": {PARAMETER: {"dev_matrix", "tensor_map", "tensor_shape", "field", "opt_weight_shard_step",
                                      "opt_weight_shard_size", "param_split_shape"?, "indices_offset"?}}}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shardline.base.errors import CorruptShard, LayoutError, UnsupportedFormat
from shardline.base.json_object import parse_object
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy import OperatorStrategy, Strategy

_NOT_SPLIT = -1
_KEYS = {"current_stage", "parallel_strategy_item", "parallel_layout_item"}
_OPERATOR_KEYS = {"stage", "parallel_strategy"}
_LAYOUT_KEYS = {
    "dev_matrix",
    "tensor_map",
    "tensor_shape",
    "field",
    "opt_weight_shard_step",
    "opt_weight_shard_size",
    "param_split_shape",
    "indices_offset",
}
_OTHER_KINDS = {
    "slices": "the manifest of a shard set",
    "weight_map": "the index of a model in several files",
    "tensors": "the record of a merge",
}
"""What a JSON file is that has one of these keys."""


def decode(content: bytes, path: Path) -> Strategy:
    """The strategy in `content`, which came from `path`."""
    document = parse_object(content, path, "strategy")
    _check_kind(document, path)
    _check_keys(document, _KEYS, path, "the file")
    try:
        for name, item in document.get("parallel_strategy_item", {}).items():
            _check_keys(item, _OPERATOR_KEYS, path, f"operator {name}")
        for name, item in document["parallel_layout_item"].items():
            _check_keys(item, _LAYOUT_KEYS, path, f"parameter {name}")
        operators = {name: _operator(item) for name, item in document.get("parallel_strategy_item", {}).items()}
        layouts = {name: _layout(item, name, path) for name, item in document["parallel_layout_item"].items()}
        stage = next(iter(operators.values())).stage if operators else 0
        return Strategy(stage, operators, layouts, _unsigned(document["current_stage"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorruptShard(f"{path}: this JSON is no strategy file of MindSpore's: {error!r}") from error


def _check_kind(document: dict[str, Any], path: Path) -> None:
    if "parallel_layout_item" in document:
        return
    kind = next((kind for key, kind in _OTHER_KINDS.items() if key in document), None)
    found = f"{path} is {kind}" if kind else f"{path}: this JSON is no strategy file of MindSpore's"
    raise CorruptShard(
        f"{found}: expected parallel_layout_item, found {sorted(document)[:8]}; give the strategy file that the "
        "training saved (ckpt_strategy…, strategy.ckpt)"
    )


def _check_keys(item: Any, known: set[str], path: Path, where: str) -> None:
    unknown = sorted(set(item) - known) if isinstance(item, dict) else []
    if unknown:
        raise UnsupportedFormat(
            f"{path}, {where}: found {unknown[:8]}, which MindSpore 2.10's strategies don't have; the file is damaged, "
            "of another kind, or of a newer MindSpore whose meaning isn't known here"
        )


def encode(strategy: Strategy) -> bytes:
    """The bytes that MindSpore writes for `strategy`."""
    document = {
        "current_stage": strategy.current_stage,
        "parallel_strategy_item": {
            name: {"stage": operator.stage, "parallel_strategy": operator.strategy}
            for name, operator in strategy.operators.items()
        },
        "parallel_layout_item": {name: _encode_layout(layout) for name, layout in strategy.layouts.items()},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _operator(item: dict[str, Any]) -> OperatorStrategy:
    return OperatorStrategy(_unsigned(item["stage"]), tuple(_numbers(dims) for dims in item["parallel_strategy"]))


def _layout(item: dict[str, Any], name: str, path: Path) -> Layout:
    read: Callable[[str], tuple[int, ...]] = lambda key: _numbers(item.get(key, ()))  # noqa: E731
    entries = item["tensor_map"]
    in_lists = any(isinstance(entry, list) for entry in entries)
    axes = [_numbers(entry) if isinstance(entry, list) else (_number(entry),) for entry in entries]
    try:
        return Layout(
            device_matrix=_numbers(item["dev_matrix"]),
            tensor_map=tuple(() if entry == (_NOT_SPLIT,) else entry for entry in axes),
            optimizer_shard_step=_number(item["opt_weight_shard_step"]),
            optimizer_shard_size=_number(item["opt_weight_shard_size"]),
            field=_number(item["field"]),
            param_split_shape=read("param_split_shape"),
            indices_offset=read("indices_offset"),
            tensor_shape=_numbers(item["tensor_shape"]) if "tensor_shape" in item else None,
            map_in_lists=in_lists,
        )
    except LayoutError as error:
        raise LayoutError(f"{path}, parameter {name}: {error}") from error


def _encode_layout(layout: Layout) -> dict[str, Any]:
    in_lists = layout.map_in_lists or any(len(axes) > 1 for axes in layout.tensor_map)
    axes = [list(entry or (_NOT_SPLIT,)) for entry in layout.tensor_map]
    item: dict[str, Any] = {
        "dev_matrix": layout.device_matrix,
        "tensor_map": axes if in_lists else [entry[0] for entry in axes],
        "field": layout.field,
        "opt_weight_shard_step": layout.optimizer_shard_step,
        "opt_weight_shard_size": layout.optimizer_shard_size,
    }
    if layout.tensor_shape is not None:
        item["tensor_shape"] = layout.tensor_shape
    if layout.param_split_shape:
        item["param_split_shape"] = layout.param_split_shape
    if layout.indices_offset:
        item["indices_offset"] = layout.indices_offset
    return item


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(_number(value) for value in values)


def _unsigned(value: Any) -> int:
    if not 0 <= _number(value) < 2**32:
        raise ValueError(f"expected a number of at most 32 bits, found {value}")
    return _number(value)


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ValueError(f"expected an integer, found {value!r}")
    return value
