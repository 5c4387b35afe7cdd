"""What is printed, and what `metrics.jsonl` keeps when a run is resumed."""

import json

from tasks.training.metrics import Metrics


def test_lines_read_as_those_of_mindsporess_loss_monitor(capsys):
    with Metrics(None, step=0) as metrics:
        for step in range(1, 41):
            metrics.step(step, epoch=1, step_in_epoch=step, loss=2.29784, samples=32)
    assert capsys.readouterr().out == "epoch: 1 step: 20, loss is 2.2978\nepoch: 1 step: 40, loss is 2.2978\n"


def test_every_steps_loss_and_every_epochs_throughput_are_recorded(tmp_path):
    with Metrics(tmp_path / "metrics.jsonl", step=0) as metrics:
        metrics.step(1, epoch=1, step_in_epoch=1, loss=2.5, samples=32)
        metrics.step(2, epoch=1, step_in_epoch=2, loss=2.25, samples=32)
        metrics.epoch(1)
    *steps, epoch = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [{"step": 1, "epoch": 1, "loss": 2.5}, {"step": 2, "epoch": 1, "loss": 2.25}]
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
        metrics.step(3, epoch=1, step_in_epoch=3, loss=1.0, samples=1)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 3]


def test_a_run_from_the_start_begins_anew(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "epoch": 1, "loss": 2.0}\n')
    with Metrics(file, step=0) as metrics:
        assert metrics.loss is None
    assert file.read_text() == ""
