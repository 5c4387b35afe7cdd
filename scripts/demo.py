"""`make demo`: one real run of the DAG `sharded_training`, without a server, and a summary of what it left.

Airflow runs the DAG (`airflow dags test`) and writes its log as JSON lines; shown here is what the tasks themselves
say. The whole log stays in `demo.jsonl` in Airflow's home.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from scripts import local_airflow
from scripts.summary import summary
from shardline.base import errors
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from

DAG_ID = "sharded_training"
DAG_FILE = local_airflow.PROJECT / "dags" / f"{DAG_ID}.py"
_TASK = re.compile(r"\[DAG TEST\] (?P<event>starting|end task) task_id=(?P<task>\S+)")
_MESSAGE = re.compile(rf"({'|'.join(name for name in vars(errors) if name[0].isupper())}): ")


@dataclass
class Progress:
    """A run as its log tells it."""

    run_id: str = ""
    task: str = ""
    task_lines: list[str] = field(default_factory=list)  # what the task that ran last has said
    complaints: list[str] = field(default_factory=list)  # Airflow's own: exceptions, and lines that are no JSON
    started: dict[str, datetime] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _speaking: bool = False

    def follow(self, log: Iterable[str], copy: TextIO) -> None:
        """Take the log line by line, show what the tasks say as they say it, and write everything to `copy`."""
        for line in log:
            copy.write(line)
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                self.complaints.append(line.rstrip())
                continue
            self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        event = str(record.get("event", ""))
        if match := _TASK.match(event):
            self._start_or_end(match["task"], match["event"], datetime.fromisoformat(record["timestamp"][:-1]))
        elif event == "creating dag run":
            self.run_id = record["run_id"]
        elif str(record.get("logger", "")).endswith("SubprocessHook"):
            self._hear(event)
        self.complaints += [exception["exc_value"] for exception in record.get("exception") or []]

    def _start_or_end(self, task: str, event: str, time: datetime) -> None:
        if event == "starting":
            self.task, self.task_lines, self.started[task] = task, [], time
            print(f"\n── {task} ──", flush=True)
        else:
            self.seconds[task] = self.seconds.get(task, 0.0) + (time - self.started[task]).total_seconds()

    def _hear(self, event: str) -> None:
        """The operator says "Output:", then the task speaks, then the operator says how it ended."""
        if event == "Output:":
            self._speaking = True
        elif event.startswith("Command exited with return code"):
            self._speaking = False
        elif self._speaking:
            self.task_lines.append(event)
            print(event, flush=True)

    def message(self) -> str:
        """The task's own message, or else the last it said, or else what Airflow complained of."""
        starts = [place for place, line in enumerate(self.task_lines) if _MESSAGE.match(line)]
        if starts:
            return "\n".join(self.task_lines[starts[-1] :])
        return "\n".join((self.task_lines or self.complaints)[-10:])


def run(home: Path, conf: str) -> tuple[int, Progress]:
    """Run the DAG with the parameters in the JSON object `conf`; its exit code, and what the log told."""
    variables = local_airflow.environment(home, os.environ) | {"AIRFLOW__LOGGING__JSON_LOGS": "True"}
    local_airflow.initialise(home, variables)
    one_file = ["--bundle-name", "dags-folder", "--dagfile-path", str(DAG_FILE)]  # else all files are read once more
    test = [sys.executable, "-m", "airflow", "dags", "test", DAG_ID, "--conf", conf, *one_file]
    command = ["setpriv", "--pdeathsig", "TERM", *test]
    progress = Progress()
    with (
        (home / "demo.jsonl").open("w") as copy,
        subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as airflow,
    ):
        assert airflow.stdout is not None  # noqa: S101  PIPE
        progress.follow(airflow.stdout, copy)
    return airflow.returncode, progress


def report(home: Path, code: int, progress: Progress) -> int:
    """Print the summary of a run that succeeded, or why it failed; return the exit code."""
    if code:
        print(f"\nThe demo failed{f' in {progress.task}' if progress.task else ''}. Log: {home / 'demo.jsonl'}\n")
        print(progress.message(), flush=True)
        return 1
    directory = RunDirectory(_short(home_from(os.environ).run(DAG_ID, progress.run_id)))
    times = "  ".join(f"{task} {seconds:.0f} s" for task, seconds in progress.seconds.items())
    print(f"\n── {directory.path} ──\n{summary(directory)}\n\nTime       {times}\n\n{NEXT}", flush=True)
    return 0


def _short(path: Path) -> Path:
    """`path` from here, where it lies below: shorter to read, and as good to type."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


NEXT = """Next:
  make ui                        trigger it from a form, schedule it, clear only the merge
  make demo CONF='{"world_size": 4, "optimizer": "Momentum", "epochs": 2}'
  make help"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--conf", default="{}", help="JSON object of parameters that differ from their defaults")
    arguments.add_argument("--home", type=Path, default=local_airflow.HOME, help="Airflow's home")
    chosen = arguments.parse_args()
    home = chosen.home.absolute()
    try:
        return report(home, *run(home, chosen.conf))
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
