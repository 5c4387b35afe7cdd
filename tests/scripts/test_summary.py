"""The loss curve in the terminal."""

import json

import pytest

from scripts.summary import curve, losses, quality, summary
from shardline.base.errors import RunDirectoryError
from shardline.run.directory import RunDirectory


def test_a_curve_falls_from_the_top_left_to_the_bottom_right():
    rows = curve([4.0, 3.0, 2.0, 1.0], height=4)
    assert [row[11:] for row in rows[:-1]] == ["█   ", "██  ", "███ ", "████"]
    assert rows[0].startswith("Loss  4.00")
    assert rows[-1].endswith("step 4, loss 1.000")


def test_a_long_curve_is_drawn_from_the_means_of_its_parts():
    rows = curve([8.0] * 500 + [4.0] * 500, width=2, height=2)
    assert [row[11:] for row in rows[:-1]] == ["█ ", "██"]


def test_nothing_is_drawn_of_nothing():
    assert curve([]) == []


def test_a_curve_of_zeros_is_flat():
    assert [row[11:] for row in curve([0.0, 0.0], height=2)[:-1]] == ["  ", "  "]


def test_losses_leave_out_the_epochs_records(tmp_path):
    lines = [
        {"step": 1, "epoch": 1, "loss": 2.5},
        {"step": 2, "epoch": 1, "loss": 1.5},
        {"epoch": 1, "samples_per_second": 9},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert losses(RunDirectory(tmp_path)) == [2.5, 1.5]


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (
            {"metric": "accuracy", "accuracy": 0.9481, "samples": 500, "min_accuracy": 0.9},
            "Accuracy   0.948 on 500 held-out images (at least 0.9 was asked)",
        ),
        (
            {"metric": "perplexity", "perplexity": 7.5, "tokens": 99, "max_perplexity": 20.0, "unigram_perplexity": 22},
            "Perplexity 7.500 on 99 held-out tokens (at most 20 was asked; without context, 22.0 is the best)",
        ),
        ({"metric": "recall", "recall": 0.5}, "Recall     0.500"),
    ],
    ids=lambda value: value["metric"] if isinstance(value, dict) else "",
)
def test_the_first_line_tells_the_metric_by_which_it_was_validated(report, line):
    assert quality(report) == line


def test_an_unfinished_run_says_which_task_is_missing(tmp_path):
    with pytest.raises(RunDirectoryError, match="the task validate writes it"):
        summary(RunDirectory(tmp_path))
