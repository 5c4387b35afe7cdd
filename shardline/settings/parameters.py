"""A task's parameters as one JSON document, declared once, from which the trigger form is made as well.

A subclass of `Parameters` is the schema of the form (`form_schema`), of the document that the DAG passes to its tasks,
and of the file that the first task leaves. Unknown keys are refused everywhere. This module imports neither Airflow nor
MindSpore: DAG files import it whenever they are parsed.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from shardline.base.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _plain(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("expected letters, digits, '.', '_' or '-', starting with a letter or digit, at most 64")
    return value


PlainName = Annotated[str, AfterValidator(_plain)]
"""A name that is safe as that of a file or a folder."""


class Parameters(BaseModel):
    """Parameters that a user chooses; immutable, of exactly the declared types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def from_json(cls, document: str | bytes) -> Self:
        """The parameters in a JSON object; `ConfigError` names each wrong one and what it should be."""
        try:
            return cls.model_validate(json.loads(document))
        except json.JSONDecodeError as error:
            raise ConfigError(f"the parameters are not JSON: {error}") from error
        except ValidationError as error:
            raise ConfigError(cls._explain(error)) from error

    def to_json(self) -> str:
        """The document as it stands in a run directory: every parameter, sorted, indented."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    @classmethod
    def form_schema(cls) -> dict[str, dict[str, Any]]:
        """JSON schema by parameter, in the form's order: what an Airflow `Param` takes, and the default."""
        properties = cls.model_json_schema()["properties"]
        return {name: _flattened(schema) for name, schema in properties.items()}

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        lines = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                lines.append(f"{name}: unknown parameter; known are {', '.join(cls.model_fields)}")
            else:
                message = problem["msg"].removeprefix("Value error, ")  # pydantic's, before what a validator raised
                lines.append(f"{name}: {message} (found {problem['input']!r})" if name else message)
        return "bad parameters:\n  " + "\n  ".join(lines)


def _flattened(schema: dict[str, Any]) -> dict[str, Any]:
    """`anyOf [T, null]`, as pydantic writes an optional parameter, becomes `type: [T, null]`, as the form reads it."""
    flat = {key: value for key, value in schema.items() if key not in ("anyOf", "const")}
    for option in schema.get("anyOf", []):
        flat.update({key: value for key, value in option.items() if key != "type"})
    if "anyOf" in schema:
        flat["type"] = [option["type"] for option in schema["anyOf"]]
    if "const" in schema:
        flat["enum"] = [schema["const"]]
    if "enum" in flat and "null" in flat["type"]:
        flat["enum"] = [*flat["enum"], None]
    return flat
