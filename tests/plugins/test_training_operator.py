"""What a training has reached stands in Airflow's task state store while it runs, and for the next try."""

import json
import logging
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError
from airflow.sdk.execution_time.comms import ErrorResponse

from plugins import training_operator
from plugins.training_operator import KEY, TrainingOperator, reached
from shardline.run.directory import Home, RunDirectory

RUN = ("sharded_training", "manual__1")
PROGRAM = """
import json, os, time
from pathlib import Path
run = Path(os.environ["RUN"])
status = run / "log_output" / "1" / "rank.0" / "status.json"
for step in (1, 2):
    staged = status.with_name("staged")
    staged.write_text(json.dumps({"step": step, "last_step": 4, "steps_per_second": 0.5}))
    staged.replace(status)
    while not (run / f"told-{step}").exists():
        time.sleep(0.01)
(run / "src_checkpoints" / "shard_set-2.json").touch()
print(json.dumps({"step": 2}))
raise SystemExit(int(os.environ["CODE"]))
"""


class Store:
    """A task state store in memory, which tells the program what has arrived."""

    def __init__(self, run: RunDirectory) -> None:
        self.run, self.values, self.written = run, {}, []

    def get(self, key):
        return self.values.get(key)

    def set(self, key, value):
        self.values[key] = value
        self.written.append(value)
        (self.run.path / f"told-{value['step']}").touch()


class Away(Store):
    """One whose server answers with an error; the program need not wait for it."""

    def get(self, key):
        raise AirflowRuntimeError(ErrorResponse(detail={"message": "down"}))

    def set(self, key, value):
        (self.run.path / f"told-{value['step']}").touch()
        raise AirflowRuntimeError(ErrorResponse(detail={"message": "down"}))


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(training_operator, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(
        TrainingOperator, "log", logging.getLogger("told")
    )  # Airflow's own writes where a task's log is
    (tmp_path / "program.py").write_text(PROGRAM)
    run = RunDirectory(Home(tmp_path / "home").run(*RUN))
    run.rank_status(0).parent.mkdir(parents=True)
    run.checkpoints.mkdir()
    return run


def execute(run, store, code=0):
    operator = TrainingOperator(task_id="train", module="program")
    operator.env = {"RUN": str(run.path), "CODE": str(code)}
    context = {"dag": SimpleNamespace(dag_id=RUN[0]), "run_id": RUN[1], "ti": None, "task_state_store": store}
    return operator.execute(context)


def test_each_step_arrives_while_it_trains_and_the_shard_set_at_the_end(run):
    store = Store(run)
    assert execute(run, store) == {"step": 2}
    first, *_, last = store.written
    assert first == {"step": 1, "steps": 4, "seconds_left": 6}
    assert last == store.values[KEY] == {"step": 2, "steps": 4, "seconds_left": 4, "shard_set": 2}


def test_a_try_that_fails_leaves_what_it_reached_for_the_next(run, caplog):
    caplog.set_level(logging.INFO)
    store = Store(run)
    with pytest.raises(AirflowException):
        execute(run, store, code=1)
    assert store.values[KEY]["shard_set"] == 2
    assert execute(run, store) == {"step": 2}
    assert "the try before reached: {'step': 2, 'steps': 4, 'shard_set': 2, 'seconds_left': 4}" in caplog.text


def test_a_store_that_does_not_answer_stops_nothing(run, caplog):
    assert execute(run, Away(run)) == {"step": 2}
    assert "task state store cannot be used now, which stops nothing" in caplog.text


def test_without_a_store_it_trains_all_the_same(run):
    for step in (1, 2):
        (run.path / f"told-{step}").touch()
    assert execute(run, None) == {"step": 2}


@pytest.mark.parametrize(
    ("status", "known"),
    [
        (None, {}),
        ("", {}),
        ("[1]", {}),
        ({"step": 3, "steps_per_second": 2.0}, {"step": 3}),
        ({"step": 3, "last_step": 9, "steps_per_second": 0}, {"step": 3, "steps": 9}),
        ({"step": 9, "last_step": 9, "steps_per_second": 0.0}, {"step": 9, "steps": 9, "seconds_left": 0}),
        ({"step": "3", "last_step": None}, {}),
    ],
)
def test_only_what_is_known_is_said(run, status, known):
    if status is not None:
        run.rank_status(0).write_text(status if isinstance(status, str) else json.dumps(status))
    assert reached(run) == known
