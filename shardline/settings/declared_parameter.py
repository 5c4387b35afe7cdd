"""Parameters that a training's description declares: their types and limits, and how the trigger form shows them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from typing_extensions import Self

from shardline.settings.parameters import Parameters

LONGEST_TEXT = 4096
Value = bool | int | float | str


class _Declared(Parameters):
    """What all parameters have: what the form calls them, and in which section they stand."""

    title: str | None = None
    description: str = ""
    section: str | None = None

    def _field(self, default: Any, **limits: Any) -> FieldInfo:
        extra: JsonDict = {"section": self.section} if self.section else {}
        said = " ".join(filter(None, (self.description, _said(limits.get("ge"), limits.get("le")))))
        info: FieldInfo = Field(default, title=self.title, description=said or None, json_schema_extra=extra, **limits)
        return info


def _said(minimum: float | None, maximum: float | None) -> str:
    """The limits, in words: the form knows them only when a value is refused."""
    if minimum is None:
        return "" if maximum is None else f"At most {maximum:g}."
    return f"At least {minimum:g}." if maximum is None else f"From {minimum:g} to {maximum:g}."


class BooleanParameter(_Declared):
    """On or off: `true` or `false` in a command."""

    type: Literal["boolean"]
    default: bool

    def form_field(self) -> tuple[Any, FieldInfo]:
        """The type and the field of this parameter in a form."""
        return bool, self._field(self.default)


class _Number(_Declared):
    """A number within limits, or one of a few."""

    def _check(self, default: float, minimum: float | None, maximum: float | None, choices: tuple[Any, ...]) -> None:
        if choices and (minimum is not None or maximum is not None):
            raise ValueError("has choices as well as a minimum or a maximum; keep one kind of limit")
        if minimum is not None and maximum is not None and minimum > maximum:
            raise ValueError(f"expected a minimum of at most the maximum, found {minimum} and {maximum}")
        if choices and default not in choices:
            raise ValueError(f"the default {default} is none of the choices {', '.join(map(str, choices))}")
        if default < (-math.inf if minimum is None else minimum) or default > (
            math.inf if maximum is None else maximum
        ):
            raise ValueError(f"the default {default} is not within its own limits")


class IntegerParameter(_Number):
    """A whole number."""

    type: Literal["integer"]
    default: int
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _limits(self) -> Self:
        self._check(self.default, self.minimum, self.maximum, self.choices)
        return self

    def form_field(self) -> tuple[Any, FieldInfo]:
        """The type and the field of this parameter in a form."""
        kind: Any = Literal[self.choices] if self.choices else int
        limits = {} if self.choices else {"ge": self.minimum, "le": self.maximum}
        return kind, self._field(self.default, **limits)


class NumberParameter(_Number):
    """A number, with or without a fraction: in a command, the shortest text that is read as the same number."""

    type: Literal["number"]
    default: float
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _limits(self) -> Self:
        self._check(self.default, self.minimum, self.maximum, ())
        return self

    def form_field(self) -> tuple[Any, FieldInfo]:
        """The type and the field of this parameter in a form."""
        return float, self._field(self.default, ge=self.minimum, le=self.maximum)


class TextParameter(_Declared):
    """A text: any, one of a few, or one that a regular expression describes as a whole.

    One that is not described does not begin with `-`, which programs take for an option.
    """

    type: Literal["text"]
    default: str
    choices: tuple[str, ...] = ()
    pattern: str | None = None

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            compiled(pattern)
        return pattern

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.choices and self.pattern is not None:
            raise ValueError("has choices as well as a pattern; keep one")
        if self.choices and self.default not in self.choices:
            raise ValueError(f"the default {self.default!r} is none of the choices {', '.join(self.choices)}")
        if not self.choices:
            self._value(self.default)
        return self

    def form_field(self) -> tuple[Any, FieldInfo]:
        """The type and the field of this parameter in a form."""
        if self.choices:
            return Literal[self.choices], self._field(self.default)
        return Annotated[str, AfterValidator(self._value)], self._field(self.default, max_length=LONGEST_TEXT)

    def _value(self, text: str) -> str:
        if "\0" in text:
            raise ValueError("expected a text without NUL, which no command line can have")
        if self.pattern is not None:
            if not re.fullmatch(self.pattern, text):
                raise ValueError(f"expected a text that {self.pattern} describes as a whole")
        elif text.startswith("-"):
            raise ValueError("expected a text that does not begin with -, which programs take for an option")
        return text


class PathParameter(_Declared):
    """The absolute path of a file or a folder that is there, in HOME or below SHARDLINE_ALLOWED_ROOTS."""

    type: Literal["file", "folder"]
    default: str

    @field_validator("default")
    @classmethod
    def _value(cls, path: str) -> str:
        if not path.startswith("/") or "\0" in path:
            raise ValueError("expected an absolute path")
        return path

    def form_field(self) -> tuple[Any, FieldInfo]:
        """The type and the field of this parameter in a form."""
        return Annotated[str, AfterValidator(self._value)], self._field(self.default, max_length=LONGEST_TEXT)


DeclaredParameter = Annotated[
    IntegerParameter | NumberParameter | TextParameter | BooleanParameter | PathParameter, Field(discriminator="type")
]


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression `pattern`; `ValueError` where it is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None


def spelt(value: Value) -> str:
    """A parameter's value as it stands in a command."""
    return str(value).lower() if isinstance(value, bool) else str(value)
