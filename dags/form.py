"""Trigger forms: every field of a `Parameters` class, in its order, as Airflow's `Param`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from shardline.settings.parameters import Parameters


def form(parameters: type[Parameters], defaults: Mapping[str, Any] | None = None) -> dict[str, Param]:
    """The form of `parameters`; `defaults` replaces some of its default values."""
    fields = {}
    for name, schema in parameters.form_schema().items():
        default = (defaults or {}).get(name, schema.pop("default"))
        help_text = f"{schema.pop('description', '')} {_said(default, schema)}".strip()
        fields[name] = Param(default, description_md=help_text or None, **schema)
    return fields


def _said(default: Any, schema: Mapping[str, Any]) -> str:
    """The default in words, since the form shows it only until something else is typed."""
    if isinstance(default, bool):
        return f"Default: {'on' if default else 'off'}."
    if default is None or isinstance(default, list | tuple):
        return ""
    return f"Default: {schema.get('values_display', {}).get(default, default)}."
