import io
import time

from shardline.base import progress
from shardline.base.progress import Meter, ReportingMeter, describe, human_size
from tests.patience import PATIENCE_S


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_has_tensors_bytes_rate_and_time_left():
    meter = Meter()
    meter.begin("merging", 4_000_000_000, 10)
    meter.advance(1_000_000_000, tensors=2)
    assert describe(meter, 2.0) == "merging: 2/10 tensors, 1 GB of 4 GB, 500 MB/s, 6 s left"


def test_a_log_gets_a_line_every_few_seconds(monkeypatch):
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.02)
    stream = io.StringIO()
    meter = ReportingMeter(stream)
    with meter.running():
        meter.begin("merging", 100, 1)
        meter.advance(50)
        deadline = time.monotonic() + PATIENCE_S
        while stream.getvalue().count("\n") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 2
    assert lines[-1].startswith("merging: 0/1 tensor, 50 B of 100 B")
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_a_bar_that_ends_full():
    stream = Terminal()
    meter = ReportingMeter(stream)
    with meter.running():
        meter.begin("merging", 100, 1)
        meter.advance(100, tensors=1)
        meter.begin("proving", 100, 1)
        meter.advance(50)
    merging, proving, _ = stream.getvalue().split("\n")
    assert merging.split("\r")[-1].startswith("\x1b[K[########################] merging: 1/1 tensor")
    assert proving.split("\r")[-1].startswith("\x1b[K[############............] proving: 0/1 tensor")


def test_a_short_merge_says_nothing_in_a_log():
    stream = io.StringIO()
    with ReportingMeter(stream).running():
        pass
    assert stream.getvalue() == ""


def test_sizes_have_three_digits():
    assert [human_size(n) for n in (0, 999, 1000, 1234567, 999_600_000, 5 * 10**15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.23 MB",
        "1 GB",
        "5 PB",
    ]
