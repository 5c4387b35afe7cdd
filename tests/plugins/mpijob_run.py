"""A run that trains as an MPIJob: its names, its parameters, the project's own manifest."""

from typing import Any

import pytest

from plugins.mpijob_manifest import job_name
from scripts.local_airflow import PROJECT
from tasks.config import RunConfig

DAG_ID, RUN_ID = "mpijob_training", "manual__2026-01-31T09:00:00+00:00"
NAME = job_name(DAG_ID, RUN_ID)
RUN = {"SHARDLINE_DAG_ID": DAG_ID, "SHARDLINE_RUN_ID": RUN_ID, "SHARDLINE_TASK_ID": "train"}
FOLDER = PROJECT / "docker" / "kubernetes"
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
