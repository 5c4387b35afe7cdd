"""The hosts of a run: which, and how many ranks each one gets.

A hostfile is Open MPI's: `HOST slots=N` a line, `#` begins a comment; a host that stands there without slots, as in
PBS_NODEFILE, gets a slot for each time. Slots are filled host by host, and the launching host comes first if it is one
of them, since Open MPI 4.1 begins there and 5 doesn't.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from hostlist import BadHostlist, expand_hostlist

from shardline.base.counts import counted
from shardline.base.errors import ConfigError
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.environment import home_from

SLURM = "slurm"
"""The `hostfile` that stands for the nodes of the Slurm job that the launch runs in."""

MPI_OPERATOR = "/etc/mpi/hostfile"
"""Where Kubernetes' mpi-operator puts the hostfile into the launcher's pod."""

_PBS = ("$PBS_NODEFILE", "${PBS_NODEFILE}")
"""The one variable that a hostfile's path may be."""

_MOST_BYTES = 4 << 20

_LINE = re.compile(r"(?P<name>[\w.@:-]+)(?P<options>(\s+[\w-]+\s*=\s*\d+)*)\s*")
_OPTION = re.compile(r"(?P<key>[\w-]+)\s*=\s*(?P<value>\d+)")
_NODE = re.compile(r"[\w.-]+")
_COUNT = re.compile(r"(?P<count>[0-9]+)(\(x(?P<times>[0-9]+)\))?")
_SLOTS, _MOST = ("slots", "cpu", "cpus", "count"), ("max_slots", "max-slots", "maxslots")


@dataclass(frozen=True)
class Host:
    """A host as the hostfile names it, and the number of ranks that run there."""

    name: str
    ranks: int


def hosts_of(hostfile: str | None, world_size: int, environment: Mapping[str, str]) -> tuple[Host, ...]:
    """Where the ranks run, rank 0 on the first; nothing where that is this host alone, without a hostfile.

    `hostfile` is a path below an allowed root, `$PBS_NODEFILE`, or `slurm`. Raises `ConfigError` for one that may not
    or can't be read, or that has fewer slots than there are ranks; it shows nothing of what is in there.
    """
    if hostfile is None:
        return ()
    if hostfile == SLURM:
        source, slots = "the Slurm job", slurm_slots(environment)
    else:
        path, roots = _path_of(hostfile, environment)
        source, slots = f"hostfile {path}", _slots_in(roots.read(path, "hostfile", _MOST_BYTES), path)
    return place(slots, world_size, source)


def place(slots: Mapping[str, int], world_size: int, source: str) -> tuple[Host, ...]:
    """Fill the hosts' `slots` with `world_size` ranks, this host's first; `source` is what a `ConfigError` names."""
    hosts, left = [], world_size
    for name in sorted(slots, key=lambda name: not is_this_host(name)):
        ranks = min(left, slots[name])
        if ranks:
            hosts.append(Host(name, ranks))
        left -= ranks
    if left:
        raise ConfigError(
            f"{source} has {counted(sum(slots.values()), 'slot')} on {counted(len(slots), 'host')}, world_size is "
            f"{world_size}; add slots or hosts, or ask for fewer ranks"
        )
    return tuple(hosts)


def is_this_host(name: str) -> bool:
    """Whether `name`, or the address that it stands for, is this host's own."""
    name = name.rpartition("@")[2]
    if name in ("localhost", socket.gethostname()):
        return True
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    try:
        return any(str(found[4][0]) in own for found in socket.getaddrinfo(name, None))
    except OSError:  # a name that is unknown here; mpirun says more when it can't reach it
        return False


def _path_of(hostfile: str, environment: Mapping[str, str]) -> tuple[Path, AllowedRoots]:
    """Where the hostfile is, and below what it has to lie: a scheduler's, which no user chose, where it is."""
    roots = AllowedRoots.of(home_from(environment), environment)
    if hostfile not in _PBS and hostfile != MPI_OPERATOR:
        return Path(hostfile).absolute(), roots
    path = Path(environment.get("PBS_NODEFILE", "") if hostfile in _PBS else hostfile)
    if not path.is_absolute():
        raise ConfigError("hostfile: PBS_NODEFILE is not set; launch from within a PBS job, or name the file")
    return path, roots.and_below(path.parent.resolve())


def _slots_in(content: bytes, path: Path) -> dict[str, int]:
    """The slots of every host in the hostfile `path`."""
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"hostfile {path} is no text; expected a line `HOST slots=N` for each host") from None
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if text := line.partition("#")[0].strip():
            name, count = _entry(text, f"{path}:{number}")
            slots[name] = slots.get(name, 0) + count
    if not slots:
        raise ConfigError(f"hostfile {path} names no host; expected a line `HOST slots=N` for each")
    return slots


def _entry(text: str, where: str) -> tuple[str, int]:
    match = _LINE.fullmatch(text)
    options = {option["key"]: int(option["value"]) for option in _OPTION.finditer(match["options"])} if match else {}
    if match is None or not options.keys() <= {*_SLOTS, *_MOST}:
        raise ConfigError(f"{where}: expected `HOST slots=N`, perhaps with max_slots=N, found something else")
    count = next((options[key] for key in _SLOTS if key in options), 1)
    return match["name"], min([count, *(options[key] for key in _MOST if key in options)])


def slurm_slots(environment: Mapping[str, str]) -> dict[str, int]:
    """The slots of the nodes of a Slurm job, from SLURM_JOB_NODELIST and SLURM_TASKS_PER_NODE."""
    try:
        nodes, tasks = environment["SLURM_JOB_NODELIST"], environment["SLURM_TASKS_PER_NODE"]
    except KeyError as error:
        raise ConfigError(f"hostfile slurm: {error} is not set; launch from within a Slurm job") from error
    names, counts = _slurm_nodes(nodes), _slurm_counts(tasks)
    described = sum(times for _, times in counts)
    if len(names) != described:
        raise ConfigError(
            f"hostfile slurm: SLURM_JOB_NODELIST={nodes} names {counted(len(names), 'node')}, "
            f"SLURM_TASKS_PER_NODE={tasks} is of {described}; write a hostfile instead"
        )
    return dict(zip(names, (count for count, times in counts for _ in range(times)), strict=True))


def _slurm_nodes(text: str) -> list[str]:
    """`a,b[01-03,7]` as Slurm means it: a, b01, b02, b03, b7."""
    try:
        names: list[str] = expand_hostlist(text)
    except BadHostlist as error:
        raise ConfigError(
            f"hostfile slurm: SLURM_JOB_NODELIST={text}: {error}; expected a list such as a,b[01-03,7]; write a "
            "hostfile instead"
        ) from error
    for name in names:
        if not _NODE.fullmatch(name):
            raise ConfigError(
                f"hostfile slurm: SLURM_JOB_NODELIST={text}: {name!r} is no host's name; write a hostfile instead"
            )
    return names


def _slurm_counts(text: str) -> list[tuple[int, int]]:
    """`8(x2),4` as Slurm means it: 8 for 2 nodes, 4 for 1."""
    counts = []
    for part in text.split(","):
        match = _COUNT.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"hostfile slurm: SLURM_TASKS_PER_NODE={text}: expected counts such as 8(x2),4, found {part!r}; write "
                "a hostfile instead"
            )
        counts.append((int(match["count"]), int(match["times"] or 1)))
    return counts
