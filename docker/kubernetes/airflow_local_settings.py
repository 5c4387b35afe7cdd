"""Gives the tasks that compute their cards, shared memory and nothing else: Airflow's cluster policy on Kubernetes.

`helm install --set-file airflowLocalSettings=…` puts it where Airflow's scheduler and DAG processor import it. A task
in the pool `device` gets a pod override; the chart's own pod template has the image, the volume and the secrets.
"""

import os
from typing import Any

POOL = "device"
SHARED_MEMORY = "8Gi"


def device_pod(resource: str, cards: int) -> dict[str, Any]:
    """What a task with `cards` of a device plugin's `resource` has besides the pod template, as in a manifest.

    `base` is the container in which KubernetesExecutor runs the task. The ranks of one host talk through shared memory,
    of which a container has 64 MiB.
    """
    container = {
        "name": "base",
        "resources": {"limits": {resource: str(cards)}, "requests": {resource: str(cards)}},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108
    }
    volume = {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}}
    return {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [container], "volumes": [volume]}}


def task_policy(task: Any) -> None:
    """Airflow calls it for every task of every DAG that it parses."""
    resource = os.environ.get("SHARDLINE_CARD_RESOURCE")
    if task.pool != POOL or not resource:
        return
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

    pod = device_pod(resource, int(os.environ.get("SHARDLINE_DEVICE_SLOTS") or 8))
    task.executor_config = {"pod_override": PodGenerator.deserialize_model_dict(pod)}
