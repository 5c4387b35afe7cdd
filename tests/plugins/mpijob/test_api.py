"""A Kubernetes that doesn't answer, refuses, or cannot be reached."""

import pytest
from airflow.sdk.exceptions import AirflowFailException
from structlog.testing import capture_logs

from plugins.mpijob.manifest import job_of_run, read_manifest
from shardline.base.errors import LaunchError
from tests.plugins.mpijob.kubernetes_api import Answer
from tests.plugins.mpijob.mpijob_run import RUN, cluster, execute, logged, manifest, run, succeed

__all__ = ["cluster", "manifest", "run"]


@pytest.mark.parametrize("polls", [1, 20])
def test_an_api_that_is_away_for_some_polls_is_waited_for(cluster, run, manifest, polls):
    succeed(cluster, "done")
    cluster.steps.insert(1, lambda: setattr(cluster, "away", polls))
    with capture_logs() as entries:
        execute(manifest)
    lines = logged(entries)
    assert len([line for line in lines if line.startswith("Kubernetes does not answer")]) <= 1
    assert lines.count("done") == 1
    assert len(cluster.deleted) == 1


def test_an_api_that_stays_away_fails_the_try(cluster, run, manifest):
    cluster.away = 10**9
    with pytest.raises(LaunchError, match=r"Kubernetes did not answer for 0 s: Kubernetes: the server is .* \(503\)"):
        execute(manifest, patience=0)


def test_a_server_that_nobody_can_reach_is_waited_for_too(cluster, run, manifest):
    cluster.stop()
    with pytest.raises(LaunchError, match=r"Kubernetes did not answer for 0 s: .*Connection refused"):
        execute(manifest, patience=0)


def test_a_creation_whose_answer_is_lost_creates_one_job(cluster, run, manifest):
    cluster.lose_answers = 1
    succeed(cluster)
    execute(manifest)
    assert len(cluster.created) == 1
    assert cluster.requests.count(("create", "mpijobs")) == 2


def test_a_job_that_another_try_creates_at_the_same_time_is_left_alone(cluster, run, manifest):
    earlier = job_of_run(read_manifest(manifest), run.read_config(), RUN, manifest.parent)

    class Meanwhile(Answer):
        """The other try comes first."""

        def __init__(self):
            super().__init__(409, "already exists")
            cluster.leave(earlier)

    cluster.refusals[("create", "mpijobs")] = _Lazily(Meanwhile)
    with pytest.raises(LaunchError, match="another try of this task has just created"):
        execute(manifest)
    assert cluster.deleted == []


class _Lazily(list):
    """One refusal, made when it is wanted."""

    def __init__(self, make):
        super().__init__([make])

    def pop(self, _):
        return super().pop(0)()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (("create", "mpijobs"), 403),
        (("create", "mpijobs"), 404),
        (("create", "mpijobs"), 422),
        (("get", "mpijobs"), 403),
        (("list", "pods"), 403),
        (("get", "pods/log"), 403),
    ],
)
def test_what_kubernetes_refuses_fails_at_once_and_leaves_no_job(cluster, run, manifest, request_, status):
    succeed(cluster, "a line")
    cluster.refusals[request_] = [Answer(status, "you may not")]
    with pytest.raises(AirflowFailException, match=rf"Kubernetes: you may not \({status}\)\nNot tried again"):
        execute(manifest)
    assert cluster.requests.count(request_) == 1
    assert len(cluster.deleted) == len(cluster.created)


@pytest.mark.parametrize("verb", [("create", "mpijobs"), ("get", "pods/log"), ("list", "pods")])
def test_a_role_with_less_does_not_do(cluster, run, manifest, verb):
    succeed(cluster, "a line")
    cluster.allowed.remove(verb)
    with pytest.raises(AirflowFailException, match="is forbidden"):
        execute(manifest)


def test_the_role_allows_nothing_that_is_not_used(cluster, run, manifest):
    cluster.leave(job_of_run(read_manifest(manifest), run.read_config(), RUN, manifest.parent))
    succeed(cluster)
    execute(manifest)
    assert set(cluster.requests) == cluster.allowed


def test_a_log_that_cannot_be_had_does_not_hide_the_end(cluster, run, manifest):
    """The kubelet of the launcher's node is away; the job's state is known all the same."""
    succeed(cluster, "a line")
    cluster.refusals[("get", "pods/log")] = [Answer(500, "dial tcp: timed out") for _ in range(2)]
    assert execute(manifest) is None


@pytest.mark.parametrize("connection", ["nowhere"])
def test_an_unknown_connection_is_not_tried_again(cluster, run, manifest, connection):
    with pytest.raises(AirflowFailException, match=f"expected a connection {connection} in Airflow"):
        execute(manifest, connection=connection)


def test_a_task_outside_a_cluster_says_what_it_lacks(run, manifest, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", '{"conn_type": "kubernetes"}')
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AirflowFailException, match="run the task in the cluster, or give the connection a kubeconfig"):
        execute(manifest)
