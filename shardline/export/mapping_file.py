"""A mapping as people write it: TOML, or JSON with the same members.

    leave_out = ["moment1.*", "moment2.*", "global_step"]   # what is not exported

    [config]                                                # config.json, as it will stand there
    model_type = "gpt2"

    [[tensors]]
    from = ["block{i}.attention.query.weight", "block{i}.attention.key.weight", "block{i}.attention.value.weight"]
    join = 1
    to = "transformer.h.{i-1}.attn.c_attn.weight"

A member that is none of `leave_out`, `config` and `tensors`, or of a tensor none of `from`, `to`, `join`, `transpose`
(true, or the order of the axes), `split`, `sizes` and `shape`, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from shardline.base.errors import ConfigError, CorruptShard
from shardline.base.json_object import parse_object
from shardline.export.mapping import NameMapping, Rule, Where
from shardline.settings.toml_file import LARGEST, Place, TomlFile

_MEMBERS = ("leave_out", "config", "tensors")
_OF_A_TENSOR = ("from", "to", "join", "transpose", "split", "sizes", "shape")
Find = Callable[[Place], Where]


def read_mapping(path: Path) -> NameMapping:
    """The mapping in the file at `path`, JSON where its name says so; `ConfigError` says what is wrong, and where."""
    document, where = _json(path) if path.suffix == ".json" else _toml(path)
    _refuse_others(document, _MEMBERS, where, ())
    tensors = document.get("tensors")
    if not isinstance(tensors, list) or not tensors:
        raise ConfigError(f"{where(('tensors',))}: expected [[tensors]], at least one rule, found none")
    return NameMapping(
        name=str(path),
        rules=tuple(_rule(tensor, ("tensors", number), where) for number, tensor in enumerate(tensors)),
        leave_out=_texts(document.get("leave_out", []), where(("leave_out",)), "leave_out"),
        config=_config(document.get("config", {}), where(("config",))),
        digest=blake3(path.read_bytes()).hexdigest(),
    )


def _toml(path: Path) -> tuple[Mapping[str, Any], Find]:
    file = TomlFile.read(path)
    return file.document, lambda place: Where(lambda: file.where(place))


def _json(path: Path) -> tuple[Mapping[str, Any], Find]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ConfigError(f"{path}: expected at most {LARGEST} bytes, found more")
        document = parse_object(content, path, "mapping")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except CorruptShard as error:
        raise ConfigError(str(error)) from None

    def where(place: Place) -> Where:
        around = place[:-1] if place and isinstance(place[-1], str) else place  # messages name the member themselves
        return Where(lambda: f"{path}: {_member(around)}" if around else str(path))

    return document, where


def _member(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def _rule(tensor: Any, place: Place, where: Find) -> Rule:
    if not isinstance(tensor, dict):
        raise ConfigError(f"{where(place)}: expected a rule with `from` and `to`, found {type(tensor).__name__}")
    _refuse_others(tensor, _OF_A_TENSOR, where, place)

    def at(name: str) -> Where:
        return where((*place, name))

    transpose = tensor.get("transpose", False)
    is_order = isinstance(transpose, list)
    if not is_order and not isinstance(transpose, bool):
        raise ConfigError(f"{at('transpose')}: expected true, or the order of the axes, found {transpose!r:.80}")
    return Rule(
        sources=_names(tensor.get("from"), at("from"), "from"),
        targets=_names(tensor.get("to"), at("to"), "to"),
        join=_axis(tensor.get("join"), at("join"), "join"),
        transpose=transpose is True,
        axes=_numbers(transpose, at("transpose"), "transpose") if is_order else None,
        split=_axis(tensor.get("split"), at("split"), "split"),
        sizes=_numbers(tensor.get("sizes"), at("sizes"), "sizes"),
        shape=_numbers(tensor.get("shape"), at("shape"), "shape"),
        where=where(place),
    )


def _refuse_others(members: Mapping[str, Any], known: Collection[str], where: Find, place: Place) -> None:
    for name in members:
        if name not in known:
            raise ConfigError(f"{where((*place, name))}: expected one of {', '.join(known)}, found {name!r:.80}")


def _names(value: Any, where: Where, member: str) -> tuple[str, ...]:
    return _texts([value] if isinstance(value, str) else value, where, member)


def _texts(value: Any, where: Where, member: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
        raise ConfigError(f"{where}: {member}: expected names, found {value!r:.80}")
    return tuple(value)


def _numbers(value: Any, where: Where, member: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(number) is int and number >= 0 for number in value):
        raise ConfigError(f"{where}: {member}: expected whole numbers of at least 0, found {value!r:.80}")
    return tuple(value)


def _axis(value: Any, where: Where, member: str) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise ConfigError(f"{where}: {member}: expected an axis, from 0, found {value!r:.80}")
    return value if isinstance(value, int) else None


def _config(value: Any, where: Where) -> Mapping[str, Any]:
    """What JSON can hold alone: TOML has dates and infinities as well."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: config: expected a table, found {type(value).__name__}")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: config: expected what config.json can hold: {error}") from None
    return value
