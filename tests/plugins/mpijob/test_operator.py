"""The task that trains as an MPIJob, against an imitation of Kubernetes' API (`kubernetes_api`)."""

import json
import re
import shutil
import subprocess
import sys
import threading

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from structlog.testing import capture_logs

from plugins.mpijob.manifest import job_of_run, parameters_of, read_manifest
from scripts.local_airflow import PROJECT
from shardline.base.errors import LaunchError
from shardline.run.directory import Home, RunDirectory
from shardline.run.failures import failure_file
from shardline.settings.run_config import RunConfig
from tests.dags.conftest import dagbag, registered_dags
from tests.patience import PATIENCE_S
from tests.plugins.mpijob.mpijob_run import (
    CONTEXT,
    DAG_ID,
    FOLDER,
    NAME,
    RUN,
    cluster,
    config_of,
    environment_of,
    execute,
    fail,
    logged,
    manifest,
    operator_of,
    run,
    succeed,
)

__all__ = ["cluster", "dagbag", "manifest", "registered_dags", "run"]


def test_the_job_is_the_manifest_with_what_the_run_says(cluster, run, manifest):
    run.write_config(config_of(world_size=32, termination_grace=100))
    succeed(cluster)
    execute(manifest)
    (job,) = cluster.created
    expected = yaml.safe_load(manifest.read_text())
    assert job["metadata"].pop("annotations").keys() == {"shardline-try"}
    pods = [job["spec"]["mpiReplicaSpecs"][role]["template"]["spec"] for role in ("Launcher", "Worker")]
    templates = [expected["spec"]["mpiReplicaSpecs"][role]["template"]["spec"] for role in ("Launcher", "Worker")]
    environment = environment_of(pods[0]["containers"][0])
    assert environment.items() >= RUN.items()
    assert RunConfig.from_json(environment["SHARDLINE_PARAMETERS"]) == run.read_config()
    assert environment.keys() == {*environment_of(templates[0]["containers"][0]), "SHARDLINE_TASK_ID"}
    assert [pod["terminationGracePeriodSeconds"] for pod in pods] == [130, 130]
    assert (job["metadata"]["name"], job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"]) == (NAME, 4)
    assert job["spec"]["runPolicy"]["backoffLimit"] == 0
    # All the rest is as it was.
    del templates[0]["initContainers"]
    templates[0]["containers"][0]["env"] = pods[0]["containers"][0]["env"]
    for template in templates:
        template["terminationGracePeriodSeconds"] = 130
    expected["metadata"]["name"] = NAME
    expected["spec"]["runPolicy"]["backoffLimit"] = 0
    expected["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] = 4
    assert job == expected


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"world_size": 16, "hostfile": None}, "hostfile: expected /etc/mpi/hostfile.*found None"),
        ({"world_size": 1, "tensor_parallel": 1}, "world_size: expected at least 2"),
        ({"world_size": 12, "tensor_parallel": 4}, "multiple of the 8 cards of a worker.*found 12"),
        ({"world_size": 16, "device_target": "Ascend"}, "expected a limit of huawei.com/… for .* container worker"),
    ],
)
def test_what_no_retry_mends_fails_before_anything_is_created(cluster, run, manifest, parameters, message):
    run.write_config(config_of(**parameters))
    with pytest.raises(AirflowFailException, match=rf"{message}[\s\S]*Not tried again"):
        execute(manifest)
    assert cluster.requests == []
    assert json.loads(failure_file(run, "train").read_bytes())["error"] == "ConfigError"


def test_success_returns_what_the_launch_returned_and_leaves_no_job(cluster, run, manifest):
    succeed(cluster, "epoch 1", '{"step": 700}', "{not a result", "launch: all ranks finished")
    assert execute(manifest) == {"step": 700}
    assert cluster.deleted == [cluster.job["metadata"]["uid"]]
    assert not failure_file(run, "train").exists()


def test_every_line_of_the_launcher_arrives_once(cluster, run, manifest):
    """Lines that come while nobody looks, lines that come late, equal ones, and those of before a minute."""
    succeed(cluster, "the last")
    cluster.steps[:0] = [lambda: cluster.write("an hour ago", age=3600)]
    cluster.steps[2:2] = [
        lambda: cluster.write("one", "equal", "equal", "two"),
        lambda: None,
        lambda: cluster.write("equal", "", "  three: ×"),
        lambda: None,
    ]
    with capture_logs() as entries:
        execute(manifest)
    lines = ["an hour ago", "one", "equal", "equal", "two", "equal", "", "  three: ×", "the last"]
    of_the_launcher = [line for line in logged(entries) if not re.match(r"created MPIJob |MPIJob", line)]
    assert of_the_launcher == lines


def test_the_log_says_what_a_job_waits_for(cluster, run, manifest):
    succeed(cluster)
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    cluster.steps[:0] = [
        lambda: None,
        lambda: cluster.pod("worker", "Pending", {"waiting": waiting}),
        lambda: cluster.condition("Suspended"),
    ]
    with capture_logs() as entries:
        execute(manifest)
    states = [line.removeprefix(f"MPIJob {NAME}: ") for line in logged(entries) if line.startswith("MPIJob ")]
    assert states[:3] == [
        "waiting for the mpi-operator",
        "waiting for the mpi-operator; 1 × worker Pending: ImagePullBackOff, no such image",
        "Suspended; 1 × worker Pending: ImagePullBackOff, no such image",
    ]


def test_a_failure_says_why_and_shows_the_launchers_last_lines(cluster, run, manifest):
    fail(cluster, *[f"line {number}" for number in range(50)], "LaunchError: rank 3 was killed")
    with pytest.raises(LaunchError) as failed:
        execute(manifest)
    first, *lines = str(failed.value).splitlines()
    assert first == (
        f"MPIJob {NAME} failed: BackoffLimitExceeded: Job has reached the specified backoff limit (Failed; 1 × "
        "launcher Failed: Error, exit code 1). Its launcher's last lines:"
    )
    assert lines == [*(f"  | line {number}" for number in range(21, 50)), "  | LaunchError: rank 3 was killed"]
    assert len(cluster.deleted) == 1
    assert json.loads(failure_file(run, "train").read_bytes())["message"] == str(failed.value)


def test_what_the_launcher_has_recorded_stays_on_the_runs_page(cluster, run, manifest):
    fail(cluster)
    end = cluster.steps[0]

    def record():
        failure_file(run, "train").parent.mkdir(exist_ok=True)
        failure_file(run, "train").write_text('{"message": "rank 3 was killed"}')
        end()

    cluster.steps = [record]
    with pytest.raises(LaunchError, match="Its launcher has logged nothing"):
        execute(manifest)
    assert json.loads(failure_file(run, "train").read_bytes()) == {"message": "rank 3 was killed"}


def test_a_wrong_parameter_that_the_launcher_finds_is_not_tried_again(cluster, run, manifest):
    fail(cluster, "ConfigError: heads", state={"reason": "Error", "exitCode": 2})
    with pytest.raises(AirflowFailException, match=r"\| ConfigError: heads\nNot tried again"):
        execute(manifest)


def test_a_job_that_an_earlier_try_has_left_is_gone_with_its_pods_before_another_is_created(cluster, run, manifest):
    cluster.leave(job_of_run(read_manifest(manifest), run.read_config(), RUN, manifest.parent))
    cluster.looks_until_gone = 5
    succeed(cluster)
    with capture_logs() as entries:
        execute(manifest)
    assert "waiting until its pods have gone: 1 × launcher Running" in logged(entries)
    assert cluster.deleted[0] == "earlier"
    assert cluster.pods_at_creation == [0]


def test_pods_that_outlive_their_job_are_waited_for(cluster, run, manifest):
    cluster.leave(job_of_run(read_manifest(manifest), run.read_config(), RUN, manifest.parent))
    cluster.job = None
    succeed(cluster)
    execute(manifest)
    assert cluster.pods_at_creation == [0]


def test_told_to_stop_it_deletes_the_job(cluster, run, manifest):
    operator, ended = operator_of(manifest), []
    running, paused, counted = (threading.Event() for _ in range(3))
    pause = operator._pause

    def pause_until_counted():
        if running.is_set():
            paused.set()
            assert counted.wait(PATIENCE_S)
        pause()

    def execute():
        try:
            operator.execute(CONTEXT)
        except LaunchError as error:
            ended.append(str(error))

    operator._pause = pause_until_counted  # told to stop, it would delete the job as well, at the same time
    cluster.steps = [lambda: cluster.pod("launcher"), lambda: cluster.condition("Running"), running.set]
    task = threading.Thread(target=execute)
    task.start()
    assert paused.wait(PATIENCE_S)
    operator.on_kill()
    assert len(cluster.deleted) == 1
    counted.set()
    task.join(PATIENCE_S)
    assert not task.is_alive()
    assert ended[0].startswith("stopped by Airflow")


@pytest.mark.parametrize("left", [True, False])
def test_told_to_stop_before_it_has_created_a_job_it_creates_none(cluster, run, manifest, left):
    if left:
        cluster.leave(job_of_run(read_manifest(manifest), run.read_config(), RUN, manifest.parent))
    operator = operator_of(manifest)
    operator.on_kill()
    with pytest.raises(LaunchError, match="stopped by Airflow"):
        operator.execute(CONTEXT)
    assert cluster.created == []


def test_another_trys_job_is_left_alone(cluster, run, manifest):
    """This try was given up for dead; the next one has removed its job, and created another of the same name."""

    def replace():
        cluster.job = {**cluster.job, "metadata": {**cluster.job["metadata"], "uid": "the next try's"}}

    cluster.steps = [lambda: cluster.pod("launcher"), replace]
    with pytest.raises(LaunchError, match="is gone: not this task has deleted it"):
        execute(manifest)
    assert cluster.deleted == []
    assert cluster.job["metadata"]["uid"] == "the next try's"


def test_a_job_that_somebody_deletes_is_missed(cluster, run, manifest):
    succeed(cluster)
    cluster.steps[1] = lambda: setattr(cluster, "job", None)
    with pytest.raises(LaunchError, match=f"MPIJob {NAME} is gone"):
        execute(manifest)


def test_loading_the_operator_takes_no_provider():
    """Airflow imports every file of plugins/, with the provider or without. (It looks itself which there are.)"""
    heavy = {"kubernetes", "airflow.providers.cncf.kubernetes.hooks.kubernetes"}
    script = f"import sys, plugins.mpijob.operator; print(sorted({heavy} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "[]"


def test_the_form_begins_with_the_manifests_parameters(manifest):
    parameters = parameters_of(read_manifest(manifest))
    assert parameters["hostfile"] == "/etc/mpi/hostfile"
    assert RunConfig(**parameters).world_size == 16


@pytest.fixture
def installed(manifest, airflow_database):
    """The example DAG and the manifest in a folder of DAGs, as a user puts them there."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.utils.session import create_session

    folder = manifest.parent / "dags"
    folder.mkdir()
    shutil.copy(FOLDER / "mpijob_training.py", folder)
    shutil.copy(manifest, folder / "mpijob.yaml")
    bag = DagBag(folder)
    assert bag.import_errors == {}
    DagBundlesManager().sync_bundles_to_db()
    with create_session() as session:
        sync_bag_to_db(bag, "dags-folder", None, session=session)
    return bag.dags[DAG_ID]


def test_airflow_runs_the_example_through_prepare_dataset_and_train(cluster, installed, tmp_path, monkeypatch):
    """Everything of Airflow's and ours is real, but for the cluster and what runs in it."""
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    installed.get_task("train").poll_interval = 0.01
    succeed(cluster, '{"step": 700}')
    conf = {"network": "mlp", "device_target": "CPU", "world_size": 8, "batch_size": 32}
    ended = installed.test(run_conf=conf, mark_success_pattern="^(merge|validate|approve|promote|upload)$")
    assert ended.state == "success"
    (job,) = cluster.created
    (launcher,) = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    environment = environment_of(launcher)
    config = RunDirectory(Home(tmp_path).run(DAG_ID, ended.run_id)).read_config()
    assert (config.network, config.world_size, config.hostfile) == ("mlp", 8, "/etc/mpi/hostfile")
    assert RunConfig.from_json(environment["SHARDLINE_PARAMETERS"]) == config
    assert environment["SHARDLINE_RUN_ID"] == ended.run_id
    assert len(cluster.deleted) == 1


def test_a_timeout_of_airflows_deletes_the_job(cluster, installed, tmp_path, monkeypatch):
    from datetime import timedelta

    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    train = installed.get_task("train")
    train.poll_interval, train.execution_timeout, train.retries = 0.01, timedelta(seconds=3), 0
    cluster.steps = [lambda: cluster.pod("launcher")]
    conf = {"network": "mlp", "device_target": "CPU", "world_size": 8, "batch_size": 32}
    ended = installed.test(run_conf=conf, mark_success_pattern="^(merge|validate|approve|promote|upload)$")
    assert ended.state == "failed"
    assert len(cluster.created) == 1
    assert len(set(cluster.deleted)) == 1
