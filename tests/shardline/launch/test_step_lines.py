"""Steps in what a program prints."""

import json
import os

import pytest

from shardline.launch.step_lines import StepLines

MONITOR = r"epoch: (?P<epoch>\d+) step: (?P<step>\d+), loss is (?P<loss>\S+)"
MINDFORMERS = (
    r"Epoch:\[ *(?P<epoch>\d+)/ *\d+\], step:\[ *(?P<step>\d+)/ *(?P<steps_per_epoch>\d+)\], loss: *(?P<loss>[^,]+),"
    r".* lr: *(?P<learning_rate>[^,\s]+)"
)


@pytest.fixture
def read(tmp_path):
    def read_text(text, patterns=(), keys=None, last_step=0, pieces=0):
        lines = StepLines(tmp_path / "metrics.jsonl", patterns, keys or {}, last_step)
        content = text.encode() if isinstance(text, str) else text
        size = pieces or len(content)
        for start in range(0, len(content), size):
            lines.feed(content[start : start + size])
        file = tmp_path / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    return read_text


def test_lines_of_mindspores_loss_monitor_count_on_from_epoch_to_epoch(read):
    text = "".join(f"epoch: {e} step: {s}, loss is {e}.{s}\nsomething else\n" for e in (1, 2, 3) for s in (1, 2))
    steps = read(text, [MONITOR])
    assert [(one["step"], one["epoch"], one["loss"]) for one in steps] == [
        (1, 1, 1.1), (2, 1, 1.2), (3, 2, 2.1), (4, 2, 2.2), (5, 3, 3.1), (6, 3, 3.2),
    ]  # fmt: skip


def test_lines_of_mindformers_say_how_many_steps_an_epoch_has(read):
    text = (
        "2024 - INFO - { Epoch:[  1/  2], step:[   10/  100], loss: 5.5, per_step_time: 9ms, lr: 1e-05, x }\n"
        "2024 - INFO - { Epoch:[  2/  2], step:[   20/  100], loss: 5.1, per_step_time: 9ms, lr: 1e-06, x }\n"
    )
    assert read(text, [MINDFORMERS]) == [
        {"step": 10, "epoch": 1, "loss": 5.5, "learning_rate": 1e-05},
        {"step": 120, "epoch": 2, "loss": 5.1, "learning_rate": 1e-06},
    ]


def test_json_lines_are_read_by_their_keys(read):
    text = '{"global_step": 3, "train": {"x": 1}, "loss": 2}\n{"loss": 1}\n{"global_step": 4, "lr": 0.5}\n[1]\n{bad\n'
    steps = read(text, keys={"step": "global_step", "learning_rate": "lr"})
    assert steps == [{"step": 3, "loss": 2.0}, {"step": 4, "loss": 1.0, "learning_rate": 0.5}]


def test_a_loss_without_a_step_is_a_step(read):
    assert read("loss=3\nloss=2\n", [r"loss=(?P<loss>\S+)"]) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]


def test_fields_of_several_lines_meet_in_the_step_that_follows(read):
    text = "epoch 7\nlr 0.25\nstep 1 loss 9\n"
    patterns = [r"epoch (?P<epoch>\d+)", r"lr (?P<learning_rate>\S+)", r"step (?P<step>\d+) loss (?P<loss>\S+)"]
    assert read(text, patterns) == [{"step": 1, "epoch": 7, "loss": 9.0, "learning_rate": 0.25}]


@pytest.mark.parametrize("size", [1, 7])
def test_pieces_of_any_size_are_read_alike(read, size):
    text = "epoch: 1 step: 1, loss is 3\nepoch: 1 step: 2, loss is 2\nepoch: 1 step: 3, loss is 1"
    assert [one["step"] for one in read(text, [MONITOR], pieces=size)] == [1, 2], "the last line has no end yet"


def test_steps_of_an_earlier_try_are_not_told_again(read):
    text = "".join(f"epoch: 1 step: {step}, loss is 1\n" for step in (1, 2, 3, 2, 3, 4))
    assert [one["step"] for one in read(text, [MONITOR], last_step=2)] == [3, 4]


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_loss_that_is_no_number_is_absent_and_the_step_is_there(read, loss):
    assert read(f"epoch: 1 step: 1, loss is {loss}\n", [MONITOR]) == [{"step": 1, "epoch": 1, "loss": None}]


@pytest.mark.parametrize("text", ["epoch: 1 step: 1e999, loss is 1\n", b"\xff\xfe\x00\n" * 100, "x" * 1_000_000 + "\n"])
def test_nonsense_is_passed_over(read, text):
    assert read(text, [MONITOR.replace(r"step: (?P<step>\d+)", r"step: (?P<step>\S+)")]) == []


def test_a_line_that_the_drive_takes_in_parts_is_whole(read, monkeypatch):
    write = os.write
    monkeypatch.setattr("shardline.launch.step_lines.os.write", lambda file, line: write(file, line[:5]))
    assert read("loss=3\nloss=2\n", [r"loss=(?P<loss>\S+)"]) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
