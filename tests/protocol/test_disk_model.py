"""save → manifest → adopt → merge, reshard → promote → housekeeping, on a disk that dies at any call and loses what it
may.

Three runs of two ranks, of one model, and a folder into which a program saves that knows nothing of ours. Each task is
the real one; the ranks save one after the other, in this process, four numbers each. After every death the machine
starts again, with what `tests/lossy_disk.py` says is left: what everybody sees then is whole (`invariants.py`), and the
same task done again succeeds.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mindspore import Parameter, Tensor, nn

from shardline.base import atomic
from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.checkpoint.merging import merge as merging
from shardline.checkpoint.merging.reshard import ReshardRequest, reshard
from shardline.checkpoint.shards.adopter import Adopter
from shardline.checkpoint.shards.adoption import Cut
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import OperatorStrategy, Strategy, write_strategy
from shardline.run.directory import Home, RunDirectory
from shardline.run.merged_model import read_merged
from shardline.run.readers import reading
from shardline.run.slices_to_merge import merge_run
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import ModelStore
from shardline.store.promotion import promote
from shardline.store.retention import cleanup_of, free
from shardline.training import starting
from shardline.training.context import TrainingContext
from shardline.training.provenance import Provenance
from shardline.training.receipts import Receipts
from shardline.training.saving import Saver
from tests.campaign_record import record
from tests.lossy_disk import KILLED, LOSSES, mounted
from tests.protocol import invariants

RUNS, RANKS, LAST = 3, 2, 4
LAYOUT = Layout((RANKS,), ((0,), ()))


@dataclass
class Rank:
    """What saving and resuming ask of a backend, for a tensor of two rows, of which each rank holds one."""

    rank: int
    world_size: int = RANKS

    def held(self, parameters: Any) -> list[Any]:
        return list(parameters)


def rows(run: int, step: int) -> np.ndarray:
    """The whole tensor of a run after `step` steps."""
    return (np.arange(4, dtype=np.float32) + 100 * run + step).reshape(2, 2)


def cell(run: int, step: int, rank: int) -> nn.Cell:
    """What a rank saves."""
    network = nn.Cell()
    network.weight = Parameter(Tensor(rows(run, step)[rank : rank + 1]), name="weight")
    return network


def strategy_file(folder: Path) -> Path:
    """What says how all of them are cut, in `folder`."""
    file = folder / "strategy.ckpt"
    write_strategy(Strategy(0, {"MatMul_x": OperatorStrategy(0, ((RANKS, 1),))}, {"weight": LAYOUT}), file)
    return file


@st.composite
def deaths(draw: Callable[..., Any], most: int) -> tuple[int | None, str, int]:
    """At which call a task dies, if it does; what is lost; and a seed for what is left."""
    return draw(st.integers(0, most)) or None, draw(st.sampled_from(LOSSES)), draw(st.integers(0, 1 << 16))


class Pipeline(RuleBasedStateMachine):
    """The tasks in any order in which Airflow may start them."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        # In memory where that is a file system: what is flushed there costs nothing, and nothing is read but here.
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="shardline-disk-", dir=place))
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self.strategy, root = strategy_file(folder), folder / "disk"
        root.mkdir()
        self.disk = self.stack.enter_context(mounted(root))
        self.home = Home(root)
        self.queued: dict[int, int | None] = {}
        self.needed: dict[int, RunDirectory] = {}
        """By the reader: the run with whose newest set it is to begin."""
        self.reader: tuple[int, ExitStack] | None = None
        self.saved: dict[int, int] = {}
        """The newest step of each run whose saving has returned, and was not freed."""
        self.promoted = 0
        self.foreign = root / "foreign"
        atomic.make_directory(self.foreign)
        """Where a program saves: `rank_N/net-1_STEP.ckpt`, and flushes nothing."""
        self.adopted, self.resharded = 0, set[int]()

    def teardown(self) -> None:
        self.stop_reading()
        self.stack.close()

    # What is there

    def run(self, number: int) -> RunDirectory:
        return RunDirectory(self.home.run("training", f"run{number}"))

    def newest(self, number: int) -> int:
        return max(ShardSet.steps(self.run(number).checkpoints), default=0)

    def survives(self, death: tuple[int | None, str, int], task: Callable[[], object]) -> bool:
        died = self.disk.dies(*death, task)
        if died:
            self.stop_reading()  # everybody died, or looks at files that are no more
        return not died

    def stop_reading(self) -> None:
        if self.reader is not None:
            self.reader[1].close()
            self.reader = None

    # What happens

    @initialize(steps=st.integers(0, 2))
    def begin(self, steps: int) -> None:
        self.queue(None)
        if steps:
            self.train(0, steps, (None, LOSSES[0], 0))

    @precondition(lambda self: len(self.queued) < RUNS)
    @rule(source=st.none() | st.integers(0, RUNS - 1))
    def queue(self, source: int | None) -> None:
        """A run is prepared; perhaps it is to go on from another, which has trained."""
        number = len(self.queued)
        source = None if source is None or not self.saved else self._one_of(self.saved, source)
        of = None if source is None else self.run(source).path.name
        config = RunConfig(world_size=RANKS, model_name="m", keep_checkpoint_max=2, resume_from=of)
        self.run(number).write_config(config)
        self.queued[number] = source
        if source is not None:
            self.needed[number] = self.run(source)

    @precondition(lambda self: self.queued)
    @rule(chosen=st.integers(0, RUNS - 1), steps=st.integers(1, 2), death=deaths(90))
    def train(self, chosen: int, steps: int, death: tuple[int | None, str, int]) -> None:
        number = self._one_of(self.queued, chosen)
        done: list[int] = []
        self.survives(death, lambda: self._train(number, steps, done))
        if done:
            self.saved[number] = max(done)
        if self.newest(number):
            self.needed.pop(number, None)  # it goes on from its own now
        assert self.newest(number) >= self.saved.get(number, 0), "what was said to be saved is there"

    def _train(self, number: int, steps: int, done: list[int]) -> None:
        run = self.run(number)
        with run.lock():
            alone = self._context(run, number, 0, Rank(0, world_size=1))
            alone.receipts.clear()
            source = self.queued[number]
            if not self.newest(number) and source is not None and number not in self.needed and not self.newest(source):
                with pytest.raises(ConfigError, match="holds no complete shard set"):
                    starting._candidate(alone)  # both runs were freed since it trained
                return
            found = starting._candidate(alone)
            if found is not None and found.run.path != run.path and found.shard_set.step >= LAST:
                return  # refused: nothing is left to train
            if found is not None:
                starting._tidy(found, alone)
            begin = found.shard_set.step if found is not None else 0
            for rank in range(RANKS):
                Saver(self._context(run, number, begin, Rank(rank))).discard_incomplete()
            for step in range(begin + 1, min(begin + steps, LAST) + 1):
                for rank in reversed(range(RANKS)):
                    Saver(self._context(run, number, step, Rank(rank))).save(step, 1, step)
                done.append(step)
            atomic.write_text(run.train_file, "{}")
        assert not invariants.leftovers(run.checkpoints)

    def _context(self, run: RunDirectory, number: int, step: int, rank: Rank) -> TrainingContext:
        return TrainingContext(
            run=run,
            config=run.read_config(),
            backend=rank,
            receipts=Receipts(run.checkpoints, patience_seconds=1),
            cell=cell(number, step, rank.rank),
            provenance=Provenance(self.strategy.read_bytes(), {"decides": "all"}),
        )

    @precondition(lambda self: self._may_be_damaged())
    @rule(chosen=st.integers(0, RUNS - 1), manifest=st.booleans(), death=deaths(40))
    def set_aside(self, chosen: int, manifest: bool, death: tuple[int | None, str, int]) -> None:
        """The newest set is damaged; training goes on from the one before, done again where it dies."""
        number = self._one_of(self._may_be_damaged(), chosen)
        run, step = self.run(number), self.newest(number)
        before = ShardSet.steps(run.checkpoints)[-2]
        newest = ShardSet.read(ShardSet.path(run.checkpoints, step))
        slices = [run.checkpoints / item.path for item in newest.slices]
        damage(ShardSet.path(run.checkpoints, step) if manifest else slices[1])
        found = {path.read_bytes() for path in slices}
        self.saved[number] = before
        done: list[int] = []
        if not self.survives(death, lambda: self._train(number, 2, done)):
            self.survives((None, LOSSES[0], 0), lambda: self._train(number, 2, done))
        self.saved[number] = max(done)
        if death[1] == KILLED:  # a power failure may take what is kept as evidence alone
            assert found <= {path.read_bytes() for path in run.checkpoints.rglob("*.ckpt")}, "nothing is thrown away"

    @rule(death=deaths(30))
    def adopt(self, death: tuple[int | None, str, int]) -> None:
        """The program saves another step, and what is there is adopted."""
        adopted = ShardSet.steps(self.foreign)
        step = max(adopted, default=0) + 1
        if step > LAST:
            return

        def task() -> None:
            for rank in range(RANKS):
                folder = self.foreign / f"rank_{rank}"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"net-1_{step}.ckpt").write_bytes(self._foreign_slice(rank, step))
            adopter = Adopter(self.foreign, lambda: Cut.of([self.strategy]), lambda _: None)
            adopter.look(0.0, has_ended=True)
            assert not adopter.refused
            assert ShardSet.steps(self.foreign) == [*adopted, step]

        if self.survives(death, task):
            self.adopted = step

    def _foreign_slice(self, rank: int, step: int) -> bytes:
        file = self.strategy.with_name("slice.ckpt")
        write_checkpoint({"weight": rows(RUNS, step)[rank : rank + 1]}, file)
        return file.read_bytes()

    @precondition(lambda self: self.saved)
    @rule(chosen=st.integers(0, RUNS - 1), death=deaths(50))
    def reshard(self, chosen: int, death: tuple[int | None, str, int]) -> None:
        """For one rank; what was there before is replaced."""
        number = self._one_of(self.saved, chosen)
        run, step = self.run(number), self.newest(number)

        def task() -> None:
            source = run.strategy_saved_with(ShardSet.read(ShardSet.path(run.checkpoints, step)).strategy_digest)
            request = ReshardRequest((), run.resharded, run.checkpoints, (source,), workers=1, unsharded=True)
            with run.lock():
                reshard(replace(request, step=str(step), replaces=True))

        if self.survives(death, task):
            self.resharded.add(number)
            (file,) = run.resharded.glob("rank_0/*.ckpt")
            np.testing.assert_array_equal(read_checkpoint(file)["weight"], rows(number, step))
            assert not [path for path in run.path.glob(".resharded.*") if path.is_dir()]

    @precondition(lambda self: self.saved)
    @rule(chosen=st.integers(0, RUNS - 1), death=deaths(30))
    def merge(self, chosen: int, death: tuple[int | None, str, int]) -> None:
        number = self._one_of(self.saved, chosen)
        run, step = self.run(number), self.newest(number)

        def task() -> None:
            with run.lock():
                merge_run(run, workers=1)

        if self.survives(death, task):
            merged = read_checkpoint(run.merged / "model.ckpt")
            np.testing.assert_array_equal(merged["weight"], rows(number, step))
            found = [path.name for path in run.merged.iterdir() if path.name != ".freed.model.ckpt"]  # housekeeping's
            assert sorted(found) == ["model.ckpt", "model.ckpt.merge.json"]

    @precondition(lambda self: self._merged())
    @rule(chosen=st.integers(0, RUNS - 1), death=deaths(45))
    def promote(self, chosen: int, death: tuple[int | None, str, int]) -> None:
        number = self._one_of(self._merged(), chosen)
        run, results = self.run(number), []

        def task() -> None:
            with run.lock():
                report = {"passed": True, "failures": [], "metric": "accuracy", "accuracy": 1.0}
                merged = {"digest": read_merged(run).digest}
                atomic.write_text(run.report_file, json.dumps({**report, "merged": merged}))
                results.append(promote(run, self.home))

        before = len(self._store().versions())
        if self.survives(death, task):
            (result,) = results
            current = self._store().current()
            assert current is not None
            assert current.version >= result["version"]
            assert len(self._store().versions()) <= before + 1
            assert not invariants.leftovers(self.home.models)
            self.promoted = max(self.promoted, result["version"])

    @precondition(lambda self: self.promoted)
    @rule(death=deaths(6))
    def roll_back(self, death: tuple[int | None, str, int]) -> None:
        if self.survives(death, lambda: self._store().roll_back(1)):
            assert self._store().current_number() == 1

    @precondition(lambda self: self.saved and self.reader is None)
    @rule(chosen=st.integers(0, RUNS - 1))
    def start_reading(self, chosen: int) -> None:
        """A merge on request begins to read from a run."""
        number, stack = self._one_of(self.saved, chosen), ExitStack()
        stack.enter_context(reading(self.run(number).path))
        self.reader = number, stack

    @precondition(lambda self: self.reader is not None)
    @rule()
    def end_reading(self) -> None:
        self.stop_reading()

    @precondition(lambda self: self.saved or self._merged())
    @rule(keep=st.integers(0, 1), merged=st.booleans(), death=deaths(40))
    def housekeeping(self, keep: int, merged: bool, death: tuple[int | None, str, int]) -> None:
        freed: list[Path] = []

        def task() -> None:
            cleanup = cleanup_of(self.home, HousekeepingConfig(keep_runs=keep, merged=merged))
            freed.extend(run.path for run in cleanup.runs)
            done, _ = free(cleanup)
            assert not [path for run in done for path in run.path.glob(".freed.*")]

        held = self._held()
        self.survives(death, task)
        invariants.what_is_needed_exists(held)
        for number in range(RUNS):
            if self.run(number).path not in freed:
                continue
            if merged:  # new slices, too
                self.resharded.discard(number)
            if not self.newest(number):
                self.saved.pop(number, None)

    def _held(self) -> list[RunDirectory]:
        """What the reader reads from, if a set is left there."""
        return [self.run(self.reader[0])] if self.reader is not None and self.newest(self.reader[0]) else []

    def _may_be_damaged(self) -> list[int]:
        """The runs that have another set to go on from, and that nobody else is to read from."""
        read = {run.path for run in (*self.needed.values(), *self._held())}
        ours = (number for number in self.saved if self.run(number).path not in read)
        return [number for number in ours if len(ShardSet.steps(self.run(number).checkpoints)) > 1]

    def _merged(self) -> list[int]:
        return [number for number in range(RUNS) if (self.run(number).merged / "model.ckpt").is_file()]

    def _store(self) -> ModelStore:
        return ModelStore(self.home, "m")

    @staticmethod
    def _one_of(numbers: Any, chosen: int) -> int:
        return sorted(numbers)[chosen % len(numbers)]

    @invariant()
    def all_is_whole(self) -> None:
        invariants.check(self.home, self.needed.values(), self.promoted)
        invariants.what_was_adopted_is_whole(self.foreign, self.adopted)
        invariants.what_was_resharded_is_whole(self.home, [self.run(number) for number in self.resharded])


def damage(file: Path) -> None:
    """Change a byte in the middle of `file`, as a disk does on its own: nobody has to flush that."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    mode = file.stat().st_mode
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    file.chmod(mode)


@pytest.fixture(autouse=True)
def _flushed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a merge also flushes from time to time promises nothing, and hangs on the machine's speed."""
    monkeypatch.setattr(merging, "_FLUSH_SECONDS", 3600)


SEQUENCES = settings(
    max_examples=200,
    stateful_step_count=12,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)


def test_the_pipeline_on_a_disk_that_dies_at_any_call() -> None:
    """The same sequences every time; the campaign looks for others."""
    run_state_machine_as_test(Pipeline, settings=settings(SEQUENCES, derandomize=True))


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", range(20))
def test_the_pipeline_on_a_disk_that_dies_at_any_call_ten_thousand_times(number: int) -> None:
    machine = seed(number)(type("Pipeline", (Pipeline,), {}))
    try:
        run_state_machine_as_test(machine, settings=settings(SEQUENCES, max_examples=500))
    except BaseException as error:
        record("disk", "sequences of tasks", tries=500, failed=[f"{type(error).__name__}: {error!s:.300}"], seed=number)
        raise
    record("disk", "sequences of tasks", tries=500, failed=[], seed=number)
