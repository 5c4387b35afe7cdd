"""Merges that end at their n-th call of the system: killed there, or refused there, for every n.

    python -m tests.shardline.checkpoint.merging.killing SCENARIO FOLDER {killed,full}

Each one is a process of its own, forked from this one, which has loaded all that they need. After each, what lies
there must be the old output or the new one, whole and verified, and a merge done again must leave the new one and
nothing else.
Prints how many calls there were, and what was wrong after which of them. A disk that is full refuses no removal.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shardline.base.errors import CheckpointError
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.parts import Part, commit_parts, plan_parts, write_part
from shardline.checkpoint.merging.publish import main_digest
from shardline.checkpoint.merging.record_file import record_path
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.merging.verify import verify
from shardline.checkpoint.strategy.layout import Layout
from tests.shardline.checkpoint.sharding import save_shards, save_strategy

LAYOUTS = {name: Layout((2,), ((0,),)) for name in ("a", "b", "c", "d", "e")}
AUDITED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
PATCHED = ("pwritev", "fsync", "posix_fallocate")
OURS = ("ckpt", "json", "safetensors", ".staged", ".lock", "out", "parts")
SINGLE, SEVERAL = {"name": "model.ckpt"}, {"name": "model.safetensors", "max_file_size": 80}


@dataclass(frozen=True)
class Scenario:
    """What was merged before (`None`: nothing) and what is merged now, as options of a request."""

    old: dict[str, Any] | None
    new: dict[str, Any]
    in_parts: bool = False
    as_earlier: bool = False
    """Whether the old record lies where an earlier Shardline wrote it."""


SCENARIOS = {
    "first": Scenario(None, SINGLE),
    "another": Scenario(SINGLE, SINGLE),
    "checksum": Scenario(SINGLE, {**SINGLE, "crc": True}),
    "first_several": Scenario(None, SEVERAL),
    "several": Scenario(SEVERAL, SEVERAL),
    "fewer": Scenario(SEVERAL, {**SEVERAL, "max_file_size": 200}),
    "several_become_one": Scenario(SEVERAL, {"name": "model.safetensors"}),
    "one_becomes_several": Scenario({"name": "model.safetensors"}, SEVERAL),
    "other_name_in_own_folder": Scenario(
        {**SINGLE, "owns_folder": True}, {"name": "model.safetensors", "owns_folder": True}
    ),
    "earlier_record": Scenario(SINGLE, SINGLE, as_earlier=True),
    "in_parts": Scenario(SINGLE, SINGLE, in_parts=True),
    "several_in_parts": Scenario(SEVERAL, {**SEVERAL, "max_file_size": 200}, in_parts=True),
}


class Calls:
    """Counts this process's calls of the system, and does `act` before number `last`."""

    def __init__(self, last: int, act: Callable[[], None]) -> None:
        self.count, self._last, self._act = 0, last, act

    def install(self) -> None:
        sys.addaudithook(self._audited)
        for name in PATCHED:
            setattr(os, name, self._counted(getattr(os, name)))

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        removes = event in ("os.remove", "os.rmdir")
        if event in AUDITED and str(arguments[0]).endswith(OURS) and not (removes and self._act is refuse):
            self._call()

    def _counted(self, genuine: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._call()
            return genuine(*arguments)

        return call

    def _call(self) -> None:
        self.count += 1
        if self.count == self._last:
            self._act()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Trial:
    """One scenario in `folder`, again and again."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.folder, self.scenario = folder, scenario
        self.strategy = save_strategy(folder / "strategy.ckpt", LAYOUTS)
        for name, value in (("old", 1), ("new", 2)):
            whole = {tensor: np.full(8, value, np.float32) for tensor in LAYOUTS}
            save_shards(folder / name, whole, LAYOUTS, world_size=2)
        self.digests: dict[str, dict[str, set[float]]] = {}
        """What the tensors of an output of this digest hold."""
        self.before = folder / "before"
        self.before.mkdir()
        if scenario.old is not None:
            request = self.request("old", scenario.old)
            self.digests[merge(request).digest] = {name: {1.0} for name in LAYOUTS}
            if scenario.as_earlier:
                record_path(request.output).rename(request.output.with_name("merge.json"))
            request.output.parent.rename(folder / "kept")
            self.before.rmdir()
            (folder / "kept").rename(self.before)
        self.reset()
        self.digests[self.run().digest] = {name: {2.0} for name in LAYOUTS}
        self.wanted = self.contents()

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def request(self, shards: str, options: dict[str, Any]) -> MergeRequest:
        options = dict(options)
        output = self.out / options.pop("name")
        return MergeRequest(self.folder / shards, (self.strategy,), output, workers=1, **options)

    def run(self) -> Any:
        request = self.request("new", self.scenario.new)
        if not self.scenario.in_parts:
            return merge(request)
        plan_parts(request)
        write_part(request.output, Part(1, 1), workers=1)
        return commit_parts(request.output, workers=1)

    def reset(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.before, self.out)

    def contents(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.out)): path.read_bytes() for path in self.out.rglob("*") if path.is_file()}

    def ends_at(self, last: int, act: Callable[[], None]) -> bool:
        """Whether a merge in a process of its own ended at its call number `last`, instead of finishing before."""
        self.reset()
        if (child := os.fork()) == 0:
            calls = Calls(last, act)
            calls.install()
            try:
                self.run()
            except CheckpointError:
                os._exit(1)
            except OSError as error:
                print(f"call {last}: no error of ours: {error!r}", flush=True)
                os._exit(2)
            os._exit(0 if calls.count < last else 3)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return False
        expected = status == signal.SIGKILL if act is kill else os.WEXITSTATUS(status) in (1, 3)
        assert expected, f"call {last}: ended with the status {status}"
        return True

    def faults(self, leaves_nothing: bool) -> list[str]:
        """What is wrong with what lies there now."""
        found = [fault for fault in (self._pair(), self._leftovers() if leaves_nothing else "") if fault]
        if self.scenario.in_parts:
            with suppress(CheckpointError):  # where there is nothing to commit
                commit_parts(self.out / self.scenario.new["name"], workers=1)
        self.run()
        if self.contents() != self.wanted:
            found.append(f"done again it leaves {sorted(self.contents())}")
        return found

    def _pair(self) -> str:
        """Whether one whole output lies there, the old one or the new one, and its record with it."""
        outputs = [
            main for options in (self.scenario.new, self.scenario.old) if (main := self._main(options)).is_file()
        ]
        if not outputs and self.scenario.old is not None:
            return f"no output: {sorted(self.contents())}"
        for main in dict.fromkeys(outputs):
            try:
                record = verify(main)
            except CheckpointError as error:
                return f"{main.name}: {error}"
            if main_digest(record) not in self.digests:
                return f"{main.name}: its record is of something else"
            if self._values(main, record) != self.digests[main_digest(record)]:
                return f"{main.name}: its files are of something else"
        return ""

    def _main(self, options: dict[str, Any] | None) -> Path:
        """The output, or the index of several."""
        name = options["name"] if options else "none"
        return self.out / (f"{name}.index.json" if options and "max_file_size" in options else name)

    def _values(self, main: Path, record: dict[str, Any]) -> dict[str, set[float]]:
        """By tensor, the elements that the record's files hold."""
        paths = [main.with_name(item["name"]) for item in record["output"] if not item["name"].endswith(".json")]
        files = [read_checkpoint(path) for path in paths]
        return {name: set(array.tolist()) for file in files for name, array in file.items()}

    def _leftovers(self) -> str:
        hidden = [name for name in self.contents() if name.startswith(".") and ".parts" not in name]
        return f"left behind: {hidden}" if hidden else ""


def main() -> int:
    scenario, folder, how = sys.argv[1:]
    os.fsync = lambda descriptor: None  # what is not flushed is lost with the power, not with a process
    trial = Trial(Path(folder), SCENARIOS[scenario])
    act, number, wrong = kill if how == "killed" else refuse, 1, []
    while trial.ends_at(number, act):
        wrong += [f"call {number}: {fault}" for fault in trial.faults(leaves_nothing=act is refuse)]
        number += 1
    print(f"{number - 1} calls", *wrong, sep="\n")
    return 1 if wrong or number < 20 else 0


if __name__ == "__main__":
    sys.exit(main())
