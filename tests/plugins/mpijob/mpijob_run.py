"""A run that trains as an MPIJob: its names, its parameters, the project's own manifest, and the cluster it meets."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.mpijob.manifest import job_name
from plugins.mpijob.operator import MPIJobOperator
from scripts.local_airflow import PROJECT
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig
from tests.plugins.mpijob.kubernetes_api import NAMESPACE, Cluster

DAG_ID, RUN_ID = "mpijob_training", "manual__2026-01-31T09:00:00+00:00"
NAME = job_name(DAG_ID, RUN_ID)
RUN = {"SHARDLINE_DAG_ID": DAG_ID, "SHARDLINE_RUN_ID": RUN_ID, "SHARDLINE_TASK_ID": "train"}
FOLDER = PROJECT / "docker" / "kubernetes"
CONTEXT = {"dag": SimpleNamespace(dag_id=DAG_ID), "run_id": RUN_ID}
ONCE_MORE = {"reason": "Error", "exitCode": 1}
ON_CARDS = {"network": "gpt", "device_target": "GPU", "tensor_parallel": 8, "batch_size": 64}


@pytest.fixture
def manifest(tmp_path):
    """The project's own, with the home of this test."""
    text = (FOLDER / "mpijob.yaml").read_text().replace("/var/lib/shardline", str(tmp_path))
    (tmp_path / "mpijob.yaml").write_text(text)
    return tmp_path / "mpijob.yaml"


def config_of(**parameters: Any):
    return RunConfig(**{**ON_CARDS, "hostfile": "/etc/mpi/hostfile", **parameters})


def environment_of(container):
    return {item["name"]: item["value"] for item in container["env"]}


@pytest.fixture
def cluster(monkeypatch):
    """A cluster that Airflow knows by its default connection."""
    cluster = Cluster()
    entry = {"name": "imitation", "context": {"cluster": "imitation", "user": "worker"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "imitation",
        "contexts": [entry],
        "clusters": [{"name": "imitation", "cluster": {"server": cluster.address}}],
        "users": [{"name": "worker", "user": {"token": "secret-token"}}],
    }
    connection = {"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(config), "namespace": NAMESPACE}}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
    yield cluster
    cluster.stop()


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    run = RunDirectory(Home(tmp_path).run(DAG_ID, RUN_ID))
    run.write_config(config_of(world_size=16))
    return run


def operator_of(manifest, **arguments: Any):
    return MPIJobOperator(task_id="train", manifest=manifest, **{"poll_interval": 0.01, "patience": 60, **arguments})


def execute(manifest, **arguments: Any):
    return operator_of(manifest, **arguments).execute(CONTEXT)


def logged(entries):
    return [entry["event"] % entry.get("positional_args", ()) for entry in entries]


def succeed(cluster, *lines: str):
    """One look: the launcher runs; the next: it has succeeded."""

    def run():
        cluster.condition("Created")
        cluster.pod("launcher")
        cluster.pod("worker")

    def end():
        cluster.write(*lines)
        cluster.pod("launcher", "Succeeded", {"terminated": {"reason": "Completed", "exitCode": 0}})
        cluster.condition("Succeeded")

    cluster.steps = [run, end]


def fail(cluster, *lines: str, state=None):
    def end():
        cluster.pod("launcher", "Failed", {"terminated": state or ONCE_MORE})
        cluster.write(*lines)
        cluster.condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    cluster.steps = [end]
