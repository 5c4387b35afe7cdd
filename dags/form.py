"""Trigger forms: every field of a `Parameters` class, in its order, as Airflow's `Param`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from tasks.parameters import Parameters


def form(parameters: type[Parameters], defaults: Mapping[str, Any] | None = None) -> dict[str, Param]:
    """The form of `parameters`; `defaults` replaces some of its default values."""
    fields = {}
    for name, schema in parameters.form_schema().items():
        default = (defaults or {}).get(name, schema.pop("default"))
        if "description" in schema:
            schema["description_md"] = schema.pop("description")
        fields[name] = Param(default, **schema)
    return fields
