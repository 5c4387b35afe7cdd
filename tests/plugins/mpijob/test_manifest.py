"""The MPIJob of a run: its name, its size, its variables."""

import re
from pathlib import Path

import pytest

from plugins.mpijob.manifest import LONGEST_NAME, job_name, job_of_run, read_manifest
from shardline.base.errors import ConfigError
from shardline.settings.run_config import RunConfig
from tests.plugins.mpijob.mpijob_run import DAG_ID, NAME, RUN, RUN_ID, config_of, environment_of, manifest

__all__ = ["manifest"]


@pytest.mark.parametrize(
    ("parameters", "layout", "limits"),
    [
        ({"world_size": 16}, (2, 8), {"nvidia.com/gpu": "8", "rdma/hca": "1"}),
        ({"world_size": 8}, (1, 8), {"nvidia.com/gpu": "8", "rdma/hca": "1"}),
        ({"world_size": 4, "tensor_parallel": 4}, (1, 4), {"nvidia.com/gpu": "4", "rdma/hca": "1"}),
        ({"world_size": 16, "device_target": "CPU"}, (2, 8), {"rdma/hca": "1"}),
    ],
)
def test_workers_slots_and_cards_follow_from_the_ranks(tmp_path, manifest, parameters, layout, limits):
    document = read_manifest(manifest)
    worker = document["spec"]["mpiReplicaSpecs"]["Worker"]
    worker["template"]["spec"]["containers"][0]["resources"]["limits"]["rdma/hca"] = "1"
    spec = job_of_run(document, config_of(**parameters), RUN, tmp_path)["spec"]
    worker = spec["mpiReplicaSpecs"]["Worker"]
    assert (worker["replicas"], spec["slotsPerWorker"]) == layout
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"] == limits


def test_a_home_elsewhere_is_refused(manifest):
    with pytest.raises(ConfigError, match="SHARDLINE_HOME of the manifest's container launcher: expected /elsewhere"):
        job_of_run(read_manifest(manifest), config_of(world_size=16), RUN, Path("/elsewhere"))


def test_no_value_is_read_as_a_variable_of_kubernetes(tmp_path, manifest):
    """Kubernetes replaces $(NAME) in an environment's values, and reads $$ as $."""
    config = config_of(world_size=16, text_file='/texts/$(SHARDLINE_HOME) "$HOME" `id`; $$')
    job = job_of_run(read_manifest(manifest), config, RUN, tmp_path)
    (launcher,) = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    value = environment_of(launcher)["SHARDLINE_PARAMETERS"]
    assert re.search(r"(?<!\$)(\$\$)*\$\(", value) is None
    assert RunConfig.from_json(value.replace("$$", "$")) == config
    assert launcher["command"] == ["/opt/shardline/.venv/bin/python", "-m", "tasks.launch", "tasks.train"]


@pytest.mark.parametrize(
    ("dag_id", "run_id"),
    [
        (DAG_ID, RUN_ID),
        ("1_dag", "scheduled__2026"),
        ("-._", "++"),
        ("Ünïcode.DAG", "naïve run: ~/x"),
        ("d" * 250, "r" * 250),
    ],
)
def test_a_name_is_one_that_kubernetes_takes_with_the_last_worker_behind_it(dag_id, run_id):
    name = job_name(dag_id, run_id)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", f"{name}-worker-4095")
    assert len(f"{name}-worker-4095") <= 63
    assert len(name) <= LONGEST_NAME
    assert "--" not in name


def test_every_run_has_a_name_of_its_own_and_keeps_it():
    runs = [("a_b", "c"), ("a", "b_c"), ("a-b", "c"), ("a", "b-c"), ("a", "B_c"), ("d" * 250, "1"), ("d" * 250, "2")]
    assert len({job_name(*run) for run in runs}) == len(runs)
    assert re.fullmatch("mpijob-training-manual-2026-01-31t09-00-00-[0-9a-f]{8}", NAME)
