"""The command by which a described training judges a merged model: its last line is a JSON object of metrics."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from shardline.base.errors import ValidationError
from shardline.base.json_object import object_in
from shardline.run.directory import RunDirectory
from shardline.run.merged_model import MergedModel
from shardline.settings.placeholders import filled
from shardline.settings.training import OF_RESUMING
from shardline.settings.training_config import TrainingConfig

_LONGEST_LINE = 1024 * 1024
_MOST_SHOWN = 16 * 1024 * 1024


def metrics_of(run: RunDirectory, config: TrainingConfig, model: MergedModel) -> dict[str, float]:
    """The metrics that the command prints of `model`; `ValidationError` where it fails, or prints none."""
    asked = config.training.validation
    texts = config.texts(run.path) | {
        "merged_file": str(model.file),
        "step": "" if model.step is None else str(model.step),
    }
    command = [filled(word, texts) for word in asked.command]
    in_environment = texts | {"rank": "0"} | dict.fromkeys(OF_RESUMING, "")
    variables = {name: filled(text, in_environment) for name, text in config.training.environment.items()}
    folder = Path(filled(config.training.working_directory, texts))
    last, code = _run(command, folder, variables, asked.timeout)
    if code is None:
        raise ValidationError(f"the command of validate took longer than its timeout, {asked.timeout} s, and was ended")
    if code:
        how = f"left with exit code {code}" if code > 0 else f"was ended by signal {-code}"
        raise ValidationError(f"the command of validate {how}; it printed last: {last[:500] or '(nothing)'}")
    return _metrics_in(last)


def _run(command: list[str], folder: Path, variables: dict[str, str], timeout_s: float) -> tuple[str, int | None]:
    """The last line that the command printed which is not blank, and its exit code; None where its time was up."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | variables
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ValidationError(f"the command of validate cannot be started: {command[0]}: {error.strerror}") from error
    copy = _Copy(process)
    copy.start()
    try:
        code: int | None = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        code = None
    copy.join(timeout=5)  # its children may keep its output open for ever
    return copy.last.decode("utf-8", "backslashreplace").strip(), code


class _Copy(threading.Thread):
    """Copies what the command prints into this task's log, and keeps the last line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self.last = b""

    def run(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        shown = 0
        while line := self._process.stdout.readline(_LONGEST_LINE):
            self.last = line if line.strip() else self.last
            if shown < _MOST_SHOWN:
                # Indented, since a line that begins with a brace would be this task's own result.
                sys.stdout.write(f"  {line.decode('utf-8', 'backslashreplace')}")
            shown += len(line)
        sys.stdout.flush()


def _metrics_in(line: str) -> dict[str, float]:
    """The numbers of a JSON object, by name."""
    document = object_in(line)
    if document is None:
        raise ValidationError(
            "the command of validate: expected a JSON object of metrics on its last line, such as "
            f'{{"accuracy": 0.97}}, found {line[:500] or "nothing"!r}'
        )
    numbers = {str(name): value for name, value in document.items() if type(value) in (int, float)}
    if wrong := [name for name, value in numbers.items() if not math.isfinite(value)]:
        raise ValidationError(
            f"the command of validate: expected finite metrics, found {wrong[0]} = {numbers[wrong[0]]}"
        )
    return {name: float(value) for name, value in numbers.items()}
