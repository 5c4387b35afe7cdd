"""All descriptions of trainings in the operator's folder, SHARDLINE_TRAININGS: the good ones, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.settings.training import Training
from shardline.settings.training_file import read_training

FOLDER = "SHARDLINE_TRAININGS"


@dataclass(frozen=True)
class Trainings:
    """The trainings by file, in the order of their names, and a message for each file that describes none."""

    found: Mapping[Path, Training] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def trainings_of(environment: Mapping[str, str]) -> Trainings:
    """The trainings that the environment's folder describes; none where it names no folder."""
    named = environment.get(FOLDER, "").strip()
    return trainings_in(Path(named)) if named else Trainings()


def trainings_in(folder: Path) -> Trainings:
    """The trainings in the files `*.toml` of `folder`; of two files with one name, the later is wrong."""
    if not folder.is_dir():
        return Trainings(problems=(f"{FOLDER}={folder}: there is no such folder",))
    found: dict[Path, Training] = {}
    problems = []
    for path in sorted(folder.glob("*.toml")):
        training = _read(path, found)
        if isinstance(training, ConfigError):
            problems.append(str(training))
        else:
            found[path] = training
    return Trainings(found, tuple(problems))


def _read(path: Path, found: Mapping[Path, Training]) -> Training | ConfigError:
    try:
        training = read_training(path)
    except ConfigError as error:
        return error
    for other, described in found.items():
        if described.name == training.name:
            return ConfigError(f"{path}: name: {training.name} is described by {other} already; choose another")
    return training


def training_file(name: str, environment: Mapping[str, str]) -> Path:
    """The file `name` in the operator's folder; `ConfigError` where the environment names no folder."""
    folder = environment.get(FOLDER, "").strip()
    if not folder:
        raise ConfigError(f"{FOLDER} is not set here: set it, as where DAGs are parsed, to the folder of {name}")
    return Path(folder) / name
