"""An mpirun and its ranks: started, watched, ended. One thread does it, by looking several times a second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardline.base import parent_death
from shardline.launch import logs
from shardline.launch.diagnosis import Launch
from shardline.launch.hang import Growth, last_words, where_ranks_stand
from shardline.launch.interruption import Interruption
from shardline.launch.patience import PATIENT, Patience
from shardline.launch.processes import LaunchProcesses
from shardline.launch.records import RankFolder, rank_folder
from shardline.run.directory import Lock


@dataclass(frozen=True)
class Outcome:
    """How the job ended, the result that rank 0 printed, and where the ranks stood if they had to be given up."""

    launch: Launch
    result: dict[str, Any] | None
    hang: str


@dataclass
class Followers:
    """The logs that are shown; where nobody reads them any more, the launch is interrupted and they are silent."""

    followers: tuple[logs.Follower, ...]
    interruption: Interruption
    _unread: bool = False

    def follow(self) -> None:
        self._all(logs.Follower.follow)

    def finish(self) -> None:
        self._all(logs.Follower.finish)

    def _all(self, act: Callable[[logs.Follower], None]) -> None:
        if self._unread:
            return
        try:
            for follower in self.followers:
                act(follower)
        except BrokenPipeError:
            self._unread = True
            self.interruption.reason = self.interruption.reason or "nobody reads the output of this launch any more"


@dataclass(frozen=True)
class Shown:
    """Which rank's log the task's shows, how many bytes of it, and whether ranks say where they stand."""

    rank: int = 0
    most: int | None = None
    stacks: bool = True


@dataclass
class Job:
    """What is started, where it logs, and how all of its processes are found."""

    command: list[str]
    environment: dict[str, str]
    world_size: int
    folder: Path
    processes: LaunchProcesses
    metrics_file: Path
    hang_timeout: float | None
    termination_grace: float
    patience: Patience = PATIENT
    card_locks: tuple[int, ...] = ()
    """Open files that mpirun inherits: the run's cards are held until it has ended, whatever ends this process."""
    begins: tuple[Path, ...] = ()
    """Files of which one appears when the ranks have started up, where they leave any."""
    shown: Shown = Shown()
    _hang: str = ""
    _next_look: float = 0

    def run(self, interruption: Interruption, lock: Lock) -> Outcome:
        """Start the job and follow it to its end, or until it is interrupted; then none of its processes is left."""
        kills_before = _out_of_memory_kills()
        mpirun_log = self.folder / "mpirun"
        messages = logs.Follower(mpirun_log, sys.stderr.buffer)
        shown = logs.Follower(rank_folder(self.folder, self.shown.rank).log, sys.stdout.buffer, self.shown.most)
        followers = Followers((messages, shown), interruption)
        process = self._start(mpirun_log)
        try:
            self._watch(process, followers, interruption)
            if interruption.reason:
                lock.leave_within(self.termination_grace + self.patience.ending_s)
                self._stop(process, followers)
        finally:
            self.processes.end(self.patience.leave_at_once_s, process)
        followers.finish()
        launch = Launch(
            self.folder,
            self.world_size,
            mpirun_log,
            process.wait(),
            out_of_memory=_out_of_memory_kills() > kills_before,
        )
        return Outcome(launch, shown.result, self._hang)

    @property
    def _ranks(self) -> list[RankFolder]:
        return [rank_folder(self.folder, rank) for rank in range(self.world_size)]

    def _start(self, mpirun_log: Path) -> subprocess.Popen[bytes]:
        """mpirun in a session of its own, with nothing to read, tied to this process."""
        tie = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid()), str(int(signal.SIGTERM))]
        with mpirun_log.open("wb") as log:
            return subprocess.Popen(
                [*tie, *self.command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=self.card_locks,
            )

    def _watch(self, process: subprocess.Popen[bytes], followers: Followers, interruption: Interruption) -> None:
        """Return when mpirun has ended, or should be ended."""
        give_up_at = None
        files = [self.metrics_file, *(rank.log for rank in self._ranks)]
        progress = Growth(files, self.begins, self.patience)
        while process.poll() is None and not interruption.reason:
            followers.follow()
            if give_up_at is None:
                give_up_at = self._give_up_at()
            elif time.monotonic() > give_up_at:
                return
            if self.hang_timeout is not None and progress.stands_still(self.hang_timeout):
                self._hang = self._where_ranks_stand(process)
                return
            time.sleep(self.patience.poll_s)

    def _where_ranks_stand(self, process: subprocess.Popen[bytes]) -> str:
        if not self.shown.stacks:
            return last_words(self._ranks)
        return where_ranks_stand(self._ranks, lambda: process.send_signal(signal.SIGUSR1), self.patience)

    def _stop(self, process: subprocess.Popen[bytes], followers: Followers) -> None:
        """Tell the ranks on all hosts to stop, and give them time to save and leave.

        SIGTERM for mpirun would be the end of its ranks a second later; SIGUSR2 it forwards (`shardline.launch.rank`).
        """
        if not all(rank.has_started() for rank in self._ranks):
            return  # nothing has been learnt yet
        process.send_signal(signal.SIGUSR2)
        deadline = time.monotonic() + self.termination_grace
        while process.poll() is None and time.monotonic() < deadline:
            followers.follow()
            time.sleep(self.patience.poll_s)

    def _give_up_at(self) -> float | None:
        """When mpirun should be gone, once all ranks have finished or one has failed; None while all is well."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + self.patience.ranks_poll_s
        if all(rank.has_left_well() for rank in self._ranks):
            return now + self.patience.leave_grace_s
        has_failed = any(rank.read_failure() for rank in self._ranks)
        return now + self.patience.failure_grace_s if has_failed else None


def _out_of_memory_kills() -> int:
    """How many processes the kernel of this host has killed for want of memory since it was started."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
