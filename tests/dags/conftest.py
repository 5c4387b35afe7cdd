"""The DAGs as Airflow loads them, and a way to run one of them in this process."""

from typing import Any

import pytest
from sqlalchemy import select

from scripts.local_airflow import PROJECT


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
