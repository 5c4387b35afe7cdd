"""docker/kubernetes: that its files fit each other, the launch and the image. No cluster has seen them.

Where `SHARDLINE_MPIJOB_CRD` or `SHARDLINE_CHART_SCHEMA` names a copy of mpi-operator's CustomResourceDefinition or of
the chart's values.schema.json, the files are checked against those as well; docker/kubernetes/README.md says where they
are.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import uuid
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import kubernetes_validate
import pytest
import yaml

from plugins.mpijob.manifest import job_of_run, parameters_of, read_manifest
from shardline.launch.hosts import Host, hosts_of
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from shardline.settings.run_config import RunConfig
from tests.patience import PATIENCE_S

PROJECT = Path(__file__).resolve().parent.parent.parent
FOLDER = PROJECT / "docker" / "kubernetes"
VERSIONS = ("1.30", "1.37")
CARDS = {"nvidia.com/gpu", "huawei.com/Ascend910"}


def documents(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def settings():
    specification = importlib.util.spec_from_file_location(
        "airflow_local_settings", FOLDER / "airflow_local_settings.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(params=["by hand", "by the DAG"])
def job(request):
    """The manifest, as it is applied by hand, and as the DAG makes it of the same parameters."""
    if request.param == "by hand":
        (document,) = documents("mpijob.yaml")
        return document
    manifest = read_manifest(FOLDER / "mpijob.yaml")
    run = {"SHARDLINE_DAG_ID": "mpijob_training", "SHARDLINE_RUN_ID": "manual__2026", "SHARDLINE_TASK_ID": "train"}
    return job_of_run(manifest, RunConfig(**parameters_of(manifest)), run, Path("/var/lib/shardline"))


@pytest.fixture
def values():
    (document,) = documents("values.yaml")
    return document


def pod_of(job, kind):
    return job["spec"]["mpiReplicaSpecs"][kind]["template"]["spec"]


def environment_of(container):
    return {item["name"]: item["value"] for item in container["env"]}


def written_by_the_operator(job, namespace="training"):
    """The hostfile as mpi-operator 0.6 writes it."""
    name, spec = job["metadata"]["name"], job["spec"]
    workers = range(spec["mpiReplicaSpecs"]["Worker"]["replicas"])
    return "".join(f"{name}-worker-{n}.{name}.{namespace}.svc slots={spec['slotsPerWorker']}\n" for n in workers)


def test_the_job_says_what_an_mpijob_may_say(job):
    """Its own fields, as `kubeflow.org/v2beta1` documents them; the pods within have a test of their own."""
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0}
    replicas = record(replicas=number, restartPolicy={"enum": ["Never", "OnFailure"]}, template={"type": "object"})
    policy = record(
        activeDeadlineSeconds=number,
        backoffLimit=number,
        cleanPodPolicy={"enum": ["None", "Running", "All"]},
        ttlSecondsAfterFinished=number,
    )
    spec = record(
        required=("launcherCreationPolicy", "mpiReplicaSpecs"),
        launcherCreationPolicy={"enum": ["AtStartup", "WaitForWorkersReady"]},
        mpiImplementation={"enum": ["OpenMPI", "Intel", "MPICH"]},
        mpiReplicaSpecs=record(required=("Launcher", "Worker"), Launcher=replicas, Worker=replicas),
        runLauncherAsWorker={"type": "boolean"},
        runPolicy=policy,
        slotsPerWorker=number,
        sshAuthMountPath=text,
    )
    own = record(
        required=("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "kubeflow.org/v2beta1"},
        kind={"const": "MPIJob"},
        metadata={"type": "object"},
        spec=spec,
    )
    jsonschema.validate(job, own)


def record(required: tuple[str, ...] = (), **properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def test_the_operators_hostfile_has_a_slot_for_every_rank(job, tmp_path):
    (tmp_path / "hostfile").write_text(written_by_the_operator(job))
    launcher = environment_of(pod_of(job, "Launcher")["containers"][0])
    config = RunConfig.model_validate(json.loads(launcher["SHARDLINE_PARAMETERS"]))
    assert config.hostfile == "/etc/mpi/hostfile"
    name = job["metadata"]["name"]
    assert hosts_of(str(tmp_path / "hostfile"), config.world_size, {"SHARDLINE_ALLOWED_ROOTS": str(tmp_path)}) == tuple(
        Host(f"{name}-worker-{number}.{name}.training.svc", 8) for number in range(2)
    )


def test_a_worker_has_a_card_for_each_slot(job):
    limits = pod_of(job, "Worker")["containers"][0]["resources"]["limits"]
    (resource,) = CARDS & limits.keys()
    assert int(limits[resource]) == job["spec"]["slotsPerWorker"]


def test_the_launch_runs_the_run_that_was_prepared(job):
    pod = pod_of(job, "Launcher")
    (*before, launcher) = [*pod.get("initContainers", []), *pod["containers"]]
    assert [container["env"] for container in before] == [launcher["env"]] * len(before)
    environment = environment_of(launcher)
    run = home_from(environment).run(environment["SHARDLINE_DAG_ID"], environment["SHARDLINE_RUN_ID"])
    assert RunDirectory(run).path.is_relative_to(environment["SHARDLINE_HOME"])
    for container in (*before, launcher):
        python, flag, *modules = container["command"]
        assert (python, flag) == ("/opt/shardline/.venv/bin/python", "-m")
        assert all((PROJECT / module.replace(".", "/")).with_suffix(".py").is_file() for module in modules[-1:])


def test_every_pod_has_the_shared_folder_in_the_same_place(job, values):
    claims = {document["metadata"]["name"] for document in documents("volume.yaml")}
    pods = [pod_of(job, "Launcher"), pod_of(job, "Worker")]
    for pod in [*pods, {"volumes": values["volumes"], "containers": [values]}]:
        claimed = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "emptyDir" not in v}
        assert set(claimed.values()) <= claims
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            mounts = container["volumeMounts"]
            assert {"name": "shardline", "mountPath": "/var/lib/shardline"} in mounts
            assert {mount["name"] for mount in mounts} <= {volume["name"] for volume in pod["volumes"]}
    assert values["logs"]["persistence"]["existingClaim"] in claims


def test_launcher_and_server_agree_on_keys_and_port(job):
    keys = job["spec"]["sshAuthMountPath"]
    server, client = (FOLDER / "sshd_config").read_text(), (FOLDER / "ssh_config").read_text()
    assert f"HostKey {keys}/id_rsa\n" in server
    assert f"AuthorizedKeysFile {keys}/authorized_keys\n" in server
    assert f"IdentityFile {keys}/id_rsa\n" in client
    (worker,) = pod_of(job, "Worker")["containers"]
    ports = {int(port) for text in (server, client) for port in re.findall(r"^\s*Port (\d+)$", text, re.MULTILINE)}
    assert ports == {worker["ports"][0]["containerPort"]} == {worker["readinessProbe"]["tcpSocket"]["port"]}
    assert f"COPY sshd_config {worker['command'][-1]}\n" in (FOLDER / "Dockerfile").read_text()


def test_values_give_airflow_what_the_image_has(values):
    image = (PROJECT / "docker" / "Dockerfile").read_text()
    environment = {item["name"]: item["value"] for item in values["env"]}
    assert f"FROM apache/airflow:{values['airflowVersion']}-" in image
    assert f"SHARDLINE_HOME={environment['SHARDLINE_HOME']}" in image
    assert f"AIRFLOW__CORE__DAGS_FOLDER={values['config']['core']['dags_folder']}" in image
    assert environment["SHARDLINE_CARD_RESOURCE"] in CARDS


def test_no_secret_stands_in_a_file(values):
    assert {"fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"} <= values.keys()
    assert values["data"].keys() == {"metadataSecretName"}
    files = sorted(path for path in FOLDER.iterdir() if path.is_file())
    words = [word for path in files for word in re.findall(r"\w*[Pp]assword: \S+", path.read_text())]
    assert words == []


def test_a_task_with_cards_gets_them_and_shared_memory():
    pod = settings().device_pod("nvidia.com/gpu", 8)
    (container,), (volume,) = pod["spec"]["containers"], pod["spec"]["volumes"]
    assert container["name"] == "base"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
    assert volume["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize(
    ("pool", "resource", "overridden"),
    [("device", "nvidia.com/gpu", True), ("device", "", False), ("default_pool", "nvidia.com/gpu", False)],
)
def test_only_tasks_in_the_pool_of_cards_are_overridden(monkeypatch, pool, resource, overridden):
    monkeypatch.setenv("SHARDLINE_CARD_RESOURCE", resource)
    monkeypatch.setenv("SHARDLINE_DEVICE_SLOTS", "4")
    task = SimpleNamespace(pool=pool, executor_config={})
    settings().task_policy(task)
    assert task.executor_config.keys() == ({"pod_override"} if overridden else set())
    if overridden:
        (container,) = task.executor_config["pod_override"].spec.containers
        assert container.resources.limits == {resource: "4"}


def valid(document, version=VERSIONS[-1]):
    """Raise where Kubernetes' own schema of that version names no such field, misses one, or wants another type."""
    kubernetes_validate.validate(document, version, strict=True)


def pod_with(spec, metadata=None):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", **(metadata or {})}, "spec": spec}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["Launcher", "Worker"])
def test_the_pods_are_valid_by_kubernetes_schema(job, kind, version):
    template = job["spec"]["mpiReplicaSpecs"][kind]["template"]
    assert template.keys() <= {"metadata", "spec"}
    valid(pod_with(template["spec"], template.get("metadata")), version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["rbac.yaml", "volume.yaml"])
def test_the_other_manifests_are_valid_by_kubernetes_schema(name, version):
    for document in documents(name):
        valid(document, version)


def test_what_is_put_into_airflows_pods_is_valid_by_kubernetes_schema(values):
    valid(pod_with(settings().device_pod("nvidia.com/gpu", 8)["spec"]))
    container = {"name": "base", "env": values["env"], "volumeMounts": values["volumeMounts"]}
    valid(pod_with({"containers": [container], "volumes": values["volumes"]}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"comand": []}, "'comand' was unexpected"),
        ({"ports": [{"containerPort": "2222"}]}, "'2222' is not of type 'integer'"),
        ({"volumeMounts": [{"name": "shardline"}]}, "'mountPath' is a required property"),
    ],
)
def test_a_wrong_field_is_found(job, wrong, message):
    pod = pod_of(job, "Worker")
    pod["containers"][0] |= wrong
    with pytest.raises(kubernetes_validate.ValidationError, match=message):
        valid(pod_with(pod))


def test_the_role_is_bound_to_airflows_workers():
    role, binding = documents("rbac.yaml")
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == (role["kind"], role["metadata"]["name"])
    (subject,) = binding["subjects"]
    readme = (FOLDER / "README.md").read_text()
    assert f"create namespace {subject['namespace']} " in readme
    release = re.search(r"helm install (\S+) ", readme)[1]
    assert subject["name"] == f"{release}-worker"


def test_the_image_has_the_example_dag_and_its_manifest_where_airflow_looks(values):
    (names,) = re.findall(r"^COPY (.+) /opt/shardline/dags/$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert names.split() == ["mpijob_training.py", "mpijob.yaml"]
    assert all((FOLDER / name).is_file() for name in names.split())
    assert values["config"]["core"]["dags_folder"] == "/opt/shardline/dags"


def test_the_example_is_the_pipeline_with_another_way_to_train():
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(FOLDER / "mpijob_training.py")
    assert bag.import_errors == {}
    (dag,) = bag.dags.values()
    order = ["prepare_dataset", "train", "merge", "validate", "approve", "promote"]
    assert [task.task_id for task in dag.topological_sort()] == [*order, "upload", "export"]
    for first, second in pairwise(order):
        assert dag.get_task(first).downstream_task_ids == {second}
    assert {task.task_id: task.task_type for task in dag.tasks}["train"] == "MPIJobOperator"
    assert all(task.doc_md for task in dag.tasks)
    assert dag.get_task("train").pool == "default_pool"  # else airflow_local_settings.py would give its pod cards
    assert list(dag.params) == list(RunConfig.model_fields)
    chosen = RunConfig.from_json(json.dumps(dag.params.dump()))
    assert chosen == RunConfig(**parameters_of(read_manifest(FOLDER / "mpijob.yaml")))


def test_a_worker_stays_until_its_ranks_have_left(job):
    """The command itself, run here, with a name of its own, since real ranks may run beside this test."""
    (worker,) = pod_of(job, "Worker")["containers"]
    *shell, script = worker["lifecycle"]["preStop"]["exec"]["command"]
    pattern = "shardline[.]launch[.]rank"
    assert pattern in script
    name = f"-{uuid.uuid4()}"
    command = [*shell, script.replace(pattern, pattern + name)]
    assert subprocess.run(command, timeout=PATIENCE_S, check=False).returncode == 0
    program = [sys.executable, "-c", "input()", "-m", f"shardline.launch.rank{name}"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as rank, subprocess.Popen(command) as hook:
        with pytest.raises(subprocess.TimeoutExpired):
            hook.wait(3)
        rank.communicate(b"\n")
        assert hook.wait(PATIENCE_S) == 0


def test_the_pods_outlive_the_time_that_ranks_have_to_save(job):
    (launcher,) = pod_of(job, "Launcher")["containers"]
    config = RunConfig.from_json(environment_of(launcher)["SHARDLINE_PARAMETERS"])
    for kind in ("Launcher", "Worker"):
        assert pod_of(job, kind)["terminationGracePeriodSeconds"] >= config.termination_grace + 30


@pytest.mark.skipif("SHARDLINE_MPIJOB_CRD" not in os.environ, reason="SHARDLINE_MPIJOB_CRD names no definition")
def test_the_job_is_valid_by_the_operators_definition(job):
    found = yaml.safe_load_all(Path(os.environ["SHARDLINE_MPIJOB_CRD"]).read_text())
    (definition,) = (item for item in found if item and item["kind"] == "CustomResourceDefinition")
    (schema,) = (item["schema"] for item in definition["spec"]["versions"] if item["name"] == "v2beta1")
    jsonschema.validate(job, closed(schema["openAPIV3Schema"]))


@pytest.mark.skipif("SHARDLINE_CHART_SCHEMA" not in os.environ, reason="SHARDLINE_CHART_SCHEMA names no schema")
def test_values_are_valid_by_the_charts_schema(values):
    schema = json.loads(Path(os.environ["SHARDLINE_CHART_SCHEMA"]).read_text())
    jsonschema.validate(values, schema)
    assert values.keys() <= schema["properties"].keys()


def closed(schema):
    """`schema` without room for fields that it doesn't name, which the API server would drop."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    named = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        return {**named, "additionalProperties": False}
    return named
