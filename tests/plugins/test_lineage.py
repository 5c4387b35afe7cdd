"""What Airflow's OpenLineage provider is told, and that nobody misses it where it is not installed."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.run_page.synthetic_run import Size, write_run
from plugins.lineage_facets import HOST
from plugins.task_operator import TaskOperator
from scripts.local_airflow import PROJECT
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import home_from
from shardline.store.promotion import promote


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    """A run of one step, promoted, whose data was prepared."""
    home = Home(tmp_path_factory.mktemp("home"))
    run = write_run(home.run("dag", "run"), Size(steps=1, parameters=1, log_lines=1), upload_to="s3://c@models/team")
    run.dataset_file.write_text(json.dumps({"digest": "d" * 64, "source": "mnist", "directory": "/data/mnist"}))
    promote(run, home)
    return run


@pytest.fixture
def task(run, monkeypatch):
    """A task of the run, as the provider gives it to the operator."""
    monkeypatch.setenv("SHARDLINE_HOME", str(run.path.parents[2]))
    assert home_from(os.environ).run("dag", "run") == run.path
    return lambda task_id, run_id="run": SimpleNamespace(dag_id="dag", run_id=run_id, task_id=task_id)


@pytest.fixture
def operator() -> TaskOperator:
    return TaskOperator(task_id="any", module="tasks.merge")


def test_a_file_server_s_name_is_part_of_every_path_s_namespace(operator, task, run, monkeypatch):
    monkeypatch.setenv(HOST, "storage")
    found = operator.get_openlineage_facets_on_complete(task("merge"))
    names = [(dataset.namespace, dataset.name) for dataset in (*found.inputs, *found.outputs)]
    merged = run.merged / "model.ckpt"
    assert names == [("file://storage", str(run.checkpoints)), ("file://storage", str(merged))]
    (written,) = found.outputs
    assert written.outputFacets["outputStatistics"].size == merged.stat().st_size


def test_what_lies_in_an_object_storage_is_named_by_its_bucket(operator, task):
    (uploaded,) = operator.get_openlineage_facets_on_complete(task("upload")).outputs
    assert (uploaded.namespace, uploaded.name) == ("s3://models", "team/mnist-mlp/1")


def test_a_task_that_failed_has_written_nothing(operator, task):
    found = operator.get_openlineage_facets_on_failure(task("merge"))
    assert len(found.inputs) == 1
    assert found.outputs == []


def test_a_task_without_a_run_directory_has_nothing_to_tell(operator, task):
    found = operator.get_openlineage_facets_on_complete(task("plan", run_id="never"))
    assert (found.inputs, found.outputs, found.run_facets) == ([], [], {})


@pytest.fixture
def packages_without(tmp_path) -> Path:
    """All installed packages but the provider and its own: links to them."""
    installed = Path(sysconfig.get_path("purelib"))
    for folder, left_out in (
        ("", r"openlineage.*|apache_airflow_providers_openlineage.*|airflow"),
        ("airflow", r"providers"),
        ("airflow/providers", r"openlineage"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        for entry in (installed / folder).iterdir():
            if not re.fullmatch(left_out, entry.name):
                (tmp_path / folder / entry.name).symlink_to(entry)
    return tmp_path


WITHOUT = """
import dags.sharded_training
from importlib.util import find_spec
from plugins.task_operator import TaskOperator
assert find_spec("openlineage") is find_spec("airflow.providers.openlineage") is None
operator = TaskOperator(task_id="any", module="this")  # of Python's own, which prints
operator.env, operator.output_processor = {}, str
print("ran:", bool(operator.execute({"ti": None})))
"""


def test_without_the_provider_dags_are_parsed_and_tasks_run(packages_without):
    finished = subprocess.run(
        [sys.executable, "-S", "-c", WITHOUT],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(packages_without), str(PROJECT)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "ran: True"
