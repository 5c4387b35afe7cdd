"""A training's figures, as they arrive at a StatsD server by Airflow's own settings."""

import fcntl
import json
import logging
import socket
import threading
import time
from pathlib import Path

import pytest
from airflow.sdk.observability import stats
from airflow.sdk.observability.metrics import stats_utils

from plugins import training_metrics
from plugins.training_metrics import NewSteps, Report, reported
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig
from tests.patience import PATIENCE_S
from tests.statsd_server import statsd_server

LOG = logging.getLogger("told")
PLACE = "shardline.sharded_training.digits"


@pytest.fixture
def statsd(monkeypatch):
    """What Airflow's settings name, as a worker's process has it."""
    with statsd_server() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
        yield running
    monkeypatch.undo()
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def run(home) -> RunDirectory:
    run = RunDirectory(home.run("sharded_training", "run"))
    run.path.mkdir(parents=True)
    run.write_config(RunConfig(model_name="digits", batch_size=32))
    return run


def write_steps(file: Path, first: int, last: int, **values: float) -> None:
    with file.open("a") as lines:
        for step in range(first, last + 1):
            lines.write(json.dumps({"step": step, "epoch": 1, "loss": 1 / step, **values}) + "\n")


def hold(home: Home, kind: str, card: int):
    """Hold a card as a launch does."""
    file = home.path / "cards" / socket.gethostname() / kind / f"card.{card}"
    file.parent.mkdir(parents=True, exist_ok=True)
    held = file.open("w")
    held.write('{"run": "run", "pid": 1}')
    held.flush()
    fcntl.flock(held, fcntl.LOCK_EX)
    return held


def test_figures_of_a_training_arrive_by_model_and_host_whatever_the_run(statsd, run, home):
    report = Report(run, home, "sharded_training")
    run.cards_file.write_text(json.dumps({"asked": time.time() + 1, "held": time.time() + 13.5, "cards": [0, 1]}))
    write_steps(run.metrics_file, 1, 4, samples_per_second=64.0)
    with hold(home, "CPU", 0), hold(home, "CPU", 1):
        report.send()
    report.send()
    host = socket.gethostname().replace(".", "__")
    assert statsd.wait_for("shardline.cards_in_use", PATIENCE_S)
    while len(statsd.gauges(f"shardline.{host}").get(f"shardline.{host}.CPU.cards_in_use", [])) < 2:
        time.sleep(0.01)
    found = statsd.gauges("shardline.")
    assert found[f"{PLACE}.loss"] == found["shardline.loss"] == [0.25]
    assert found[f"{PLACE}.step"] == [4.0]
    assert found[f"{PLACE}.samples_per_second"] == [64.0]
    assert found[f"{PLACE}.step_seconds"] == [0.5]
    assert found[f"{PLACE}.queue_seconds"] == pytest.approx([12.5, 12.5], abs=0.5)
    assert found[f"shardline.{host}.CPU.cards_in_use"] == [2.0, 0.0]
    assert not any("run" in name.split(".") for name in found)


def test_it_is_told_while_the_training_runs_and_once_more_at_its_end(statsd, run, home, monkeypatch):
    monkeypatch.setattr(training_metrics, "EVERY_SECONDS", 0.01)
    with reported(run, home, "sharded_training", LOG):
        write_steps(run.metrics_file, 1, 1)
        assert statsd.wait_for(f"{PLACE}.loss", PATIENCE_S)
        monkeypatch.setattr(training_metrics, "EVERY_SECONDS", PATIENCE_S)
        write_steps(run.metrics_file, 2, 2)
    while statsd.gauges(PLACE)[f"{PLACE}.step"][-1] != 2.0:
        time.sleep(0.01)
    assert statsd.gauges(PLACE)[f"{PLACE}.loss"] == [1.0, 0.5]


def test_without_airflow_s_metrics_there_is_no_thread(run, home):
    before = threading.active_count()
    with reported(run, home, "sharded_training", LOG):
        assert threading.active_count() == before


def test_a_run_that_cannot_be_read_is_a_notice(statsd, run, home, caplog):
    run.config_file.write_text("{")
    with reported(run, home, "sharded_training", LOG):
        pass
    assert "the training's metrics cannot be sent now, which stops nothing" in caplog.text


def test_a_server_that_is_not_there_costs_nothing(statsd, run, home, caplog):
    statsd.close()
    write_steps(run.metrics_file, 1, 1)
    with reported(run, home, "sharded_training", LOG):
        pass
    assert caplog.text == ""


def test_a_loss_that_is_no_number_is_left_out(statsd, run, home):
    report = Report(run, home, "sharded_training")
    write_steps(run.metrics_file, 1, 1)
    run.metrics_file.write_text(run.metrics_file.read_text().replace("1.0", "NaN"))
    report.send()
    assert statsd.wait_for(f"{PLACE}.step", PATIENCE_S)
    assert f"{PLACE}.loss" not in statsd.gauges(PLACE)


def test_what_an_earlier_try_left_is_not_told_again(run, home):
    run.cards_file.write_text(json.dumps({"asked": time.time() - 60, "held": time.time() - 50}))
    write_steps(run.metrics_file, 1, 9)
    steps = NewSteps(run.metrics_file)
    assert steps.figures(32) == {}
    assert Report(run, home, "sharded_training")._queue_seconds() is None
    write_steps(run.metrics_file, 10, 10)
    assert steps.figures(32)["step"] == 10


def test_a_try_that_resumes_is_told_from_its_new_file(run):
    write_steps(run.metrics_file, 1, 9)
    steps = NewSteps(run.metrics_file)
    later = run.path / "later"
    write_steps(later, 1, 5)
    later.replace(run.metrics_file)
    found = steps.figures(None)
    assert (found["step"], found["loss"]) == (5, 0.2)
    assert "step_seconds" not in found  # steps of another try
    write_steps(run.metrics_file, 6, 7)
    assert steps.figures(None)["step_seconds"] > 0


def test_of_many_new_steps_the_last_are_read(run, monkeypatch):
    monkeypatch.setattr(training_metrics, "_MOST_BYTES", 400)
    steps = NewSteps(run.metrics_file)
    write_steps(run.metrics_file, 1, 5000)
    assert steps.figures(None)["step"] == 5000


def test_a_line_that_is_being_written_waits_for_the_next_look(run):
    steps = NewSteps(run.metrics_file)
    write_steps(run.metrics_file, 1, 1)
    with run.metrics_file.open("a") as file:
        file.write('{"step": 2, "epoch": 1')
    assert steps.figures(None)["step"] == 1
    with run.metrics_file.open("a") as file:
        file.write(', "loss": 0.5}\n')
    assert steps.figures(None) == pytest.approx({"step": 2, "loss": 0.5, "step_seconds": 1}, abs=PATIENCE_S)
