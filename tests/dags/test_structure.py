"""What the DAGs consist of."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import pytest
from airflow.sdk import DAG

from dags.pipeline import pipeline
from plugins.task_operator import TaskOperator
from scripts.local_airflow import PROJECT
from shardline.settings.run_config import RunConfig

ORDER = ["prepare_dataset", "train", "merge", "validate", "approve", "promote", "upload", "export"]
DAGS = ["consume_model", "housekeeping", "merge_checkpoint", "retraining", "sharded_training"]
HEAVY = [
    "mindspore",
    "numpy",
    "matplotlib",
    "pandas",
    "mlxtend",
    "sklearn",
    "scipy",
    "shardline.networks",
    "shardline.parallel",
    "shardline.recipes",
    "shardline.training",
    "boto3",
    "botocore",
    "s3fs",
]


def test_every_dag_file_loads(dagbag):
    assert dagbag.import_errors == {}
    assert sorted(dagbag.dags) == DAGS


@pytest.mark.parametrize("dag_id", ["sharded_training", "retraining"])
def test_the_tasks_follow_each_other(dagbag, dag_id):
    dag = dagbag.dags[dag_id]
    assert [task.task_id for task in dag.topological_sort()] == ORDER
    for first, second in pairwise(ORDER[:6]):
        assert dag.get_task(first).downstream_task_ids == {second}
    assert dag.get_task("promote").downstream_task_ids == {"upload", "export"}
    assert dag.get_task("upload").downstream_task_ids == dag.get_task("export").downstream_task_ids == set()


def test_several_merge_workers_make_merge_a_group(monkeypatch):
    monkeypatch.setenv("SHARDLINE_MERGE_WORKERS", "4")
    with DAG("in_parts", schedule=None) as dag:
        pipeline()
    parts = ["merge.plan", "merge.write", "merge.commit"]
    assert [task.task_id for task in dag.topological_sort()] == [*ORDER[:2], *parts, *ORDER[3:]]
    assert dag.get_task("train").downstream_task_ids == {"merge.plan"}
    assert dag.get_task("validate").upstream_task_ids == {"merge.commit"}


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_dag_and_every_task_says_what_it_does(dagbag, dag_id):
    dag = dagbag.dags[dag_id]
    assert dag.doc_md
    assert all(task.doc_md for task in dag.tasks)
    assert "shardline" in dag.tags


def test_a_newcomer_can_trigger_at_once_and_nothing_runs_by_itself(dagbag):
    for dag_id in ("sharded_training", "merge_checkpoint"):
        assert (dagbag.dags[dag_id].schedule, dagbag.dags[dag_id].is_paused_upon_creation) == (None, False)
    for dag_id in ("retraining", "housekeeping", "consume_model"):
        assert (dagbag.dags[dag_id].is_paused_upon_creation, dagbag.dags[dag_id].catchup) == (True, False)
    assert dagbag.dags["retraining"].schedule is None


@pytest.mark.parametrize(
    ("task_id", "command", "pool", "slots"),
    [
        ("prepare_dataset", "tasks.prepare_dataset", "default_pool", 1),
        ("train", "tasks.launch tasks.train", "device", 1),
        ("merge", "tasks.merge", "default_pool", 1),
        ("validate", "tasks.launch tasks.validate", "device", 1),
        ("promote", "tasks.promote", "default_pool", 1),
    ],
)
def test_each_task_runs_its_module_in_its_pool(dagbag, task_id, command, pool, slots):
    task = dagbag.dags["sharded_training"].get_task(task_id)
    assert task.bash_command == f'exec setpriv --pdeathsig TERM "$SHARDLINE_PYTHON" -m {command} </dev/null'
    assert (task.pool, task.pool_slots) == (pool, slots)
    assert task.queue == ("device" if pool == "device" else "default")  # Airflow's own, until a setting says otherwise
    assert task.cwd == str(PROJECT)
    assert task.retries >= 1
    assert task.execution_timeout
    assert list(task.skip_on_exit_code) == [99]


def test_a_rejected_or_unasked_approval_leaves_the_rest_as_it_should_be(dagbag):
    """approve is skipped where it is off, and promote runs all the same; where it fails, promote does not."""
    promote = dagbag.dags["sharded_training"].get_task("promote")
    assert promote.trigger_rule == "none_failed"
    assert promote.upstream_task_ids == {"approve"}


@pytest.mark.parametrize("dag_id", ["sharded_training", "retraining"])
@pytest.mark.parametrize("task_id", ["upload", "export"])
def test_what_is_not_promoted_goes_nowhere(dagbag, dag_id, task_id):
    task = dagbag.dags[dag_id].get_task(task_id)
    assert task.trigger_rule == "all_success"
    assert task.upstream_task_ids == {"promote"}
    assert (task.retries, task.outlets) == (1, [])
    assert task.execution_timeout


def test_the_tasks_run_in_the_workers_python_or_in_the_one_that_is_set(dagbag, monkeypatch):
    merge = dagbag.dags["sharded_training"].get_task("merge")
    assert merge.get_env({})["SHARDLINE_PYTHON"] == sys.executable
    monkeypatch.setenv("SHARDLINE_PYTHON", "/opt/shardline/.venv/bin/python")
    assert merge.get_env({})["SHARDLINE_PYTHON"] == "/opt/shardline/.venv/bin/python"


def test_only_the_first_task_sees_the_parameters(dagbag):
    """The others read config.json: what the first task validated."""
    tasks = [task for task in dagbag.dags["sharded_training"].tasks if isinstance(task, TaskOperator)]
    readers = [task.task_id for task in tasks if "SHARDLINE_PARAMETERS" in task.documents]
    assert [task.task_id for task in tasks] == [task_id for task_id in ORDER if task_id not in ("approve", "upload")]
    assert readers == ["prepare_dataset"]


def test_only_promote_emits_the_asset(dagbag):
    outlets = {task.task_id: [asset.name for asset in task.outlets] for task in dagbag.dags["sharded_training"].tasks}
    assert outlets == {task_id: ["shardline"] if task_id == "promote" else [] for task_id in ORDER}


@pytest.mark.parametrize("dag_id", ["sharded_training", "retraining"])
def test_the_form_is_the_configuration(dagbag, dag_id):
    """Every parameter, in order, with its default; what the form takes by default, the task takes."""
    params = dagbag.dags[dag_id].params
    assert list(params) == list(RunConfig.model_fields)
    expected = RunConfig(champion_margin=0.0) if dag_id == "retraining" else RunConfig()
    assert RunConfig.from_json(json.dumps(params.dump())) == expected
    for name, schema in RunConfig.form_schema().items():
        shown = params.get_param(name).schema
        assert shown["title"]
        for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "section"):
            assert shown.get(key) == schema.get(key), (name, key)
        assert [value for value in shown.get("enum", []) if value] == [v for v in schema.get("enum", []) if v], name


def test_the_main_parameters_are_open_and_come_first(dagbag):
    """Airflow folds every section; fields without one stand open at the top."""
    params = dagbag.dags["sharded_training"].params
    sections = [params.get_param(name).schema.get("section") for name in params]
    first_folded = next(place for place, section in enumerate(sections) if section)
    assert 5 <= first_folded <= 8
    assert all(sections[first_folded:])


def test_loading_the_dags_imports_nothing_heavy():
    """The DAG processor parses these files again and again, and MindSpore changes the process that imports it."""
    script = f"""
import json, sys
import dags.sharded_training, dags.retraining, dags.merge_checkpoint, dags.housekeeping, dags.consume_model
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert json.loads(finished.stdout.splitlines()[-1]) == []


def test_airflow_loads_only_plugins_as_plugins():
    from airflow import plugins_manager

    plugins_manager.ensure_plugins_loaded()
    assert plugins_manager.get_import_errors() == {}
    imported = {"task_operator", "approval", "notifications", "skipping_timetable", "trigger_check", "upload", "export"}
    imported |= {"training_operator", "mpijob", "api", "manifest", "progress"}
    assert not imported & set(sys.modules)


def test_no_plugin_hides_the_library():
    """Airflow loads a file of plugins/ under its bare name: one called shardline.py would take the library's place."""
    taken = {file.stem for file in (PROJECT / "plugins").glob("*.py")} & {"shardline", "tasks", "dags", "plugins"}
    assert not taken
