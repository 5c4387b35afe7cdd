"""Runs of the described examples, task by task, as their DAGs run them: each task a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shardline.run.directory import RunDirectory
from tests.patience import PATIENCE_S

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLES = PROJECT / "examples"


@dataclass
class Task:
    """A task that has ended: its exit code, what it printed, and its result."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        assert self.exit_code == 0, self.stdout + self.stderr
        return json.loads(self.stdout.strip().splitlines()[-1])


@dataclass
class Example:
    """A run of the training that a file in `examples` describes."""

    file: str
    home: Path

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.home / "runs" / self.file.removesuffix(".toml") / "run1")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "SHARDLINE_HOME": str(self.home),
            "SHARDLINE_TRAININGS": str(EXAMPLES),
            "SHARDLINE_ALLOWED_ROOTS": str(self.home.parent),
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", module, *arguments, "--run-directory", str(self.run.path)]
        return subprocess.Popen(
            command, cwd=PROJECT, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def task(self, module: str, *arguments: str) -> Task:
        process = self.start(module, *arguments)
        stdout, stderr = process.communicate(timeout=4 * PATIENCE_S)
        return Task(process.returncode, stdout, stderr)

    def prepare(self, **parameters: object) -> dict[str, Any]:
        document = json.dumps({"merged_format": "safetensors", **parameters})
        return self.task("tasks.prepare_training", self.file, "--parameters", document).result

    def train(self) -> Task:
        return self.task("tasks.launch", "tasks.train")

    def merge_to_promote(self) -> dict[str, Any]:
        """Merge, validate and promote; the version's description."""
        self.task("tasks.merge").result  # noqa: B018  that it ended well
        self.task("tasks.launch", "tasks.validate").result  # noqa: B018
        return self.task("tasks.promote").result


@pytest.fixture
def example(tmp_path):
    return lambda file: Example(file, tmp_path / "home")
