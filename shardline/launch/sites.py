"""Where the ranks of a launch run: on this host, or on several. All that differs between the two stands here.

Several hosts are looked at by `shardline.launch.host_check` on each of them, started as the ranks will be, by mpirun.
So what the ranks need is what is tried: mpirun reaches the host, finds its daemon there, the checkout and its Python.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from shardline.base import parent_death
from shardline.base.counts import counted
from shardline.base.errors import LaunchError
from shardline.launch import logs, preflight
from shardline.launch.host_check import MARK, NONCE, Finding, Request, software
from shardline.launch.hosts import Host, hosts_of, is_this_host
from shardline.launch.interruption import Interruption
from shardline.launch.mpirun import find, session_folder, without_outer_run
from shardline.launch.patience import Patience
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.settings.training_config import TrainingConfig

_MODULE = "shardline.launch.host_check"
_OWN_PROCESSES = "shardline.launch.own_processes"
_PORTS_OF_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")


@dataclass(frozen=True)
class ThisHost:
    """A launch whose ranks all run here, with the launch's own `environment`."""

    config: RunConfig | TrainingConfig
    world_size: int
    environment: Mapping[str, str]
    patience: Patience

    @property
    def ranks_here(self) -> int:
        return self.world_size

    def check(self, memory_a_rank: int, interruption: Interruption) -> None:
        """Look whether every host can hold its ranks; `LaunchError` or `ConfigError` where one cannot."""
        preflight.check_host(self.config.device_target, self.world_size, memory_a_rank, self.environment)
        if self.world_size > (cores := len(os.sched_getaffinity(0))):
            say(
                f"{counted(self.world_size, 'rank')} share the {counted(cores, 'core')} of this host that the launch "
                "may use"
            )

    def command(self, program: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[str]:
        """What starts the ranks: each is `program`. `folder` takes files, `environment` is what mpirun will have."""
        return find(self.environment).command(self.world_size, program)

    def end_processes(self) -> None:
        """End what a failed launch has left on other hosts."""


@dataclass(frozen=True)
class WithoutMpirun(ThisHost):
    """A launch on this host whose `processes` are started without mpirun (`shardline.launch.own_processes`)."""

    processes: int
    has_scheduler: bool

    def command(self, program: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[str]:
        scheduler = ["--scheduler-port", str(_free_port())] if self.has_scheduler else []
        return [sys.executable, "-m", _OWN_PROCESSES, "--ranks", str(self.processes), *scheduler, *program]


@dataclass(frozen=True)
class SeveralHosts(ThisHost):
    """A launch whose ranks run on `hosts`, which have the launch's `directory`, checkout and Python."""

    hosts: tuple[Host, ...]
    directory: RunDirectory

    @property
    def ranks_here(self) -> int:
        return sum(host.ranks for host in self.hosts if is_this_host(host.name))

    def check(self, memory_a_rank: int, interruption: Interruption) -> None:
        """As above; ends what earlier tries left on the hosts, and names every host that doesn't serve."""
        findings = self._ask(memory_a_rank, interruption)
        if problems := [f"  {_named(finding)}: {finding.problem}" for finding in findings if finding.problem]:
            raise LaunchError("not every host of the run can be used:\n" + "\n".join(problems))
        for finding in findings:
            if finding.ended:
                ended = counted(finding.ended, "process", "processes")
                say(f"ended {ended} that an earlier try had left running on {_named(finding)}")

    def command(self, program: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[str]:
        return find(self.environment).command_on_hosts(self.hosts, folder / "hosts", program, environment)

    def end_processes(self) -> None:
        """As above; where it isn't known what is left, that is said."""
        try:
            findings = self._ask(0, Interruption(), only_end=True)
        except LaunchError as error:
            say(f"cannot see whether something of this run still runs on the other hosts: {error}")
            return
        for finding in findings:
            if finding.ended or finding.problem:
                ended = counted(finding.ended, "process", "processes")
                say(f"{_named(finding)}: ended {ended} of this run. {finding.problem}".rstrip())

    def _ask(self, memory_a_rank: int, interruption: Interruption, *, only_end: bool = False) -> list[Finding]:
        with _nonce(self.directory) as (folder, nonce), session_folder(self.directory.path) as session:
            request = Request(
                str(self.directory.path),
                str(folder),
                nonce,
                software(),
                {host.name: host.ranks for host in self.hosts},
                self.config.device_target,
                memory_a_rank,
                only_end,
                self.patience.meeting_s,
            )
            program = [sys.executable, "-m", _MODULE, json.dumps(asdict(request))]
            environment, output = without_outer_run(self.environment) | session, folder / "mpirun"
            command = find(self.environment).command_on_hosts(
                self.hosts, folder / "hosts", program, environment, one_a_host=True
            )
            _run(command, environment, output, interruption, self.patience)
            findings = _findings(output)
            if missing := [host.name for host in self.hosts if host.name not in {found.host for found in findings}]:
                raise LaunchError(
                    f"no answer from {', '.join(missing)}. mpirun says:\n"
                    + "\n".join(f"  | {line}" for line in _said(output))
                    + f"\nSee that `ssh {missing[0]} {sys.executable} --version` works from here without a password"
                )
            return findings


def site_of(
    config: RunConfig | TrainingConfig,
    world_size: int,
    directory: RunDirectory,
    environment: Mapping[str, str],
    patience: Patience,
) -> ThisHost:
    """Where `world_size` ranks run; a single one runs here."""
    hosts = hosts_of(config.hostfile, world_size, environment) if world_size > 1 else ()
    if not hosts:
        return ThisHost(config, world_size, environment, patience)
    return SeveralHosts(config, world_size, environment, patience, hosts, directory)


def _free_port() -> int:
    """A port that nothing listens on, and that the kernel gives to no connection before the scheduler has it."""
    first = int(_PORTS_OF_CONNECTIONS.read_text().split()[0])
    while True:
        port = secrets.choice(range(10_000, first if first > 12_000 else 32_768))  # where they get all, one of those
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def say(message: str) -> None:
    """A line about the launch, in the task's log."""
    print(f"launch: {message}", file=sys.stderr, flush=True)


@contextmanager
def _nonce(directory: RunDirectory) -> Iterator[tuple[Path, str]]:
    """A folder of the run directory with a file whose content nobody else can know."""
    folder, nonce = Path(tempfile.mkdtemp(prefix=".hosts-", dir=directory.path)), secrets.token_hex(8)
    try:
        (folder / NONCE).write_text(nonce)
        yield folder, nonce
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a network drive may keep names of open files for a moment


def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: Path,
    interruption: Interruption,
    patience: Patience,
) -> None:
    """Run an mpirun to its end, or give it up after a while; its output goes to the file `output`."""
    tie = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid()), str(int(signal.SIGTERM))]
    with output.open("wb") as log:
        process = subprocess.Popen(
            [*tie, *command], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + patience.hosts_s
    while process.poll() is None and time.monotonic() < deadline and not interruption.reason:
        time.sleep(patience.poll_s)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if interruption.reason:
        raise LaunchError(f"{interruption.reason}: while the hosts were looked at")


def _findings(output: Path) -> list[Finding]:
    lines = output.read_text(errors="backslashreplace").splitlines()
    return sorted(
        (Finding(**json.loads(line.partition(MARK)[2])) for line in lines if MARK in line),
        key=lambda finding: finding.number,
    )


def _said(output: Path) -> list[str]:
    return [line for line in logs.last_lines(output, 30) if MARK not in line] or ["(nothing)"]


def _named(finding: Finding) -> str:
    return finding.host if finding.host == finding.node else f"{finding.host} ({finding.node})"
