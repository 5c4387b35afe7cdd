"""What is printed, and what `metrics.jsonl` keeps when a run is resumed."""

import json

from shardline.training import metrics_file as module
from shardline.training.metrics_file import Metrics
from shardline.training.step_record import StepRecord


def record(step: int, epoch: int = 1, loss: float = 2.5, **known: float) -> StepRecord:
    return StepRecord(step=step, epoch=epoch, step_in_epoch=step, loss=loss, samples=32, seconds=0.5, **known)


def read(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_lines_read_as_those_of_mindsporess_loss_monitor(capsys):
    with Metrics(None, step=0) as metrics:
        metrics.step(record(1, loss=2.29784))
        metrics.step(record(2, loss=1, learning_rate=0.00125, gradient_norm=0.71234), is_last=True)
    assert capsys.readouterr().out.splitlines() == [
        "epoch: 1 step: 1, loss is 2.2978, 64 samples/s",
        "epoch: 1 step: 2, loss is 1.0000, learning rate 0.00125, gradient norm 0.712, 64 samples/s",
    ]


def test_the_log_stays_readable_however_many_steps_there_are(capsys, monkeypatch):
    monkeypatch.setattr(module, "PRINT_EVERY_SECONDS", 1000)
    with Metrics(None, step=0) as metrics:
        for step in range(1, 2001):
            metrics.step(record(step), is_last=step % 1000 == 0)
    places = [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert places == ["epoch: 1 step: 1", "epoch: 1 step: 1000", "epoch: 1 step: 2000"]


def test_everything_that_is_known_of_a_step_and_every_epochs_throughput_are_recorded(tmp_path):
    with Metrics(tmp_path / "metrics.jsonl", step=0) as metrics:
        metrics.step(record(1, learning_rate=0.1, gradient_norm=3.0))
        metrics.step(record(2, loss=2.25))
        metrics.epoch(1)
    *steps, epoch = read(tmp_path / "metrics.jsonl")
    assert steps == [
        {"step": 1, "epoch": 1, "loss": 2.5, "learning_rate": 0.1, "gradient_norm": 3.0, "samples_per_second": 64.0},
        {"step": 2, "epoch": 1, "loss": 2.25, "samples_per_second": 64.0},
    ]
    assert epoch["epoch"] == 1
    assert epoch["samples_per_second"] > 0


def test_a_resumed_run_drops_what_came_after_its_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    records = [{"step": step, "epoch": 1, "loss": step / 2} for step in (1, 2)]
    records += [{"epoch": 1, "samples_per_second": 9.5}, {"step": 3, "epoch": 2, "loss": 1.5}]
    kept = "".join(json.dumps(record) + "\n" for record in records[:3])
    file.write_text(kept + json.dumps(records[3]) + '\n{"step": 4, "epo')
    with Metrics(file, step=2) as metrics:
        assert metrics.loss == 1.0
    assert file.read_text() == kept


def test_a_line_that_was_cut_off_is_dropped_even_at_the_step_itself(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "epoch": 1, "loss": 2.0}\n{"step": 2, "epoch": 1, "lo')
    with Metrics(file, step=2) as metrics:
        metrics.step(record(3))
    assert [found["step"] for found in read(file)] == [1, 3]


def test_a_run_from_the_start_begins_anew(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "epoch": 1, "loss": 2.0}\n')
    with Metrics(file, step=0) as metrics:
        assert metrics.loss is None
    assert file.read_text() == ""


def test_a_run_that_goes_on_from_another_has_its_curve_up_to_there(tmp_path):
    before, file = tmp_path / "before.jsonl", tmp_path / "metrics.jsonl"
    before.write_text("".join(json.dumps({"step": step, "epoch": 1, "loss": float(step)}) + "\n" for step in (1, 2, 3)))
    with Metrics(file, step=2, before=before) as metrics:
        assert metrics.loss == 2.0
        metrics.step(record(3, loss=9.0))
    assert [found["loss"] for found in read(file)] == [1.0, 2.0, 9.0]
    assert len(read(before)) == 3
