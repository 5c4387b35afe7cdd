"""The DAGs of described trainings: one a file, whatever the others are like."""

import json
import os
import subprocess
import sys

import pytest

from scripts.local_airflow import PROJECT
from shardline.run.environment import home_from
from shardline.store.model_store import current

GOOD = """
name = "{name}"
command = ["true"]
[parameters.learning_rate]
type = "number"
default = 0.5
maximum = 1
[parameters.size]
type = "text"
default = "small"
choices = ["small", "large"]
[slices]
files = "*.ckpt"
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    def load_folder(**files: str):
        from airflow.dag_processing.dagbag import DagBag

        monkeypatch.setenv("SHARDLINE_TRAININGS", str(tmp_path))
        for name, text in files.items():
            (tmp_path / f"{name}.toml").write_text(text)
        bags = [DagBag(PROJECT / "dags" / file) for file in ("trainings.py", "broken_trainings.py")]
        errors = [error for bag in bags for error in bag.import_errors.values()]
        return bags[0].dags, errors

    return load_folder


def test_a_file_is_a_dag_with_the_eight_tasks_and_its_own_form(load, dagbag):
    dags, errors = load(a=GOOD.format(name="mine"))
    assert errors == []
    assert list(dags) == ["mine"]
    mine, ours = dags["mine"], dagbag.dags["sharded_training"]
    assert [task.task_id for task in mine.topological_sort()] == [task.task_id for task in ours.topological_sort()]
    assert list(mine.params)[:2] == ["learning_rate", "size"]
    assert mine.params["learning_rate"] == 0.5
    assert mine.params.get_param("learning_rate").schema["description_md"] == "At most 1. Default: 0.5."
    assert mine.params.get_param("size").schema["enum"] == ["small", "large", None]
    assert not mine.is_paused_upon_creation
    prepare = mine.get_task("prepare_dataset").bash_command
    assert "-m tasks.prepare_training a.toml <" in prepare


def test_broken_files_are_one_import_error_with_file_and_line_and_hide_no_other(load, tmp_path):
    dags, errors = load(
        a=GOOD.format(name="first"),
        b=GOOD.format(name="second").replace('"true"', '"{true}"'),
        c="name = ",
        d=GOOD.format(name="first"),
        e=GOOD.format(name="third") + '[schedule]\ncron = "never"\n',
        f=GOOD.format(name="housekeeping"),
    )
    assert list(dags) == ["first"]
    (error,) = errors
    for message in (
        f"{tmp_path}/b.toml:3: command[0]: {{true}} is no placeholder here",
        f"{tmp_path}/c.toml:1: this is no TOML",
        f"{tmp_path}/d.toml: name: first is described by {tmp_path}/a.toml already",
        f"{tmp_path}/e.toml: schedule.cron: expected a cron expression",
        f"{tmp_path}/f.toml:2: name: housekeeping is the name of a DAG of Shardline's own",
    ):
        assert message in error, error


def test_a_folder_that_is_not_there_is_said(load, monkeypatch, tmp_path):
    dags, errors = load()
    assert (dags, errors) == ({}, [])
    (tmp_path / "x").mkdir()
    (tmp_path / "x").rmdir()
    monkeypatch.setenv("SHARDLINE_TRAININGS", str(tmp_path / "x"))
    from airflow.dag_processing.dagbag import DagBag

    (error,) = DagBag(PROJECT / "dags" / "broken_trainings.py").import_errors.values()
    assert f"SHARDLINE_TRAININGS={tmp_path}/x: there is no such folder" in error


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        ('cron = "0 3 * * *"', "SkippingCronTimetable"),
        ("on_dataset = true", "AssetTriggeredTimetable"),
        ('cron = "0 3 * * *"\non_dataset = true', "SkippingCronOrAsset"),
    ],
)
def test_trainings_run_on_a_schedule_when_data_is_announced_or_both(load, schedule, kind):
    dags, errors = load(a=GOOD.format(name="mine") + f"[schedule]\n{schedule}\n")
    assert errors == []
    assert type(dags["mine"].timetable).__name__ == kind
    assert dags["mine"].is_paused_upon_creation


def test_nothing_heavy_is_imported_while_dags_are_parsed(tmp_path):
    (tmp_path / "a.toml").write_text(GOOD.format(name="mine"))
    program = (
        "import sys, dags.trainings; assert [d.dag_id for d in dags.trainings.DAGS] == ['mine'];"
        "print([name for name in ('mindspore', 'numpy', 'openlineage') if name in sys.modules])"
    )
    environment = os.environ | {"SHARDLINE_TRAININGS": str(tmp_path)}
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == "[]"


def test_airflow_runs_a_described_training_to_its_version(linear_run):
    done = dict.fromkeys(("prepare_dataset", "train", "merge", "validate", "promote"), "success")
    assert linear_run.states == done | {"approve": "skipped", "upload": "skipped", "export": "skipped"}
    home = home_from(os.environ)
    version = current(home, "linear")
    assert (version.step, version.metric) == (120, "error")
    program = json.loads((home.run("linear", linear_run.run_id) / "log_output/1/rank.0/program.json").read_text())
    assert program["command"][-3:] == ["0.2", "--epochs", "12"]
