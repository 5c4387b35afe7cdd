"""The strategy file as protocol buffers: `mindspore.straspb.ParallelStrategyMap`.

    ParallelStrategyMap { current_stage = 1; parallel_strategy_item = 2; parallel_layout_item = 3 }
    ParallelStrategyItem { node_name = 1; parallel_strategys = 2 { stage = 1; parallel_strategy = 2 { dim = 1 } } }
    ParallelLayoutItem { param_name = 1; parallel_layouts = 2 }
    ParallelLayouts { dev_matrix = 1 { dim }; tensor_map = 2 { dim }; param_split_shape = 3 { dim };
                      indices_offset = 4 { dim }; field = 5; opt_weight_shard_step = 6; opt_weight_shard_size = 7 }

One `tensor_map` message holds an axis for each dimension. Several hold the axes of one dimension each; an empty one
then follows where the tensor has one dimension, so that there are several.

A field of another number says something that these don't: it is refused, not passed over.
"""

from __future__ import annotations

from pathlib import Path

from shardline.base.errors import CheckpointError, LayoutError, UnsupportedFormat
from shardline.base.protobuf_wire import (
    LENGTH_DELIMITED,
    VARINT,
    Cursor,
    cursor_over,
    encode_bytes,
    encode_number,
    signed,
)
from shardline.checkpoint.strategy.layout import MOST_AXES, Layout
from shardline.checkpoint.strategy.strategy import OperatorStrategy, Strategy

_NOT_SPLIT = -1
_REQUIRED_LAYOUT_NUMBERS = {5: "field", 6: "opt_weight_shard_step", 7: "opt_weight_shard_size"}
_LISTS = {1: "dev_matrix", 2: "tensor_map", 3: "param_split_shape", 4: "indices_offset"}
_LONGEST_LIST = 2**17
"""As many numbers as there can be slices."""


def decode(content: bytes, path: Path) -> Strategy:
    """The strategy in `content`, which came from `path`."""
    cursor = cursor_over(content, path)
    current_stage: int | None = None
    operators: dict[str, OperatorStrategy] = {}
    layouts: dict[str, Layout] = {}
    while not cursor.at_end:
        match cursor.field():
            case (1, 0):
                current_stage = _unsigned(cursor, "current_stage")
            case (2, 2):
                name, item = _named(cursor.span())
                operator = _operator(item)
                # Files that MindSpore merged have an operator of one name in several stages.
                operators[f"{operator.stage}-{name}" if name in operators else name] = operator
            case (3, 2):
                start = cursor.position
                name, item = _named(cursor.span())
                if name in layouts:
                    raise cursor.corrupt(f"a second layout for {name!r}", start)
                layouts[name] = _layout(item, name)
            case (number, wire_type):
                raise _unknown_field(cursor, number, wire_type, "ParallelStrategyMap")
    if current_stage is None:
        raise cursor.corrupt("expected a strategy file, found no current_stage", 0)
    stage = next(iter(operators.values())).stage if operators else 0
    return Strategy(stage, operators, layouts, current_stage)


def encode(strategy: Strategy) -> bytes:
    """The bytes that MindSpore writes for `strategy`."""
    parts = [encode_number(1, strategy.current_stage)]
    for name, operator in strategy.operators.items():
        inputs = b"".join(encode_bytes(2, _encode_numbers(dims)) for dims in operator.strategy)
        item = encode_number(1, operator.stage) + inputs
        parts.append(encode_bytes(2, encode_bytes(1, name.encode()) + encode_bytes(2, item)))
    for name, layout in strategy.layouts.items():
        item = _encode_layout(layout)
        parts.append(encode_bytes(3, encode_bytes(1, name.encode()) + encode_bytes(2, item)))
    return b"".join(parts)


def _named(cursor: Cursor) -> tuple[str, Cursor]:
    """A message { name = 1; item = 2 }."""
    name: str | None = None
    item: Cursor | None = None
    while not cursor.at_end:
        match cursor.field():
            case (1, 2) if name is None:
                name = cursor.span().text()
            case (2, 2) if item is None:
                item = cursor.span()
            case (number, wire_type):
                raise _unknown_field(cursor, number, wire_type, "ParallelStrategyItem or ParallelLayoutItem")
    if name is None or item is None:
        raise cursor.corrupt("expected a name and an item, found neither or one of them")
    return name, item


def _operator(cursor: Cursor) -> OperatorStrategy:
    stage, inputs = 0, []
    while not cursor.at_end:
        match cursor.field():
            case (1, 0):
                stage = _unsigned(cursor, "a stage")
            case (2, 2):
                inputs.append(_numbers(cursor.span()))
            case (number, wire_type):
                raise _unknown_field(cursor, number, wire_type, "ParallelStrategys")
    return OperatorStrategy(stage, tuple(inputs))


def _layout(cursor: Cursor, name: str) -> Layout:
    lists: dict[int, list[tuple[int, ...]]] = {number: [] for number in _LISTS}
    numbers: dict[int, int] = {}
    while not cursor.at_end:
        number, wire_type = cursor.field()
        if number in lists and wire_type == LENGTH_DELIMITED:
            lists[number].append(_numbers(cursor.span()))
            if len(lists[number]) > (MOST_AXES + 1 if number == 2 else 1):
                raise cursor.corrupt(f"too many {_LISTS[number]} for {name!r}")
        elif number in _REQUIRED_LAYOUT_NUMBERS and wire_type == VARINT:
            numbers[number] = signed(cursor.varint())
            if not -(2**31) <= numbers[number] < 2**31:
                raise cursor.corrupt(f"{_REQUIRED_LAYOUT_NUMBERS[number]} of {name!r} is beyond 32 bits")
        else:
            raise _unknown_field(cursor, number, wire_type, f"the layout of {name!r}")
    missing = [field for number, field in _REQUIRED_LAYOUT_NUMBERS.items() if number not in numbers]
    if len(lists[1]) != 1 or not lists[2] or missing:
        raise cursor.corrupt(
            f"expected one dev_matrix, a tensor_map and {', '.join(_REQUIRED_LAYOUT_NUMBERS.values())} for {name!r}"
        )
    tensor_map, in_lists = _tensor_map(lists[2])
    try:
        return Layout(
            device_matrix=lists[1][0],
            tensor_map=tensor_map,
            field=numbers[5],
            optimizer_shard_step=numbers[6],
            optimizer_shard_size=numbers[7],
            param_split_shape=lists[3][0] if lists[3] else (),
            indices_offset=lists[4][0] if lists[4] else (),
            map_in_lists=in_lists,
        )
    except LayoutError as error:
        raise LayoutError(f"{cursor.file}, parameter {name}: {error}") from error


def _tensor_map(messages: list[tuple[int, ...]]) -> tuple[tuple[tuple[int, ...], ...], bool]:
    if len(messages) == 1:
        return tuple(() if axis == _NOT_SPLIT else (axis,) for axis in messages[0]), False
    return tuple(() if axes == (_NOT_SPLIT,) else axes for axes in messages if axes), True


def _encode_layout(layout: Layout) -> bytes:
    if layout.map_in_lists or any(len(axes) > 1 for axes in layout.tensor_map):
        messages = [axes or (_NOT_SPLIT,) for axes in layout.tensor_map]
        messages += [()] * (2 - len(messages))
    else:
        messages = [tuple(axis for axes in layout.tensor_map for axis in axes or (_NOT_SPLIT,))]
    return b"".join(
        [
            encode_bytes(1, _encode_numbers(layout.device_matrix)),
            *(encode_bytes(2, _encode_numbers(axes)) for axes in messages),
            encode_bytes(3, _encode_numbers(layout.param_split_shape)),
            encode_bytes(4, _encode_numbers(layout.indices_offset)),
            encode_number(5, layout.field),
            encode_number(6, layout.optimizer_shard_step),
            encode_number(7, layout.optimizer_shard_size),
        ]
    )


def _numbers(cursor: Cursor) -> tuple[int, ...]:
    """A message { repeated dim = 1 }, packed or not."""
    numbers = []
    while not cursor.at_end:
        match cursor.field():
            case (1, 0):
                numbers.append(signed(cursor.varint()))
            case (1, 2):
                packed = cursor.span()
                while not packed.at_end and len(numbers) <= _LONGEST_LIST:
                    numbers.append(signed(packed.varint()))
            case (number, wire_type):
                raise _unknown_field(cursor, number, wire_type, "a list of numbers")
        if len(numbers) > _LONGEST_LIST:
            raise cursor.corrupt(f"a list of more than {_LONGEST_LIST} numbers")
    return tuple(numbers)


def _unsigned(cursor: Cursor, what: str) -> int:
    value = cursor.varint()
    if value >= 2**32:
        raise cursor.corrupt(f"{what} is beyond 32 bits")
    return value


def _unknown_field(cursor: Cursor, number: int, wire_type: int, where: str) -> CheckpointError:
    """The error for a field that isn't in MindSpore 2.10's messages: the file is damaged, or a newer one's."""
    cursor.skip(wire_type)  # where the bytes are no field at all, that is the better explanation
    return UnsupportedFormat(
        f"{cursor.file}: {where} has a field {number} (wire type {wire_type}) that MindSpore 2.10's strategies don't "
        "have, or have once; the file is damaged, of another kind, or of a newer MindSpore and its meaning unknown here"
    )


def _encode_numbers(numbers: tuple[int, ...]) -> bytes:
    return b"".join(encode_number(1, number) for number in numbers)
