"""Prints docs/parameters.md, the table of a run's parameters, from their schema: `make docs` keeps it true."""

from __future__ import annotations

import json
from typing import Any

from shardline.settings.run_config import RunConfig

HEAD = """# Parameters

A run's parameters, as the trigger form shows them and as keys of the JSON document that the command line and REST take.
Every one has a default, which `null` and an empty field of the form mean too; an unknown key is refused. Numbers may be
JSON's or texts, `0.0003` or `"3e-4"`. This page is made from `shardline/settings/run_parameters.py`.
"""


def page() -> str:
    """The page in Markdown: one table for each section of the form."""
    sections: dict[str, list[str]] = {}
    for name, schema in RunConfig.form_schema().items():
        sections.setdefault(schema.get("section", "Main"), []).append(_row(name, schema))
    tables = [
        "\n".join(
            (
                f"## {section}\n",
                "| parameter | in the form | values | default | meaning |",
                "|---|---|---|---|---|",
                *rows,
            )
        )
        for section, rows in sections.items()
    ]
    return "\n\n".join((HEAD.strip(), *tables)) + "\n"


def _row(name: str, schema: dict[str, Any]) -> str:
    default = f"`{json.dumps(schema['default'])}`"
    empty = RunConfig.empty_means().get(name)
    meaning = " ".join(filter(None, [schema.get("description", ""), f"Not given: {empty}." if empty else ""]))
    return f"| `{name}` | {schema['title']} | {_values(schema)} | {default} | {meaning} |"


def _values(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(" ".join((_name(kind), *_limits(schema, kind))) for kind in types)


def _name(kind: str) -> str:
    return {"null": "nothing", "array": "list of addresses", "string": "text", "boolean": "`true`, `false`"}.get(
        kind, kind
    )


def _limits(schema: dict[str, Any], kind: str) -> list[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema and kind in ("integer", "number")]


if __name__ == "__main__":
    print(page(), end="")
