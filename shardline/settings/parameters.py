"""A task's parameters as one JSON document, declared once, from which the trigger form is made as well.

A subclass of `Parameters` is the schema of the form (`form_schema`), of the document that the DAG passes to its tasks,
and of the file that the first task leaves. Unknown keys are refused everywhere. This module imports neither Airflow nor
MindSpore: DAG files import it whenever they are parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import Self

from shardline.base.errors import ConfigError

_MOST_LINES, _MOST_CHARACTERS = 20, 500
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

INTEGER = r"^\s*[+-]?[0-9]{1,100}\s*$"
NUMBER = r"^\s*[+-]?([0-9]{1,100}\.?[0-9]{0,100}|\.[0-9]{1,100})([eE][+-]?[0-9]{1,4})?\s*$"
"""Numbers as people type them into a field of text: `8`, `0.001`, `3e-4`."""


def _plain(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("expected letters, digits, '.', '_' or '-', starting with a letter or digit, at most 64")
    return value


PlainName = Annotated[str, AfterValidator(_plain)]
"""A name that is safe as that of a file or a folder."""

Texts = Annotated[tuple[str, ...], FailFast()]
"""Several texts, of which the first wrong one is named."""


class Parameters(BaseModel):
    """Parameters that a user chooses; immutable, of exactly the declared types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def empty_means(cls) -> Mapping[str, str]:
        """Of the parameters whose default depends on others: what they are where nothing is given, in words."""
        return {}

    @classmethod
    def from_json(cls, document: str | bytes) -> Self:
        """The parameters in a JSON object; `ConfigError` names each wrong one and what it should be.

        A number may be a text, as a form sends it; null where a parameter cannot be nothing means that it is not given.
        """
        try:
            given = json.loads(document)
        except (ValueError, RecursionError) as error:  # ValueError: a number of too many digits, too
            raise ConfigError(f"the parameters are not JSON, or nested too deeply: {error}") from None
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        for name in unknown:
            del given[name]
        try:
            parameters = cls.model_validate(cls._as_typed(given) if isinstance(given, dict) else given)
        except ValidationError as error:
            raise ConfigError(cls._explain(unknown, error.errors())) from None
        if unknown:
            raise ConfigError(cls._explain(unknown, []))
        return parameters

    def to_json(self) -> str:
        """The document as it stands in a run directory: every parameter, sorted, indented."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    @classmethod
    def form_schema(cls) -> dict[str, dict[str, Any]]:
        """JSON schema by parameter, in the form's order: what an Airflow `Param` takes, and the default."""
        properties = cls.model_json_schema()["properties"]
        return {name: _flattened(schema) for name, schema in properties.items()}

    @classmethod
    def _as_typed(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Texts that are numbers become those where a number is expected; nothing, where something is, is not given.

        A form sends what was typed as text, and null for a field that was emptied. A text that is no number stays one,
        and is refused with all else that has the wrong type.
        """
        kinds = {name: _kinds(cls.model_fields[name].annotation) for name in given}
        typed = {name: _number(value, kinds[name]) for name, value in given.items()}
        return {name: value for name, value in typed.items() if value is not None or type(None) in kinds[name]}

    @classmethod
    def _explain(cls, unknown: Sequence[str], problems: Sequence[ErrorDetails]) -> str:
        """What is wrong, in lines, as many as a person reads; whatever was sent, the message stays short."""
        lines = [f"{_cut(repr(name)[1:-1])}: unknown parameter" for name in unknown]  # on one line, whatever it is
        lines[:1] = [f"{line}; known are {', '.join(cls.model_fields)}" for line in lines[:1]]
        for problem in problems:
            name = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")  # pydantic's, before what a validator raised
            found = f" (found {_cut(repr(problem['input']))})" if name else ""
            lines.append(f"{name}{': ' if name else ''}{_cut(message)}{found}")
        more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        return "bad parameters:\n  " + "\n  ".join([*lines[:_MOST_LINES], *more])


def _kinds(annotation: Any) -> frozenset[Any]:
    """The types of which a value may be: those of a union, or the one."""
    return frozenset(get_args(annotation)) or frozenset({annotation})


def _number(value: Any, kinds: frozenset[Any]) -> Any:
    if not isinstance(value, str) or str in kinds:
        return value
    if int in kinds and re.search(INTEGER, value):
        return int(value)
    return float(value) if float in kinds and re.search(NUMBER, value) else value


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


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
