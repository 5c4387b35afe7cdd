"""Reading a training's description: a TOML file that an operator writes, from which a DAG is made.

What is wrong in it is said by file, line and key: of one key, as `shardline.settings.training` declares it, and between
several.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shardline.base.errors import ConfigError
from shardline.settings.declared_parameter import IntegerParameter
from shardline.settings.placeholders import check_names
from shardline.settings.toml_file import TomlFile
from shardline.settings.training import OF_A_RANK, OF_A_RUN, OF_MERGING, OF_RESUMING, Training

DAGS = frozenset({"sharded_training", "retraining", "merge_checkpoint", "housekeeping", "consume_model"})
"""Names of DAGs that there are without any description."""


def read_training(path: Path) -> Training:
    """The description in the TOML file `path`; `ConfigError` names file, line and key of everything that is wrong."""
    file = TomlFile.read(path)
    for place, found in _dates(file.document, ()):
        raise ConfigError(f"{file.where(place)}: {_spelt(place)}: expected no date or time, found {found}; quote it")
    try:
        training = Training.model_validate_json(json.dumps(file.document))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(file, problem) for problem in error.errors()[:20])) from None
    if problems := [f"{file.where(place)}: {_spelt(place)}: {problem}" for place, problem in _contradictions(training)]:
        raise ConfigError("\n".join(problems))
    return training


def _contradictions(training: Training) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong between several keys, each with its place."""
    if training.name in DAGS:
        yield ("name",), f"{training.name} is the name of a DAG of Shardline's own; choose another"
    yield from _problem_of_ranks(training)
    yield from _problem_of_steps(training)
    for place, text, known in _texts(training):
        if "\0" in text:
            yield place, "expected a text without NUL"
        try:
            check_names(text, known)
        except ValueError as error:
            yield place, str(error)
    for name in training.environment:
        if not name or "=" in name or "\0" in name:
            yield ("environment", name), "is no name of an environment variable"
        if name.startswith(("SHARDLINE_", "OMPI_", "PMIX_", "PRTE_")):
            yield ("environment", name), "is a variable that the launch itself sets; leave it out"
    if training.resume.arguments and "{resume_" in "".join(training.command):
        yield ("resume", "arguments"), "command has {resume_...} already; say it in one place"


def _problem_of_ranks(training: Training) -> Iterator[tuple[tuple[str | int, ...], str]]:
    ranks = training.ranks
    if isinstance(ranks, int):
        if not 1 <= ranks <= 4096:
            yield ("ranks",), f"expected 1 to 4096, found {ranks}"
        return
    named = _integer_parameter(training, ranks)
    if named is None:
        yield ("ranks",), f"expected a number, or {{NAME}} of a parameter of type integer, found {ranks!r}"
        return
    values = named.choices or (named.minimum, named.maximum)
    if any(value is None or not 1 <= value <= 4096 for value in values):
        yield ("parameters", ranks[1:-1]), "says how many ranks there are: limit it to 1 to 4096"


def _problem_of_steps(training: Training) -> Iterator[tuple[tuple[str | int, ...], str]]:
    steps, place = training.slices.steps_per_epoch, ("slices", "steps_per_epoch")
    if steps is None or (isinstance(steps, int) and steps >= 1):
        return
    named = None if isinstance(steps, int) else _integer_parameter(training, steps)
    if named is None:
        yield place, f"expected a number of at least 1, or {{NAME}} of a parameter of type integer, found {steps!r}"
    elif any(value is None or value < 1 for value in named.choices or (named.minimum,)):
        yield ("parameters", str(steps)[1:-1]), "says how many steps an epoch has: limit it to at least 1"


def _integer_parameter(training: Training, named: str) -> IntegerParameter | None:
    """The parameter of type integer whose name stands in braces."""
    is_named = named.startswith("{") and named.endswith("}")
    parameter = training.parameters.get(named[1:-1]) if is_named else None
    return parameter if isinstance(parameter, IntegerParameter) else None


def _texts(training: Training) -> Iterator[tuple[tuple[str | int, ...], str, tuple[str, ...]]]:
    """Every text with placeholders: its place, and which may stand there."""
    everywhere = (*training.parameters, *OF_A_RUN)
    of_ranks = (*everywhere, *OF_A_RANK, *OF_RESUMING)
    for number, text in enumerate(training.command):
        yield ("command", number), text, of_ranks
    for number, text in enumerate(training.resume.arguments):
        yield ("resume", "arguments", number), text, of_ranks
    for name, text in training.environment.items():
        yield ("environment", name), text, of_ranks
    for number, text in enumerate(training.validation.command):
        yield ("validate", "command", number), text, (*everywhere, *OF_MERGING)
    yield ("working_directory",), training.working_directory, everywhere


def _dates(value: Any, place: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Dates and times, which TOML has and no parameter is."""
    if isinstance(value, datetime.date | datetime.time):
        yield place, str(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _dates(item, (*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _dates(item, (*place, number))


def _explain(file: TomlFile, problem: ErrorDetails) -> str:
    place = _without_tags(problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        message = "is missing"
    elif problem["type"] == "extra_forbidden":
        message = "is no key that is known here"
    elif problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        place = (*place, "type")
        message = "expected type = 'integer', 'number', 'text', 'boolean', 'file' or 'folder'"
    elif not isinstance(problem["input"], dict):
        message = f"{message} (found {problem['input']!r:.200})"
    return f"{file.where(place)}: {_spelt(place)}: {message}"


def _without_tags(place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """pydantic's place of a problem without the variants of a union that stand in it, which no file has."""
    if place[:1] == ("parameters",):
        return place[:2] + place[3:]
    if place[:2] == ("slices", "steps_per_epoch"):
        return place[:2]
    return place[:1] if place[:1] == ("ranks",) else place


def _spelt(place: tuple[str | int, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")
