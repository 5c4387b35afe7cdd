"""Reading MindIR, MindSpore's file format of a compiled graph, as `mindspore.export` writes it; without MindSpore.

The format is the protocol buffer `mind_ir.proto` of MindSpore 2.10; `mindspore.train.mind_ir_pb2`, generated from it,
needs nothing of MindSpore. Every node names the entry of `primitives` that has its attributes; its `shape`
attribute has the types of what it gives; constants are nodes of their own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.base.errors import ConfigError

_REFERENCE = "REF::"
_CONSTANT = "Constant"
_TYPES = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "DOUBLE": "float64",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_WHOLE_NUMBERS = frozenset({"UINT8", "INT8", "UINT16", "INT16", "INT32", "INT64", "UINT32", "UINT64"})


@dataclass(frozen=True)
class TensorType:
    """The shape and the element type of a tensor, by NumPy's name, or by MindIR's where NumPy has none."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Monad:
    """What orders side effects; it has no value."""


@dataclass(frozen=True)
class Unreadable:
    """A constant of a kind that is not read here: a closure, a type, a dictionary…"""

    kind: str


@dataclass(frozen=True)
class Node:
    """One primitive applied to values, all by name."""

    name: str
    primitive: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[TensorType, ...]
    """The types of the tensors that it gives: several where it gives a tuple, none where it gives no tensor."""
    scope: str
    """The cells that it stands in, and its number among its like there: `layer1-Dense/MatMul-op0`."""


@dataclass(frozen=True)
class MindIr:
    """A graph, its nodes in the order of computation."""

    inputs: Mapping[str, TensorType]
    parameters: Mapping[str, tuple[str, NDArray[Any]]]
    """By the name that nodes use: the parameter's own name, and its value."""
    constants: Mapping[str, Any]
    """Numbers, text, tuples, arrays, `None`, `Monad` or `Unreadable`."""
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    functions: tuple[str, ...]
    """Other graphs, which this one calls: branches and loops."""


def read_mindir(file: Path) -> MindIr:
    """The graph in `file`; `ConfigError` where that is no MindIR."""
    model = _schema().ModelProto()
    try:
        model.ParseFromString(file.read_bytes())
    except _decode_error() as error:
        raise ConfigError(
            f"{file}: expected a graph as mindspore.export writes it, found something else ({error}); clear "
            "prepare_dataset, which writes it"
        ) from error
    primitives = {primitive.name: primitive for primitive in model.primitives}
    graph = model.graph
    return MindIr(
        inputs={given.name: _tensor_type(given.tensor[0]) for given in graph.input},
        parameters={stored.name: (_own_name(stored), _array(stored)) for stored in graph.parameter},
        constants={node.output[0]: _value(node.attribute[0]) for node in graph.node if node.op_type == _CONSTANT},
        nodes=tuple(_node(node, primitives) for node in graph.node if node.op_type != _CONSTANT),
        outputs=tuple(output.name for output in graph.output),
        functions=tuple(function.name for function in model.functions),
    )


@cache
def _schema() -> Any:
    package = importlib.util.find_spec("mindspore")
    assert package is not None and package.origin is not None, "MindSpore is among the project's requirements"  # noqa: PT018, S101
    path = Path(package.origin).parent / "train" / "mind_ir_pb2.py"
    spec = importlib.util.spec_from_file_location("mind_ir_pb2", path)
    assert spec is not None and spec.loader is not None, path  # noqa: PT018, S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _decode_error() -> type[Exception]:
    from google.protobuf.message import DecodeError

    error: type[Exception] = DecodeError
    return error


def _node(node: Any, primitives: Mapping[str, Any]) -> Node:
    reference = node.op_type.removeprefix(_REFERENCE)
    primitive = primitives.get(reference)
    return Node(
        name=node.output[0],
        primitive=reference if primitive is None else primitive.op_type,
        inputs=tuple(node.input),
        attributes={} if primitive is None else {given.name: _value(given) for given in primitive.attribute},
        outputs=tuple(found for given in node.attribute if given.name == "shape" for found in _output_types(given)),
        scope=node.domain.removeprefix("Default/"),
    )


def _output_types(attribute: Any) -> tuple[TensorType, ...]:
    if attribute.values:
        return tuple(_tensor_type(value.tensors[0]) for value in attribute.values if value.tensors)
    return tuple(_tensor_type(tensor) for tensor in attribute.tensors)


def _tensor_type(tensor: Any) -> TensorType:
    kind = _schema().TensorProto.DataType.Name(tensor.data_type)
    return TensorType(tuple(tensor.dims), _TYPES.get(kind, kind))


def _own_name(stored: Any) -> str:
    return str(stored.ref_key or stored.name.partition(":")[2])


def _array(tensor: Any) -> Any:
    kind = _tensor_type(tensor)
    if kind.dtype not in _TYPES.values() or tensor.HasField("external_data"):
        return Unreadable(f"a tensor of type {kind.dtype}")
    return np.frombuffer(tensor.raw_data, kind.dtype).reshape(kind.shape)


def _value(attribute: Any) -> Any:
    """What an attribute holds: a number alone stands in another field than one in a tuple."""
    kind = _schema().AttributeProto.AttributeType.Name(attribute.type)
    if kind in ("TUPLE", "LIST"):
        return tuple(_value(value) for value in attribute.values)
    if kind == "TENSORS":
        return _array(attribute.tensors[0])
    if kind in ("UMONAD", "IOMONAD"):
        return Monad()
    if kind == "NONE":
        return None
    return _scalar(attribute, kind)


def _scalar(attribute: Any, kind: str) -> Any:
    if kind in _WHOLE_NUMBERS:
        return attribute.ints[0] if attribute.ints else attribute.i
    if kind == "BOOL":
        return bool(attribute.ints[0] if attribute.ints else attribute.i)
    if kind == "FLOAT":
        return float(attribute.floats[0] if attribute.floats else attribute.f)
    if kind == "DOUBLE":
        return float(attribute.doubles[0] if attribute.doubles else attribute.d)
    if kind == "STRING":
        text = attribute.strings[0] if attribute.strings else attribute.s
        return text.decode() if isinstance(text, bytes) else text
    return Unreadable(kind.lower())
