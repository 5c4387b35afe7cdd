"""Metrics are read once and then on; what is left out never hides a spike."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.page import curves as module
from shardline.page.curves import Curves, last_step
from shardline.page.downsampling import extremes


@pytest.fixture
def metrics(run, files) -> Curves:
    return Curves(files, run.metrics_file)


def append(run, *records: dict[str, Any]) -> None:
    with run.metrics_file.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def steps(first, last, **more: float) -> list[dict[str, Any]]:
    return [{"step": step, "epoch": 1, "loss": 1 / step, **more} for step in range(first, last + 1)]


def test_nothing_is_known_before_the_first_step(metrics):
    assert metrics.last() == {}
    assert metrics.series("loss", points=100)["steps"] == []


def test_what_is_appended_is_read_on(run, metrics):
    append(run, *steps(1, 3))
    assert metrics.last()["step"] == 3
    append(run, *steps(4, 5), {"epoch": 1, "samples_per_second": 800.0})
    found = metrics.series("loss", points=100)
    assert (found["steps"], found["values"]) == ([1, 2, 3, 4, 5], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert found["epochs"] == [{"epoch": 1, "samples_per_second": 800.0}]


def test_only_what_was_appended_is_parsed(run, metrics, monkeypatch):
    append(run, *steps(1, 100))
    metrics.last()
    parsed = []
    monkeypatch.setattr(module, "_parse", lambda lines: parsed.append(lines) or ([], 0))
    append(run, *steps(101, 101))
    metrics.last()
    metrics.last()
    assert [json.loads(lines)["step"] for lines in parsed] == [101]


def test_a_line_that_is_still_being_written_waits(run, metrics):
    append(run, *steps(1, 2))
    with run.metrics_file.open("a") as file:
        file.write('{"step": 3, "epoch"')
        file.flush()
        assert metrics.last()["step"] == 2
        file.write(': 1, "loss": 0.5}\n')
    assert metrics.last() == {"step": 3, "epoch": 1, "loss": 0.5} | dict.fromkeys(
        ("validation_loss", "learning_rate", "gradient_norm", "samples_per_second")
    )


def test_a_try_that_resumes_replaces_what_the_earlier_one_recorded(run, metrics):
    append(run, *steps(1, 50))
    assert metrics.last()["step"] == 50
    shorter = run.path / "shorter"
    shorter.write_text("".join(json.dumps(record) + "\n" for record in steps(1, 20)))
    shorter.replace(run.metrics_file)
    assert metrics.series("loss", points=100)["steps"] == list(range(1, 21))


def test_metrics_that_are_not_recorded_are_not_offered(run, metrics):
    append(run, *steps(1, 3, gradient_norm=0.5))
    assert metrics.series("loss", points=100)["names"] == ["loss", "gradient_norm"]
    assert metrics.series("learning_rate", points=100)["steps"] == []


def test_a_loss_that_is_no_number_is_counted_and_left_blank(run, metrics):
    append(run, *steps(1, 2), {"step": 3, "epoch": 1, "loss": float("nan")}, {"step": 4, "epoch": 1, "loss": 1.0})
    found = metrics.series("loss", points=100, smoothing=0.5)
    assert found["values"] == [1.0, 0.5, None, 1.0]
    assert found["smoothed"][2] is None
    assert found["not_finite"] == {"count": 1, "first_step": 3}


def test_a_part_of_the_steps_comes_in_all_its_detail(run, metrics):
    append(run, *steps(1, 10_000))
    assert len(metrics.series("loss", points=100)["steps"]) <= 102
    found = metrics.series("loss", points=100, first=500, last=549.5)
    assert found["steps"] == list(range(500, 550))
    assert found["last_step"] == 10_000


def test_the_average_is_made_of_all_steps(run, metrics):
    append(run, *steps(1, 1000))
    weight, average = 0.9, 0.0
    for step in range(1, 1001):
        average = weight * average + (1 - weight) / step
    found = metrics.series("loss", points=10, smoothing=weight)
    assert found["smoothed"][-1] == pytest.approx(average / (1 - weight**1000))
    assert found["smoothed"][0] == pytest.approx(1.0)


def test_memory_is_bounded_and_the_extremes_stay(run, metrics, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 1000)
    records = steps(1, 5000)
    records[1234]["loss"] = 99.0
    append(run, *records)
    found = metrics.series("loss", points=10_000)
    assert found["rows"] <= 1002
    assert max(found["values"]) == 99.0
    assert (found["steps"][0], found["steps"][-1]) == (1, 5000)


@pytest.mark.parametrize("line", ["nonsense", "3", "null", "[", '{"step": 9', "[" * 100_000, '{"step": 9}}', "\xff"])
def test_a_line_that_is_no_json_object_hides_no_other(run, metrics, line):
    append(run, *steps(1, 3))
    with run.metrics_file.open("a", encoding="latin-1") as file:
        file.write(line + "\n\n")
    append(run, *steps(4, 6))
    found = metrics.series("loss", points=100)
    assert (found["steps"], found["unreadable_lines"]) == ([1, 2, 3, 4, 5, 6], 1)


def test_a_line_longer_than_any_of_ours_is_passed_over(run, metrics, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 1000)
    append(run, *steps(1, 3))
    with run.metrics_file.open("a") as file:
        file.write('"' + "x" * 5000 + '"\n')
    append(run, *steps(4, 6))
    found = metrics.series("loss", points=100)
    assert found["steps"] == [1, 2, 3, 4, 5, 6]
    assert found["unreadable_lines"] > 0


def test_no_look_reads_more_than_its_share_and_the_looks_after_read_the_rest(run, metrics, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES_A_LOOK", 10_000)
    monkeypatch.setattr(module, "_CHUNK", 1000)
    append(run, *steps(1, 1000))
    size, read, found = run.metrics_file.stat().st_size, [], {"unread_bytes": 1}
    while found["unread_bytes"]:
        found = metrics.series("loss", points=10_000)
        read.append(size - found["unread_bytes"])
    assert len(read) == -(-size // 10_000)
    assert max(np.diff([0, *read])) <= 11_000
    assert found["steps"] == list(range(1, 1001))


@pytest.mark.parametrize("value", ["1e999", "NaN", f"1{'0' * 400}", "null", '"3"', "[3]"])
def test_a_step_that_is_no_number_is_passed_over(run, metrics, value):
    run.metrics_file.write_text(
        f'{{"step": {value}, "epoch": 1, "loss": 2.0}}\n{{"step": 4, "epoch": 1, "loss": 1.0}}\n'
    )
    assert metrics.series("loss", points=100)["steps"] == [4]


def test_the_length_of_an_epoch_is_known_once_the_second_began(run, metrics):
    append(run, *steps(1, 7))
    metrics.last()
    assert metrics.steps_per_epoch() is None
    append(run, {"step": 8, "epoch": 2, "loss": 0.1})
    metrics.last()
    assert metrics.steps_per_epoch() == 7


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=500),
    st.integers(min_value=2, max_value=60),
)
def test_down_sampling_keeps_ends_and_extremes_in_order(values, count):
    values = np.array(values)
    kept = extremes(values, count)
    assert len(kept) <= count + 2
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    assert (np.diff(kept) > 0).all()
    finite = values[np.isfinite(values)]
    if len(finite):
        shown = values[kept][np.isfinite(values[kept])]
        assert (shown.min(), shown.max()) == (finite.min(), finite.max())


def test_the_newest_step_is_read_from_the_end_of_the_file_alone(run, files):
    assert last_step(files) == {}
    append(run, *steps(1, 2000, loss=0.5))
    append(run, {"epoch": 2, "samples_per_second": 3.0})
    assert run.metrics_file.stat().st_size > 8192
    assert last_step(files) == {"step": 2000, "loss": 0.5}
    with run.metrics_file.open("a") as file:
        file.write('{"step": 2001, "lo')
    assert last_step(files) == {"step": 2000, "loss": 0.5}
    run.metrics_file.write_text('{"step": 1, "loss": NaN}\n')
    assert last_step(files) == {"step": 1, "loss": None}
