"""`make demo`, and what it makes of a run that fails."""

import io
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from scripts.demo import Progress
from scripts.local_airflow import PROJECT


def hear(*lines: str):
    """What the demo understands when one task says these lines and fails."""
    hook = "airflow.task.hooks.airflow.providers.standard.hooks.subprocess.SubprocessHook"
    events = [
        {"event": "creating dag run", "run_id": "manual__1"},
        {"event": "[DAG TEST] starting task_id=train map_index=-1", "timestamp": "2026-01-01T00:00:00.000000Z"},
        {"event": "Running command: […]", "logger": hook},
        {"event": "Output:", "logger": hook},
        *({"event": line, "logger": hook} for line in lines),
        {"event": "Command exited with return code 1", "logger": hook},
        {"event": "Task failed with exception", "exception": [{"exc_value": "Bash command failed."}]},
        {"event": "[DAG TEST] end task task_id=train map_index=-1", "timestamp": "2026-01-01T00:00:02.500000Z"},
    ]
    progress = Progress()
    progress.follow([json.dumps(event) + "\n" for event in events], io.StringIO())
    return progress


def test_the_tasks_own_message_is_the_last_word():
    progress = hear("epoch: 1 step: 20, loss is 2.1", "LaunchError: rank 3 was killed", "  its last lines: …")
    assert progress.message() == "LaunchError: rank 3 was killed\n  its last lines: …"
    assert (progress.run_id, progress.task, progress.seconds) == ("manual__1", "train", {"train": 2.5})


def test_a_defect_shows_the_end_of_its_traceback():
    assert hear("Traceback (most recent call last):", "KeyError: 'x'").message().endswith("KeyError: 'x'")


def test_without_a_task_airflows_complaint_is_shown():
    progress = Progress()
    refused = {"event": "Unhandled exception", "exception": [{"exc_value": "Invalid input for param epochs: 0 …"}]}
    progress.follow([json.dumps(refused)], io.StringIO())
    assert progress.message() == "Invalid input for param epochs: 0 …"


@pytest.fixture
def demo(airflow_database, tmp_path):
    """Run the demo with a document of parameters; return its exit code and what it prints."""

    def run(**conf: Any):
        finished = subprocess.run(
            [sys.executable, "-m", "scripts.demo", "--home", os.environ["AIRFLOW_HOME"], "--conf", json.dumps(conf)],
            cwd=PROJECT,
            env=os.environ | {"SHARDLINE_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        return finished.returncode, finished.stdout

    return run


def test_a_run_ends_with_its_summary(demo, tmp_path):
    code, printed = demo(world_size=1, epochs=1)
    assert code == 0
    version = tmp_path / "models" / "mnist-mlp" / "versions" / "1"
    report = json.loads((version / "report.json").read_text())
    assert f"Accuracy   {report['accuracy']:.3f} on 500 held-out images" in printed
    assert f"Version    1: {version}" in printed
    assert report["merged"]["digest"] in printed.partition("Merged     ")[2]
    assert "Proof      22 tensors read again" in printed
    assert "step 140, loss " in printed
    assert printed.rstrip().endswith("make help")


def test_a_failed_run_ends_with_the_tasks_message(demo):
    code, printed = demo(epohcs=1)
    assert code == 1
    assert "The demo failed in prepare_dataset." in printed
    assert printed.rpartition("ConfigError: ")[2].startswith("bad parameters:\n  epohcs: unknown parameter")
