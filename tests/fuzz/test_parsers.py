"""No file, whatever is in it, is answered otherwise than by what it says or by an error of ours: soon, and in little
memory. Inputs are numbered from 0 on and replay by their numbers: `Fuzzer(PARSERS[NAME]).input(NUMBER)`."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardline.base.errors import ShardlineError
from tests.campaign_record import record
from tests.fuzz.mutation import mutated
from tests.fuzz.parsers import PARSERS, Parser

MOST_SECONDS, MOST_BYTES = 2, 64 << 20
INPUTS = 300
INPUTS_OF_THE_CAMPAIGN = 1_000_000 // len(PARSERS) + 1


class TooLong(BaseException):
    """The processor has worked on one input for longer than any file may take."""


class Fuzzer:
    """A parser with a folder of its own, in memory where there is such a file system."""

    def __init__(self, parser: Parser) -> None:
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(prefix="shardline-fuzz-", dir=place)
        self._parser, self._seeds = parser, parser.seeds(Path(self._folder.name))
        self._file = Path(self._folder.name) / parser.name
        self.outcomes: Counter[str] = Counter()

    def input(self, number: int) -> bytes:
        return mutated(self._seeds, random.Random(number))

    def check_seeds(self) -> None:
        """What is right is read."""
        for content in self._seeds:
            self._file.write_bytes(content)
            self._parser.parse(self._file)

    def failures(self, numbers: Iterable[int]) -> dict[str, tuple[int, bytes]]:
        """The first input of each kind of failure, with its number."""
        failed: dict[str, tuple[int, bytes]] = {}
        for number in numbers:
            content = self.input(number)
            if kind := self._failure(content):
                failed.setdefault(kind, (number, content[:2000]))
        return failed

    def _failure(self, content: bytes) -> str:
        """What is wrong with how `content` is answered; nothing where all is as it should be."""
        self._file.write_bytes(content)
        before = peak_memory()
        try:
            with limited():
                self._parser.parse(self._file)
            self.outcomes["read"] += 1
        except ShardlineError as error:
            self.outcomes[type(error).__name__] += 1
        except (Exception, TooLong) as error:  # noqa: BLE001  whatever it is, it is none of ours
            frames = traceback.extract_tb(error.__traceback__)
            place = ([frame for frame in frames if "/shardline/" in frame.filename] or frames)[-1]
            return f"{type(error).__name__} in {place.name}, line {place.lineno} of {Path(place.filename).name}"
        used = peak_memory() - before
        return f"{used >> 20} MiB of memory" if used > 10 * len(content) + MOST_BYTES else ""

    def close(self) -> None:
        self._folder.cleanup()


@contextmanager
def limited() -> Iterator[None]:
    """`TooLong` in the block when it has used the processor for MOST_SECONDS; waiting for the processor is no fault."""

    def end(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak_memory() -> int:
    """The most bytes that this process has had in memory since the mark was last reset, or since its start."""
    status = Path("/proc/self/status").read_bytes()
    return int(status.partition(b"VmHWM:")[2].split()[0]) << 10


@pytest.fixture
def fuzzer(request: pytest.FixtureRequest) -> Iterator[Fuzzer]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    fuzzer = Fuzzer(PARSERS[request.param])
    yield fuzzer
    fuzzer.close()


each_parser = pytest.mark.parametrize("fuzzer", PARSERS, indirect=True)


@each_parser
def test_every_input_is_read_or_refused_by_an_error_of_ours(fuzzer: Fuzzer) -> None:
    fuzzer.check_seeds()
    assert not fuzzer.failures(range(INPUTS))
    assert 0 < fuzzer.outcomes["read"] < INPUTS, "some are refused"


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("fuzzer", "name"), [(name, name) for name in PARSERS], indirect=["fuzzer"])
def test_a_million_inputs(fuzzer: Fuzzer, name: str) -> None:
    failed = fuzzer.failures(range(INPUTS_OF_THE_CAMPAIGN))
    record("parsers", name, tries=INPUTS_OF_THE_CAMPAIGN, failed=list(failed), seed="0 to the number of tries")
    assert not failed
