"""The DAGs as Airflow loads them, and a way to run one of them in this process."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from scripts.local_airflow import PROJECT
from tests.patience import PATIENCE_S
from tests.shardline.run.test_git_checkout import git


@pytest.fixture(scope="session")
def dagbag():
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(PROJECT / "dags")


@pytest.fixture(scope="session")
def registered_dags(airflow_database, dagbag):
    """The DAGs by name, known to the database, so that they can be run by `dag.test`."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.utils.session import create_session

    DagBundlesManager().sync_bundles_to_db()
    with create_session() as session:
        sync_bag_to_db(dagbag, "dags-folder", None, session=session)
    return dagbag.dags


@pytest.fixture(scope="session")
def prepare(registered_dags):
    """Run `sharded_training` up to and including prepare_dataset, for real; the later tasks are marked done."""

    def run(**conf: Any):
        return registered_dags["sharded_training"].test(run_conf=conf, mark_success_pattern=r"^(?!prepare_dataset$).*")

    return run


@pytest.fixture
def xcom():
    """Read one task's result from the database."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    def read(run, task_id):
        with create_session() as session:
            query = select(XComModel).where(
                XComModel.run_id == run.run_id, XComModel.task_id == task_id, XComModel.key == "return_value"
            )
            return XComModel.deserialize_value(session.scalars(query).one())

    return read


@dataclass(frozen=True)
class LinearRun:
    """A run of the training of docs/own-training.md, whose folder is a git checkout, and what it told of itself."""

    run_id: str
    states: dict[str, str]
    checkout: Path
    events: list[dict[str, Any]]
    """Of OpenLineage, in the order in which they were sent."""


LINEAR = """
import json
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
bag = DagBag("dags/trainings.py")
assert bag.import_errors == {}
DagBundlesManager().sync_bundles_to_db()
sync_bag_to_db(bag, "dags-folder", None)
run = bag.dags["linear"].test(run_conf={"epochs": 12, "learning_rate": 0.2})
states = {task.task_id: str(task.state) for task in run.get_task_instances()}
print(json.dumps({"run_id": run.run_id, "states": states}))
"""


@pytest.fixture(scope="session")
def linear_run(airflow_database, tmp_path_factory) -> LinearRun:
    """Airflow runs it in a process of its own, where its OpenLineage provider writes to a file."""
    folder = tmp_path_factory.mktemp("linear")
    page = (PROJECT / "docs" / "own-training.md").read_text()
    (folder / "linear.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0])
    for name, text in zip(("train.py", "judge.py"), re.findall(r"```python\n(.*?)```", page, re.DOTALL), strict=True):
        (folder / name).write_text(text)
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "linear")):
        git(folder, *words)
    events = folder / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(events), "append": True}
    environment = os.environ | {
        "SHARDLINE_TRAININGS": str(folder),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": str(int(PATIENCE_S)),
    }
    finished = subprocess.run(
        [sys.executable, "-c", LINEAR], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    told = json.loads(finished.stdout.splitlines()[-1])
    lines = events.read_text().splitlines()
    return LinearRun(told["run_id"], told["states"], folder, list(map(json.loads, lines)))
