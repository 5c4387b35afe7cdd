"""The MPIJob of one run, made of the manifest that serves by hand as well (`docker/kubernetes/mpijob.yaml`).

The manifest says what the cluster is like: images, volumes, cards of a worker. The run's parameters say how many
workers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk.yaml import safe_load

from shardline.base.counts import counted
from shardline.base.errors import ConfigError
from shardline.settings.run_config import RunConfig

HOSTFILE = "/etc/mpi/hostfile"
"""Where the mpi-operator puts the hostfile into the launcher's pod."""

PREPARE = "prepare"
"""The init container that does by hand what the task prepare_dataset does in a DAG."""

LONGEST_NAME = 63 - len("-worker-4095")
"""Of a job: its last worker is a host, and a host's name has 63 characters at most."""

_VENDORS = {"GPU": "nvidia.com/", "Ascend": "huawei.com/"}
_LEAVE_S = 30
"""What a launcher gets on top of `termination_grace`, to end what is left and to say so."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The MPIJob in the YAML file `path`; `ConfigError` where there is none."""
    try:
        manifest = safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"manifest {path} cannot be read: {error.strerror}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != "MPIJob":
        raise ConfigError(f"manifest {path}: expected one document of the kind MPIJob")
    return dict(json.loads(json.dumps(manifest)))  # an alias of YAML's would be one object in two places


def parameters_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the manifest trains with by hand: a DAG's defaults."""
    (launcher,) = _pod(manifest, "Launcher")["containers"]
    values = {item["name"]: item.get("value") for item in launcher["env"]}
    return dict(json.loads(values["SHARDLINE_PARAMETERS"]))


def job_name(dag_id: str, run_id: str) -> str:
    """A name for the run's MPIJob that Kubernetes takes: the same for every try, another for every other run."""
    text = re.sub(r"[^a-z0-9]+", "-", f"{dag_id}-{run_id}".lower()).strip("-")
    if not text[:1].isalpha():
        text = f"run-{text}"
    digest = hashlib.sha256(f"{dag_id}\0{run_id}".encode()).hexdigest()[:8]
    return f"{text[: LONGEST_NAME - 1 - len(digest)].strip('-')}-{digest}"


def job_of_run(manifest: Mapping[str, Any], config: RunConfig, run: Mapping[str, str], home: Path) -> dict[str, Any]:
    """The manifest as it stands, but for what differs by run; `ConfigError` where the two do not go together.

    `run` are the variables that name DAG, run and task. The launcher is not started again by Kubernetes: Airflow does
    that, and counts. It reads the config.json that prepare_dataset has written in `home`.
    """
    job: dict[str, Any] = json.loads(json.dumps(manifest))
    spec, launcher, worker = job["spec"], _pod(job, "Launcher"), _pod(job, "Worker")
    workers, slots = _workers_and_slots(config, spec["slotsPerWorker"])
    job["metadata"]["name"] = job_name(run["SHARDLINE_DAG_ID"], run["SHARDLINE_RUN_ID"])
    spec["slotsPerWorker"] = slots
    spec["mpiReplicaSpecs"]["Worker"]["replicas"] = workers
    spec.setdefault("runPolicy", {})["backoffLimit"] = 0
    before = [item for item in launcher.pop("initContainers", []) if item["name"] != PREPARE]
    if before:
        launcher["initContainers"] = before
    for container in [*before, *launcher["containers"]]:
        _set_environment(container, {**run, "SHARDLINE_PARAMETERS": json.dumps(config.model_dump(mode="json"))})
        _check_home(container, home)
    for container in worker["containers"]:
        _set_cards(container, config.device_target, slots)
    for pod in (launcher, worker):
        pod["terminationGracePeriodSeconds"] = config.termination_grace + _LEAVE_S
    return job


def _pod(job: Mapping[str, Any], role: str) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]
    return pod


def _workers_and_slots(config: RunConfig, cards: int) -> tuple[int, int]:
    """How many workers the ranks need, and how many ranks each gets, where a worker has `cards` cards."""
    if config.hostfile != HOSTFILE:
        raise ConfigError(f"hostfile: expected {HOSTFILE}, which the mpi-operator writes, found {config.hostfile}")
    if config.world_size == 1:
        raise ConfigError("world_size: expected at least 2, found 1: a single rank would run in the launcher's pod")
    if config.world_size <= cards:
        return 1, config.world_size
    if config.world_size % cards:
        raise ConfigError(
            f"world_size: expected a multiple of the {counted(cards, 'card')} of a worker (slotsPerWorker of the "
            f"manifest), or fewer, found {config.world_size}"
        )
    return config.world_size // cards, cards


def _set_environment(container: dict[str, Any], variables: Mapping[str, str]) -> None:
    # Kubernetes reads $(NAME) in a value as another variable, and $$ as $.
    ours = [{"name": name, "value": value.replace("$", "$$")} for name, value in variables.items()]
    container["env"] = [item for item in container.get("env", []) if item["name"] not in variables] + ours


def _check_home(container: Mapping[str, Any], home: Path) -> None:
    """Data, run directory and versions are passed on as paths: they have to be the same everywhere."""
    there = {item["name"]: item.get("value") for item in container["env"]}.get("SHARDLINE_HOME")
    if there != str(home):
        raise ConfigError(
            f"SHARDLINE_HOME of the manifest's container {container['name']}: expected {home}, Airflow's, found "
            f"{there}; mount the shared volume at one path everywhere"
        )


def _set_cards(container: dict[str, Any], device_target: str, slots: int) -> None:
    """A card for each slot, of those that the manifest names; none for a run on CPUs."""
    resources = container.setdefault("resources", {})
    vendor = _VENDORS.get(device_target)
    if vendor and not any(name.startswith(vendor) for name in resources.get("limits", {})):
        raise ConfigError(
            f"device_target {device_target}: expected a limit of {vendor}… for the manifest's container "
            f"{container['name']}, found none; put it where the other cards stand"
        )
    for section in ("limits", "requests"):
        amounts = resources.get(section, {})
        for name in [name for name in amounts if name.startswith(tuple(_VENDORS.values()))]:
            if vendor and name.startswith(vendor):
                amounts[name] = str(slots)
            else:
                del amounts[name]
