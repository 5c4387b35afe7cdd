"""A run as a real MLflow server shows it: one run across tries, told once, whatever the server does meanwhile."""

import json
import math
import queue
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shardline.base.errors import LaunchError, Stopped
from shardline.cli import models_command, track_command
from shardline.run.directory import Home, RunDirectory
from shardline.run.tracking import MANY_BYTES, track_outcome, tracked_meanwhile
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import ModelStore
from shardline.store.version import Candidate
from shardline.tracking.mlflow_server import MLflowServer
from shardline.tracking.silence import Silence
from tests.processes import free_port
from tests.shardline.tracking.conftest import mlflow_server  # noqa: F401  a fixture


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    return Home(tmp_path)


def environment(uri: str, task: str, run_id: str = "run") -> dict[str, str]:
    return {
        "SHARDLINE_MLFLOW_URI": uri,
        "SHARDLINE_DAG_ID": "sharded_training",
        "SHARDLINE_RUN_ID": run_id,
        "SHARDLINE_TASK_ID": task,
    }


def run_of(home: Home, model: str, run_id: str = "run") -> RunDirectory:
    run = RunDirectory(home.run("sharded_training", run_id))
    run.path.mkdir(parents=True)
    run.write_config(RunConfig.from_json(json.dumps({"model_name": model, "epochs": 2})))
    run.dataset_file.write_text(json.dumps({"digest": "d" * 64}))
    return run


def lines(first: int, last: int) -> str:
    steps = [{"step": step, "epoch": 1, "loss": 1 / step, "learning_rate": 0.1} for step in range(first, last + 1)]
    return "".join(json.dumps(record) + "\n" for record in steps)


def mlflow_run(uri: str, run: RunDirectory) -> dict:
    sent = json.loads((run.path / "mlflow.json").read_bytes())
    return MLflowServer(uri).get("runs/get", run_id=sent["run_id"])["run"]


def history(uri: str, run: RunDirectory, metric: str) -> list[tuple[int, float]]:
    sent = json.loads((run.path / "mlflow.json").read_bytes())
    fields = {"run_id": sent["run_id"], "metric_key": metric, "max_results": "20000"}
    found = MLflowServer(uri).get("metrics/get-history", **fields)["metrics"]
    return [(int(each.get("step", 0)), each["value"]) for each in found]


@pytest.mark.mlflow
def test_a_run_is_one_of_mlflows_across_tries_with_each_step_once(home, mlflow_server):  # noqa: F811
    uri, run = mlflow_server.uri, run_of(home, "retried")
    train = environment(uri, "train")
    run.metrics_file.write_text(lines(1, 1500) + '{"epoch": 1, "samples_per_second": 9.5}\n')
    with tracked_meanwhile(run, train, home):
        pass
    first = mlflow_run(uri, run)
    assert first["info"]["status"] == "RUNNING"
    track_outcome(home, train, LaunchError("rank 3 died"))
    assert mlflow_run(uri, run)["info"]["status"] == "FAILED"
    # The next try goes on from step 1400: the file is another one, and 100 steps are trained again.
    later = run.path / "later"
    later.write_text(lines(1, 1600) + '{"step": 1601, "epoch": 1, "loss": NaN}\n{"step": 1602, "los')
    later.replace(run.metrics_file)
    track_outcome(home, train, Stopped("by signal 15"))
    told = mlflow_run(uri, run)
    assert told["info"]["run_id"] == first["info"]["run_id"]
    assert told["info"]["status"] == "KILLED"
    found = history(uri, run, "loss")
    assert [step for step, _ in found] == list(range(1, 1602))
    assert found[99][1] == pytest.approx(0.01)
    assert math.isnan(float(found[-1][1]))
    assert history(uri, run, "epoch_samples_per_second") == [(1500, 9.5)]
    parameters = {each["key"]: each["value"] for each in told["data"]["params"]}
    assert (parameters["epochs"], parameters["model_name"]) == ("2", "retried")
    tags = {each["key"]: each["value"] for each in told["data"]["tags"]}
    assert tags["shardline.dataset_digest"] == "d" * 64


@pytest.mark.mlflow
def test_a_promoted_version_is_registered_and_champion_follows_current(home, mlflow_server, monkeypatch):  # noqa: F811
    uri, model = mlflow_server.uri, "promoted"
    store, digests = ModelStore(home, model), []
    for number in (1, 2):
        run = run_of(home, model, f"run{number}")
        checkpoint = run.path / "model.ckpt"
        checkpoint.write_bytes(b"weights %d" % number)
        digests.append(promoted(run, store, checkpoint))
        track_outcome(home, environment(uri, "promote", f"run{number}"), None)
        assert mlflow_run(uri, run)["info"]["status"] == "FINISHED"
    server = MLflowServer(uri)

    def champion() -> tuple[str, str]:
        found = server.get("registered-models/alias", name=model, alias="champion")["model_version"]
        tags = {each["key"]: each["value"] for each in found["tags"]}
        return tags["shardline.version"], tags["shardline.digest"]

    assert champion() == ("2", digests[1])
    monkeypatch.setenv("SHARDLINE_MLFLOW_URI", uri)
    assert models_command.main(["rollback", "1", "--model", model]) == 0
    assert champion() == ("1", digests[0])
    metrics = {each["key"]: each["value"] for each in mlflow_run(uri, run)["data"]["metrics"]}
    assert metrics["validation_accuracy"] == 0.75
    stored = sorted(file.name for file in mlflow_server.folder.rglob("*") if run_id_of(run) in str(file))
    assert {"report.json", "loss.png", "config.json", "promotion.json"} <= set(stored)


def run_id_of(run: RunDirectory) -> str:
    return json.loads((run.path / "mlflow.json").read_bytes())["run_id"]


def promoted(run: RunDirectory, store: ModelStore, checkpoint: Path) -> str:
    """What validate and promote leave; the version's digest."""
    from shardline.base.digest import file_digest

    digest = file_digest(checkpoint)
    run.validation.mkdir()
    (run.validation / "loss.png").write_bytes(b"picture")
    report = {"passed": True, "accuracy": 0.75, "merged": {"digest": digest, "step": 7}}
    run.report_file.write_text(json.dumps(report))
    documents = {"report.json": run.report_file.read_bytes()}
    version = store.add(Candidate(str(run.path), checkpoint, digest, "accuracy", 0.75, 7, documents))
    promotion = {"model": store.path.name, "version": version.version, "new": True, "digest": digest}
    run.promotion_file.write_text(json.dumps(promotion | {"path": str(version.path)}))
    return digest


@pytest.mark.mlflow
def test_what_a_server_that_is_down_missed_is_told_once_it_is_up(home, mlflow_server, monkeypatch, capsys):  # noqa: F811
    uri, run = mlflow_server.uri, run_of(home, "missed")
    run.metrics_file.write_text(lines(1, 20))
    mlflow_server.stop()
    try:
        with tracked_meanwhile(run, environment(uri, "train"), home):
            pass
        track_outcome(home, environment(uri, "train"), LaunchError("rank 3 died"))
        noted = capsys.readouterr().err
        assert f"note: {uri} does not answer as an MLflow server does" in noted
        assert "by `shardline track`" in noted
    finally:
        mlflow_server.start()
    monkeypatch.setenv("SHARDLINE_MLFLOW_URI", uri)
    assert track_command.main([]) == 0
    assert mlflow_run(uri, run)["info"]["status"] == "FAILED"
    assert [step for step, _ in history(uri, run, "loss")] == list(range(1, 21))
    assert list((home.path / "mlflow").iterdir()) == []
    sent = json.loads((run.path / "mlflow.json").read_bytes())
    # Nobody knows whether the last batch arrived: it is sent again, with the time that it had.
    time = int(
        MLflowServer(uri).get("metrics/get-history", run_id=sent["run_id"], metric_key="loss")["metrics"][0][
            "timestamp"
        ]
    )
    again = sent | {"offset": 0, "last_step": 0, "batch_end": sent["offset"], "batch_time": time}
    (run.path / "mlflow.json").write_text(json.dumps(again))
    track_outcome(home, environment(uri, "train"), LaunchError("rank 3 died"))
    assert [step for step, _ in history(uri, run, "loss")] == list(range(1, 21))


@pytest.fixture
def silent():
    """The address of a server that accepts connections and says nothing, and its socket."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", listening


def is_asked(listening: socket.socket) -> bool:
    """Whether somebody has connected whom nobody has accepted; it is accepted, and not answered."""
    listening.setblocking(False)
    try:
        listening.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def test_a_server_that_accepts_and_says_nothing_is_waited_for_once(home, monkeypatch, capsys, silent):
    monkeypatch.setattr("shardline.run.tracking.PATIENCE_S", 0.2)
    uri, listening = silent
    run_of(home, "silent")
    track_outcome(home, environment(uri, "prepare_dataset"), None)
    assert "MLflow has not taken everything yet: it is slow" in capsys.readouterr().err
    assert sorted(file.name for file in (home.path / "mlflow").iterdir()) == ["sharded_training~run.json", "unanswered"]
    assert is_asked(listening)
    monkeypatch.setattr("shardline.run.tracking.PATIENCE_S", 600)  # what it would wait now
    track_outcome(home, environment(uri, "merge"), LaunchError("the disk is full"))
    assert f"{uri} did not answer, and is not waited for in the next" in capsys.readouterr().err
    assert not is_asked(listening)
    note = json.loads((home.path / "mlflow" / "sharded_training~run.json").read_bytes())
    assert note["status"] == "FAILED"


def test_a_training_asks_a_server_that_did_not_answer_and_does_not_wait_for_it(home, monkeypatch):
    asked, ended = threading.Event(), threading.Event()

    def never_answers(*_: object, **__: object) -> None:
        asked.set()
        ended.wait()
        raise OSError("timed out")

    monkeypatch.setattr("shardline.run.tracking.PATIENCE_S", 600)
    monkeypatch.setattr("shardline.tracking.mlflow_server.urlopen", never_answers)
    uri = f"http://127.0.0.1:{free_port()}"
    run = run_of(home, "untold")
    Silence(home.path / "mlflow", uri, 15.0).begin(5.0)
    with tracked_meanwhile(run, environment(uri, "train"), home):
        asked.wait()
    (asking,) = [thread for thread in threading.enumerate() if thread.name == "mlflow" and thread.is_alive()]
    ended.set()
    asking.join()


def test_many_new_steps_are_sent_at_once_and_few_when_it_is_time(home, monkeypatch):
    told = queue.SimpleQueue()
    run = run_of(home, "many")
    monkeypatch.setattr("shardline.run.tracking.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("shardline.run.tracking.EVERY_S", 3600)
    monkeypatch.setattr("shardline.run.tracking._update", lambda run, *_: told.put(run.metrics_file.stat().st_size))
    run.metrics_file.write_text(lines(1, 10))
    with tracked_meanwhile(run, environment("http://127.0.0.1:1", "train"), home):
        few = told.get()
        with run.metrics_file.open("a") as file:
            file.write(lines(11, 1000))
        assert told.get() - few >= MANY_BYTES
        monkeypatch.setattr("shardline.run.tracking.EVERY_S", 0.02)
        with run.metrics_file.open("a") as file:
            file.write(lines(1001, 2000))
        told.get()
        told.get()  # nothing is new, but it is time


class Refusing(BaseHTTPRequestHandler):
    """A server that answers, if only that it knows nothing."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Not shown."""


def test_a_server_that_answers_a_training_is_waited_for_again(home, capsys):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        run = run_of(home, "answered")
        silence = Silence(home.path / "mlflow", uri, 15.0)
        silence.begin(5.0)
        with tracked_meanwhile(run, environment(uri, "train"), home):
            while silence.seconds_left():
                time.sleep(0.01)
        track_outcome(home, environment(uri, "train"), None)
        server.shutdown()
    assert "MLflow refused /api/2.0/mlflow/experiments/get-by-name: 404" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("address", ["ftp://host", "databricks", "http://user:secret@host"])
def test_an_address_that_is_none_of_a_server_is_said_and_fails_nothing(home, capsys, address):
    run_of(home, "wrong")
    track_outcome(home, environment(address, "train"), None)
    noted = capsys.readouterr().err
    assert "SHARDLINE_MLFLOW_URI: expected the address of an MLflow server" in noted
    assert "secret" not in noted


def test_without_the_setting_nothing_is_told(home, capsys):
    run_of(home, "none")
    track_outcome(home, {**environment("", "train")}, None)
    assert capsys.readouterr().err == ""
    assert not (home.path / "mlflow").exists()


def test_a_run_of_another_dag_without_such_parameters_is_not_told(home):
    track_outcome(home, environment(f"http://127.0.0.1:{free_port()}", "housekeeping"), None)
    assert not (home.path / "mlflow").exists()
