"""One host of a run, looked at from itself: `shardline.launch.sites` has mpirun start this on every host.

    python -m shardline.launch.host_check REQUEST       (a JSON object: `Request`)

It sees whether the host has the launch's run directory and software, ends what an earlier try left running there, looks
at cards and memory, and connects to the first host's process by TCP, as the ranks will. What it found is the line that
it prints: `Finding`, as JSON behind `MARK`.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from shardline.base import atomic
from shardline.base.errors import LaunchError, ShardlineError
from shardline.launch import preflight
from shardline.launch.hosts import Host, is_this_host
from shardline.launch.patience import PATIENT
from shardline.launch.processes import LaunchProcesses
from shardline.launch.visible_cards import DeviceTarget

MARK = "shardline-host-check "
NONCE = "nonce"
_MEETING, _ABSENT = "meeting.json", "absent."
_ANY_PORT = 0
_LOOPBACK = "127.0.0.1"
_SOFTWARE = ("mindspore", "numpy")


@dataclass(frozen=True)
class Request:
    """What to look for, in `folder`, a new folder of the run directory that holds `nonce`."""

    run_directory: str
    folder: str
    nonce: str
    software: dict[str, str]
    hosts: dict[str, int]
    device_target: DeviceTarget
    memory_a_rank: int
    only_end: bool = False
    """Only end what the run has running there."""
    meeting_s: float = PATIENT.meeting_s
    """What the other hosts get to meet the first."""

    @property
    def placement(self) -> tuple[Host, ...]:
        return tuple(Host(name, ranks) for name, ranks in self.hosts.items())


@dataclass(frozen=True)
class Finding:
    """What was found on one host: how many processes were ended, and what is wrong, if anything."""

    number: int
    host: str
    node: str
    ended: int = 0
    problem: str = ""


def software() -> dict[str, str]:
    """What has to be the same on all hosts of a run, by name and version."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _SOFTWARE}


def main() -> int:
    """Look, and print what was found; an mpirun that starts this should see no failures."""
    request = Request(**json.loads(sys.argv[1]))
    number = int(os.environ["OMPI_COMM_WORLD_RANK"])
    host = _own_entry(request.placement, number)
    ended, problem = 0, ""
    try:
        _check_shared(request)
        ended = len(LaunchProcesses(Path(request.run_directory)).end(PATIENT.leave_at_once_s))
        if not request.only_end:
            _check(request, number, host)
    except ShardlineError as error:
        problem = str(error)
        with suppress(OSError):  # where the folder isn't shared, the first host has to wait
            (Path(request.folder) / f"{_ABSENT}{number}").touch()
    print(MARK + json.dumps(asdict(Finding(number, host.name, platform.node(), ended, problem))), flush=True)
    return 0


def _own_entry(hosts: tuple[Host, ...], number: int) -> Host:
    """The entry of `hosts` that means this host; mpirun numbers the processes in the hosts' order."""
    return next((host for host in hosts if is_this_host(host.name)), hosts[number])


def _check_shared(request: Request) -> None:
    nonce = Path(request.folder) / NONCE
    try:
        found = nonce.read_text()
    except OSError as error:
        found = f"nothing ({error.strerror})"
    if found != request.nonce:
        raise LaunchError(
            f"the run directory {request.run_directory} is not the launching host's: expected {request.nonce} in "
            f"{nonce}, found {found}; let all hosts share SHARDLINE_HOME, under the same path"
        )


def _check(request: Request, number: int, host: Host) -> None:
    if (found := software()) != request.software:
        differences = ", ".join(
            f"{name} {found.get(name)} instead of {version}"
            for name, version in request.software.items()
            if found.get(name) != version
        )
        raise LaunchError(f"{sys.executable} has {differences}; install the same on all hosts")
    preflight.check_host(request.device_target, host.ranks, request.memory_a_rank, os.environ)
    if number == 0:
        _host_meeting(request)
    else:
        _come_to_meeting(request)


def _host_meeting(request: Request) -> None:
    """Listen on the interface towards the others, until all of them have been there."""
    others = [host.name for host in request.placement[1:]]
    address = _address_towards(others[0]) if others else _LOOPBACK
    with socket.create_server(("", _ANY_PORT)) as listener:
        atomic.write_text(Path(request.folder) / _MEETING, json.dumps([address, listener.getsockname()[1]]))
        _wait_for(len(others), listener, request)


def _wait_for(others: int, listener: socket.socket, request: Request) -> None:
    """Until all have come or have said that they won't; who does neither is the launch's to name."""
    listener.settimeout(0.2)
    folder = Path(request.folder)
    deadline, arrived = time.monotonic() + request.meeting_s, 0
    while arrived + len(list(folder.glob(f"{_ABSENT}*"))) < others and time.monotonic() < deadline:
        with suppress(TimeoutError):
            listener.accept()[0].close()
            arrived += 1


def _address_towards(other: str) -> str:
    """The address of this host from which packets to `other` would leave; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((other.rpartition("@")[2], 9))
        except OSError as error:
            raise LaunchError(f"no way to {other} from here: {error}; name it as this host knows it") from error
        return str(probe.getsockname()[0])


def _come_to_meeting(request: Request) -> None:
    meeting = Path(request.folder) / _MEETING
    deadline = time.monotonic() + request.meeting_s
    while not meeting.exists():
        if time.monotonic() > deadline:
            raise LaunchError(f"the first host has not said in {meeting} where it listens; see what it found itself")
        next(meeting.parent.iterdir(), None)  # has a network file system look again
        time.sleep(0.1)
    address, port = json.loads(meeting.read_text())
    try:
        socket.create_connection((address, port), timeout=request.meeting_s / 2).close()
    except OSError as error:
        raise LaunchError(
            f"cannot reach the first host at {address}:{port}: {error}; ranks connect to each other by TCP, on ports "
            "that the system chooses: let the run's hosts reach each other on all of them"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
