"""A stand-in for a training rank: it meets the others over TCP, then does what the environment tells it to.

SCENARIO is what the ranks in SCENARIO_RANKS (numbers, or nothing for all) do once all have met; the others do
SCENARIO_OTHERS, or else wait for them, as in a collective, and rank 0 complains when one is lost.
SCENARIO_IGNORES_SIGTERM makes all of them stubborn; with SCENARIO_LEAVES_LAST none leaves before all have recorded why.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from shardline.base.errors import ChampionStays, ConfigError, MissingShard, Stopped, TrainingError
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run import command_line
from shardline.run.directory import RunDirectory

RUN = Path(sys.argv[sys.argv.index("--run-directory") + 1])
RANK, WORLD_SIZE = int(os.environ["OMPI_COMM_WORLD_RANK"]), int(os.environ["OMPI_COMM_WORLD_SIZE"])
HOST, PORT = os.environ["SCENARIO_MEETING"].split(":")

ERRORS: dict[str, Exception] = {
    "RuntimeError": RuntimeError("the network is on fire"),
    "TrainingError": TrainingError("layer1.weight has 784 rows\nand 3 cards don't divide them"),
    "ConfigError": ConfigError("batch_size: 7 is not a multiple of 2"),
    "ChampionStays": ChampionStays("the champion is better by 0.01"),
    "Stopped": Stopped("told to stop by SIGTERM: left after step 120"),
    "MissingShard": MissingShard("rank_3: no such folder"),
    "OSError": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/x"),
}


def host_meeting() -> list[socket.socket]:
    listener = socket.create_server(("", int(PORT)))
    peers = [listener.accept()[0] for _ in range(WORLD_SIZE - 1)]
    for peer in peers:
        peer.sendall(b"go")
    return peers


def meet() -> list[socket.socket]:
    while True:
        with suppress(ConnectionRefusedError):
            first = socket.create_connection((HOST, int(PORT)))
            assert first.recv(2) == b"go"
            return [first]
        time.sleep(0.05)


def wait_for_all(peers: list[socket.socket]) -> None:
    """A barrier: through rank 0, which raises when a rank is lost before it came here."""
    if RANK == 0:
        for peer in peers:
            if peer.recv(4) != b"done":
                raise ConnectionError("a rank has gone")
        for peer in peers:
            peer.sendall(b"leave")
    else:
        peers[0].sendall(b"done")
        while peers[0].recv(5) == b"":  # rank 0 has gone: what collectives do then is to hang
            time.sleep(1)


def fail(name: str) -> None:
    raise ERRORS[name]


def as_a_task(name: str) -> None:
    """As our tasks end with an error."""
    sys.exit(command_line.main(lambda: fail(name)))


def report(name: str, code: str) -> None:
    """As a program of the user's own may end: with a last line like a task's, and no record."""
    print(f"{name}: {ERRORS[name]}", file=sys.stderr)
    sys.exit(int(code))


def sleep(seconds: str) -> None:
    time.sleep(float(seconds))


def count(seconds: str) -> None:
    for second in range(int(seconds)):
        print(second)
        time.sleep(1)


def save_when_told_to_stop(until: str) -> None:
    """As training does: the step is finished, a shard set saved, and all leave together.

    That takes some seconds, or until the run directory holds a file `until`.
    """
    told = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    print("trains", flush=True)
    while not told:
        time.sleep(0.05)
    if until.isidentifier():
        while not (RUN / until).exists():
            time.sleep(0.05)
    else:
        time.sleep(float(until))
    if RANK == 0:
        checkpoints = RunDirectory(RUN).checkpoints
        checkpoints.mkdir()
        ShardSet.path(checkpoints, 120).write_text("{}")
    as_a_task("Stopped")


ACTIONS: dict[str, Callable[..., object]] = {
    "finish": lambda: None,
    "wait": lambda: None,
    "raise": fail,
    "task": as_a_task,
    "report": report,
    "exit": lambda code: sys.exit(int(code)),
    "segfault": lambda: ctypes.string_at(0),
    "vanish": lambda: os._exit(0),
    "sleep": sleep,
    "save": save_when_told_to_stop,
    "count": count,
    "print": lambda *names: [print(f"{name}={os.environ.get(name)}") for name in names],
    "babble": lambda: os.write(1, b"\xff\xfe is not UTF-8\n" + b"x" * 300_000 + b"\n"),
}


def act(scenario: str) -> None:
    print(f"rank {RANK} acts: {scenario}", flush=True)
    action, *arguments = scenario.split()
    ACTIONS[action](*arguments)


def leave_when_all_have_recorded() -> None:
    """As ranks that fail at the same moment do. mpirun kills the others a second after the first has left: a slow one
    would have had no time to say what it raised."""
    leave = os._exit

    def wait_and_leave(code: int) -> NoReturn:
        while len([*RUN.glob("log_output/1/rank.*/failure.json")]) < WORLD_SIZE:
            time.sleep(0.02)
        leave(code)

    os._exit = wait_and_leave


def main() -> int:
    if os.environ.get("SCENARIO_IGNORES_SIGTERM"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.environ.get("SCENARIO_LEAVES_LAST"):
        leave_when_all_have_recorded()
    peers = host_meeting() if RANK == 0 else meet()
    print(f"rank {RANK} has met the others", flush=True)
    if RANK == 0:
        (RUN / "begun").touch()
    ranks = os.environ["SCENARIO_RANKS"]
    chosen = not ranks or str(RANK) in ranks.split(",")
    act(os.environ["SCENARIO"] if chosen else os.environ.get("SCENARIO_OTHERS", "wait"))
    wait_for_all(peers)
    if RANK == 0:
        print(json.dumps({"world_size": WORLD_SIZE, "standard_input": sys.stdin.read()}))
        print("a library says goodbye")
    return 0


if __name__ == "__main__":
    sys.exit(main())
