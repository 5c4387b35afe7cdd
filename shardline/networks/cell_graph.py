"""From a compiled graph to operators: what a MindSpore cell computes, as the planner of the CPU backend takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shardline.base.counts import counted
from shardline.base.errors import ConfigError
from shardline.networks.forms import ALIASES, FORMS, Form, Use, whole_notation
from shardline.networks.mindir import MindIr, Monad, Node, TensorType, Unreadable, read_mindir
from shardline.networks.operators import Operator, Splits
from shardline.networks.values import Constant, Given, Value, Weight

_NO_LINES: Mapping[str, str] = {}
_CHOICES = ("Switch", "SwitchLayer")
_TYPES = ("float32", "int32", "int64", "bool")
_FIRST_ALONE = ("LayerNorm",)  # they give tuples, of which `PrimitiveCell` takes the first
_OTHER_STRATEGIES = ("out_strategy", "in_layout", "out_layout", "self_define_shard")
_NCHW = (0, "NCHW")
_OF_FOUR = ("kernel_size", "strides", "stride", "dilation")  # kept for all dimensions, given for height and width


@dataclass(frozen=True)
class _Pack:
    """A tuple in the graph: of values, or what an operator gives."""

    items: tuple[Any, ...]


def operators_of(file: Path) -> tuple[Operator, ...]:
    """The operators of the graph in `file`: `operators_in`."""
    return operators_in(read_mindir(file))


def operators_in(graph: MindIr, lines: Mapping[str, str] = _NO_LINES) -> tuple[Operator, ...]:
    """The operators of `graph`, each with the strategy that it was given by `.shard()`.

    Values are named after the cells that give them. `ConfigError` names what can't be read, the cell it stands in, and
    the line of code that it comes from, where `lines` has one for that operator (`source_lines`).
    """
    return tuple(_Reader(graph, lines).operators)


class _Reader:
    """Goes through the nodes once, and remembers what every name of the graph stands for."""

    def __init__(self, graph: MindIr, lines: Mapping[str, str]) -> None:
        self.operators: list[Operator] = []
        self._lines = lines
        self._check_is_flat(graph)
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ConfigError(
                f"expected construct to take samples and to give logits, found {counted(len(graph.inputs), 'input')} "
                f"and {counted(len(graph.outputs), 'output')}; let it take and give one tensor"
            )
        ((samples, kind),) = graph.inputs.items()
        self._values: dict[str, Any] = dict(graph.constants)
        self._values[samples] = Value("samples", kind.shape)
        for name, (own_name, array) in graph.parameters.items():
            self._values[name] = _weight(own_name, array)
        for node in graph.nodes:
            self._values[node.name] = self._taken(node)
        self._check_ends(self._values[graph.outputs[0]])

    def _place(self, scope: str) -> str:
        """Where an operator stands in the network, and in the user's code."""
        return f"{scope} ({self._lines[scope]})" if scope in self._lines else scope

    def _check_is_flat(self, graph: MindIr) -> None:
        if not graph.functions:
            return
        chosen = [node.scope for node in graph.nodes if node.primitive in (*_CHOICES, *graph.functions)]
        places = dict.fromkeys(self._lines.get(scope, scope) for scope in chosen)
        raise ConfigError(
            "its control flow depends on values that are known when it runs (an if or a loop over a tensor's values: "
            f"{'; '.join(places or graph.functions)}), so it can't be cut ahead; choose by what is known before, such "
            "as shapes and settings, or by ops.select"
        )

    def _taken(self, node: Node) -> Any:
        """What the node gives; a refusal says where it stands."""
        try:
            return self._given_by(node)
        except ConfigError as error:
            raise ConfigError(f"{self._place(node.scope)}: {error}") from error

    def _given_by(self, node: Node) -> Any:
        taken = tuple(self._values[name] for name in node.inputs)
        if node.primitive == "UpdateState":
            return Monad()
        if node.primitive in ("Load", "Depend"):
            return taken[0]
        if node.primitive == "MakeTuple":
            return _Pack(taken)
        if node.primitive == "TupleGetItem":
            return _item(*taken)
        operator = _operator(node, taken)
        self.operators.append(operator)
        if len(node.outputs) > 1:
            others = (None,) * (len(node.outputs) - 1)
            return _Pack((operator.output, *others))
        return operator.output

    def _check_ends(self, logits: Any) -> None:
        if not self.operators or logits != self.operators[-1].output:
            raise ConfigError("expected the last operator to give the logits, found others after it; give logits alone")
        users: dict[str, list[str]] = {}
        for operator in self.operators:
            for weight, _ in operator.weights:
                users.setdefault(weight.name, []).append(self._place(operator.output.name))
        twice = {name: places for name, places in users.items() if len(places) > 1}
        if twice:
            found = "; ".join(f"{name} by {' and '.join(places)}" for name, places in sorted(twice.items()))
            raise ConfigError(
                f"expected each parameter to be taken by one operator, found {found}; give each operator a parameter "
                "of its own"
            )


def _weight(name: str, array: Any) -> Weight:
    if isinstance(array, Unreadable) or array.dtype != np.float32:
        found = array.kind if isinstance(array, Unreadable) else f"a tensor of type {array.dtype}"
        raise ConfigError(f"{name}: expected a parameter of type float32, found {found}; make it float32")
    return Weight(name, array.shape, Given(array))


def _item(pack: Any, index: Any) -> Any:
    found = pack.items[index] if isinstance(pack, _Pack) else None
    if found is None:
        raise ConfigError(f"takes a tuple's item {index}, which can't be sharded; use the first alone")
    return found


def _operator(node: Node, taken: tuple[Any, ...]) -> Operator:
    primitive = ALIASES.get(node.primitive, node.primitive)
    form = FORMS.get(primitive)
    if form is None or any(isinstance(each, (Monad, _Pack, Unreadable)) for each in taken):
        raise ConfigError(_refusal(node))
    _check_types(node, primitive)
    inputs = tuple(_tensor(node, number, each) for number, each in enumerate(taken[: form.tensors]))
    arguments = taken[form.tensors : form.tensors + form.arguments]
    attributes = _attributes(node, form, taken[form.tensors + form.arguments :])
    use = Use(tuple(value.shape for value in inputs), node.outputs[0].shape, arguments, attributes)
    notation, splits = form.notation(use), _splits(node)
    if notation is None and splits is not None:
        raise ConfigError(
            f"{node.primitive} of {_listed(use.shapes)} is computed whole on every rank of the CPU, and "
            f"can't be cut as its strategy {splits} says; take the strategy away"
        )
    notation = notation or whole_notation(use.shapes, use.output)
    attributes.pop("data_format", None)
    output = Value(node.scope, use.output)
    return Operator(primitive, inputs, output, notation, splits, attributes, arguments)


def _refusal(node: Node) -> str:
    """Why the primitive can't be taken, and what to do instead."""
    if node.attributes.get("side_effect_hidden"):
        return (
            f"{node.primitive} draws random numbers or remembers something, so that ranks would not compute the same; "
            "take it out of the cell, or switch it off (nn.Dropout with p=0)"
        )
    if node.primitive == "Cast":
        return (
            "Cast changes a tensor's type, and on the CPU a cell is computed in float32; leave the type as it is, and "
            "make constants Tensors of the type that they are needed in"
        )
    return (
        f"{node.primitive} can't be sharded on the CPU, and isn't known to give the same on every rank; compute it by "
        f"others: there are {', '.join(FORMS)}"
    )


def _check_types(node: Node, primitive: str) -> None:
    kinds: tuple[TensorType, ...] = node.outputs[:1] if primitive in _FIRST_ALONE else node.outputs
    if len(kinds) != 1 or kinds[0].dtype not in _TYPES:
        found = " and ".join(kind.dtype for kind in kinds) or "none"
        raise ConfigError(
            f"expected {primitive} to give one tensor of {', '.join(_TYPES)}, found {found}; "
            "on the CPU a cell is computed in float32"
        )


def _tensor(node: Node, number: int, found: Any) -> Value:
    """An input: a number is a constant without dimensions."""
    if isinstance(found, Value):
        return found
    if isinstance(found, bool | int | float):
        found = np.array(found, np.float32)
    if not isinstance(found, np.ndarray):
        raise ConfigError(f"expected input {number} of {node.primitive} to be a tensor, found {found!r}")
    return Constant(f"{node.scope}.input{number}", found.shape, Given(found))


def _attributes(node: Node, form: Form, last: tuple[Any, ...]) -> dict[str, Any]:
    """What the primitive's constructor takes."""
    attributes = dict(zip(form.attributes, last, strict=False))
    if len(last) != len(form.attributes) or any(isinstance(value, Value) for value in last):
        raise ConfigError(
            f"expected {node.primitive} to take {counted(form.tensors, 'tensor')} and "
            f"{', '.join(form.attributes)}, found {counted(len(node.inputs), 'input')}"
        )
    for name, argument in (form.renamed or {}).items():
        given = node.attributes[name]
        attributes[argument] = given[2:] if name in _OF_FOUR and isinstance(given, tuple) and len(given) == 4 else given
    if attributes.get("data_format", "NCHW") not in _NCHW:
        raise ConfigError(f"expected {node.primitive} of NCHW, found another order of dimensions")
    return attributes


def _splits(node: Node) -> Splits | None:
    for name in _OTHER_STRATEGIES:
        if node.attributes.get(name) is not None:
            raise ConfigError(
                f"{node.primitive} was given an {name}, which the CPU backend doesn't follow; give its "
                "inputs' strategy alone, as in shard(((2, 1), (1, 2)))"
            )
    return node.attributes.get("in_strategy")


def _listed(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)
