"""The run of a training that a description file declares: prepared, and where its slices and strategies lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from shardline.base.errors import ConfigError
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.allowed_uploads import check_upload
from shardline.run.directory import Home, RunDirectory
from shardline.settings.declared_parameter import PathParameter
from shardline.settings.placeholders import filled, names_in
from shardline.settings.run_config import RESERVED_NAMES
from shardline.settings.training_config import TrainingConfig, config_of
from shardline.settings.training_file import read_training

_INTERPRETERS = ("python", "bash", "sh")


def prepare_training(
    run: RunDirectory, home: Home, file: Path, parameters: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Write the run's `config.json`, and make the folders that its program is to find.

    `ConfigError` where the description or a parameter is wrong, a path is none that `environment` allows, or the
    command cannot be started.
    """
    config = config_of(read_training(file), file, parameters)
    config = _with_real_paths(config, AllowedRoots.of(home, environment))
    if config.upload_to:
        check_upload(config.upload_to, home, environment)
    if config.champion_margin is not None and config.training.validation.chosen_metric is None:
        raise ConfigError(f"champion_margin compares metrics, and {file} has no command in validate; leave it empty")
    _make_folders(run, config)
    check_command(run, config, environment)
    run.write_config(config)
    return {"run_directory": str(run.path), "training": config.training.name, "world_size": config.world_size}


def _with_real_paths(config: TrainingConfig, roots: AllowedRoots) -> TrainingConfig:
    """`config` with every path that somebody chose absolute, without links, and allowed."""
    values = dict(config.values)
    for name, declared in config.training.parameters.items():
        if isinstance(declared, PathParameter):
            check = roots.file if declared.type == "file" else roots.folder
            values[name] = str(check(Path(str(values[name])), name))
    return config.model_copy(update={"values": values})


def _make_folders(run: RunDirectory, config: TrainingConfig) -> None:
    """The folder that slices are to appear in, known to everybody by the name that our own trainings' has."""
    folder = run.path / config.training.slices.folder
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = run.path / "src_checkpoints"
    if checkpoints.is_symlink():
        checkpoints.unlink()  # an earlier description said another folder
    if not checkpoints.exists():
        checkpoints.symlink_to(config.training.slices.folder, target_is_directory=True)
    elif not checkpoints.samefile(folder):
        raise ConfigError(
            f"{config.training_file}: slices.files: {checkpoints} is where shard sets lie, and there is another "
            "folder of that name beside the one that slices.files says; let the program save in it, or rename it"
        )


def check_command(run: RunDirectory, config: TrainingConfig, environment: Mapping[str, str]) -> None:
    """`ConfigError` where the program, the script that it is given, or the working directory is not there."""
    training, file = config.training, config.training_file
    texts = config.texts(run.path)
    folder = Path(filled(training.working_directory, texts))
    if folder.is_relative_to(run.path):
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_absolute() or not folder.is_dir():
        raise ConfigError(f"{file}: working_directory: expected an absolute path of a folder, found {folder}")
    for where, words in (("command", training.command), ("validate.command", training.validation.command)):
        if words:
            _check_program(f"{file}: {where}", _known(words, texts), folder, environment)


def _known(words: tuple[str, ...], texts: Mapping[str, str]) -> list[str | None]:
    """The words as they will be; None for those that a rank, a shard set or a merge decides."""
    return [filled(word, texts) if set(names_in(word)) <= texts.keys() else None for word in words]


def program_of(run: RunDirectory, config: TrainingConfig) -> list[tuple[Path, Path | None]]:
    """Where the program's code may lie, links resolved: the folder of the script that its command starts, or of the
    program itself, with that file; its working directory; the folder of the description.
    """
    texts = config.texts(run.path)
    words = _known(config.training.command, texts)
    folder = Path(filled(config.training.working_directory, texts))
    script = _script(words) or (words[0] if "/" in (words[0] or "") else None)
    places: list[tuple[Path, Path | None]] = []
    if script is not None:
        file = (folder / script).resolve()
        places.append((file.parent, file))
    description = Path(config.training_file).resolve()
    return [*places, (folder.resolve(), None), (description.parent, description)]


def _script(words: list[str | None]) -> str | None:
    """The script that an interpreter is given, where the command is of that kind."""
    script = next((word for word in words[1:] if word is None or not word.startswith("-")), None)
    is_script = script and script.endswith((".py", ".sh")) and Path(words[0] or "").name.startswith(_INTERPRETERS)
    return script if is_script else None


def _check_program(where: str, words: list[str | None], folder: Path, environment: Mapping[str, str]) -> None:
    program = words[0]
    if program is not None:
        found = _executable(program, folder, environment)
        if found is None:
            raise ConfigError(f"{where}: there is no program {program!r} on PATH or in {folder}; give its full path")
    script = _script(words)
    if script is not None and not (folder / script).is_file():
        raise ConfigError(f"{where}: there is no {folder / script}; give its full path, or {{training_folder}}")


def _executable(program: str, folder: Path, environment: Mapping[str, str]) -> str | None:
    if "/" in program:
        path = folder / program
        return str(path) if path.is_file() and os.access(path, os.X_OK) else None
    return shutil.which(program, path=environment.get("PATH"))


def strategies_of(run: RunDirectory, config: TrainingConfig) -> tuple[Path, ...]:
    """The strategy files that the program has left, in the order of their names; none that lies outside the run."""
    return tuple(sorted(set(_matching(run.path, config.training.slices.strategies))))


def slice_files(run: RunDirectory, config: TrainingConfig) -> frozenset[Path]:
    """The files that are slices by their places, links to the run resolved; none that lies outside the run."""
    return frozenset(_matching(run.path.resolve(), config.training.slices.files))


def slices_of(run: RunDirectory) -> tuple[Path, ...]:
    """The folders and files at which the run's slices lie, and nothing else that is worth keeping does.

    Where a described training saves beside other files of the run, these are what its patterns begin with.
    """
    checkpoints, root = run.checkpoints, run.path.resolve()
    if not checkpoints.is_symlink():
        return (checkpoints,)
    folder = checkpoints.resolve()
    if folder != root:
        return (folder,) if folder.is_relative_to(root) else ()
    config = run.read_any_config()
    if not isinstance(config, TrainingConfig):
        return ()
    begins = {PurePosixPath(glob).parts[0] for glob in config.training.slices.files}
    found = {path for glob in begins for path in run.path.glob(glob) if path.parent == run.path}
    return tuple(sorted(path for path in found if path.name not in RESERVED_NAMES))


def _matching(folder: Path, globs: tuple[str, ...]) -> Iterator[Path]:
    root = folder.resolve()
    for glob in globs:
        for path in folder.glob(glob):
            if path.is_file() and path.resolve().is_relative_to(root):
                yield path
