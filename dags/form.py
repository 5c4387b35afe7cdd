"""Trigger forms: every field of a `Parameters` class, in its order, as Airflow's `Param`.

What is typed is sent as it was typed, or refused. Airflow's own field for numbers does neither: it changes what lies
beyond a limit, and `3e-4` and `abc` to some number that it likes. So numbers are fields of text here, of a pattern;
JSON's numbers are taken as well, within their limits, and `Parameters` reads either. An empty field is a parameter that
is not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from shardline.settings.parameters import INTEGER, NUMBER, Parameters

_PATTERNS = {"integer": INTEGER, "number": NUMBER}
_DRAFT = {"$schema": "http://json-schema.org/draft-07/schema#"}
"""The draft of JSON Schema that fields are written in. Airflow checks every field's schema whenever it reads a DAG:
by this one in less than half of the time that the newest takes."""


def form(parameters: type[Parameters], defaults: Mapping[str, Any] | None = None) -> dict[str, Param]:
    """The form of `parameters`; `defaults` replaces some of its default values.

    Parameters whose default depends on others stay empty, and the help says what they then are.
    """
    chosen = defaults or {}
    empty = parameters.empty_means()
    fields = {}
    for name, schema in parameters.form_schema().items():
        default = schema.pop("default")
        shown = chosen.get(name, None if name in empty else default)
        said = [_shown(shown, schema), _if_empty(empty.get(name), default, shown, schema)]
        help_text = " ".join(filter(None, [schema.pop("description", ""), *said]))
        field = _DRAFT | _field(schema, default, empty.get(name))
        fields[name] = Param(shown, description_md=help_text or None, **field)
    return fields


def _field(schema: dict[str, Any], default: Any, empty: str | None) -> dict[str, Any]:
    """The schema of the field that Airflow shows: nothing is required of it, since everything has a default."""
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    nullable = types if "null" in types else [*types, "null"]
    if "enum" in schema:
        return schema | {"type": nullable} | _choices(schema, default, empty)
    number = next((kind for kind in types if kind in _PATTERNS), None)
    if number is None:
        return schema | {"type": nullable}
    # Text comes first, which makes it a field of text; several types without examples would make it one of JSON.
    examples = schema.get("examples", [default])
    return schema | {"type": ["string", number, "null"], "pattern": _PATTERNS[number], "examples": examples}


def _choices(schema: Mapping[str, Any], default: Any, empty: str | None) -> dict[str, Any]:
    """What can be chosen, and what it is called: nothing as well, which is the default."""
    labels = schema.get("values_display", {})
    choices = [choice for choice in schema["enum"] if choice is not None]
    nothing = f"Default ({empty.replace('**', '') if empty else labels.get(default, default)})"
    said = {str(choice): str(labels.get(choice, choice)) for choice in choices}
    return {"enum": [*choices, None], "values_display": said | {"null": labels.get("null", nothing)}}


def _shown(shown: Any, schema: Mapping[str, Any]) -> str:
    """The value in words, since the form shows it only until something else is typed."""
    words = _words(shown, schema)
    return f"Default: {words}." if words else ""


def _if_empty(depends: str | None, default: Any, shown: Any, schema: Mapping[str, Any]) -> str:
    """What an emptied field stands for, where that is not what it showed at first."""
    if shown == default:
        return ""
    words = depends or _words(default, schema)
    return f"Empty: {words}." if words else ""


def _words(value: Any, schema: Mapping[str, Any]) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or isinstance(value, list | tuple):
        return ""
    return str(schema.get("values_display", {}).get(value, value))
