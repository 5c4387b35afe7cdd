"""How long a lost rank costs: SIGKILL to one of 8 ranks in the middle of a real training, then the next try.

    python -m benchmarks.launch.lost_rank

Prints the seconds from the SIGKILL to the failed launch's exit, with no process of it left; and what the next try took
to its first step, and to its end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch.processes import LaunchProcesses
from shardline.launch.records import rank_folder
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig
from tasks.prepare_dataset import prepare_dataset

KILLED = 5
SAVED = 40
CONFIG = RunConfig(world_size=8, epochs=1, save_checkpoint_steps=20, keep_checkpoint_max=100)


def start(directory: RunDirectory) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tasks.launch", "tasks.train", "--run-directory", str(directory.path)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lose_a_rank(directory: RunDirectory) -> float:
    """Train until a shard set is there, kill a rank, and return how long the launch then took to end."""
    launch = start(directory)
    while SAVED not in ShardSet.steps(directory.checkpoints):
        time.sleep(0.1)
        if launch.poll() is not None:
            sys.exit(launch.communicate()[1].decode())
    return kill(directory, KILLED, launch)


def kill(directory: RunDirectory, rank: int, launch: subprocess.Popen[bytes]) -> float:
    """Seconds from the SIGKILL of `rank` until its launch has ended, with that rank named and no process left."""
    started = rank_folder(directory.logs, rank).read_started()
    if started is None:
        sys.exit(f"rank {rank} hasn't recorded its start")
    os.kill(started.pid, signal.SIGKILL)
    killed_at = time.perf_counter()
    message = launch.communicate()[1].decode()
    took = time.perf_counter() - killed_at
    if f"LaunchError: rank {rank} on " not in message or LaunchProcesses(directory.path).alive():
        sys.exit(f"expected rank {rank} to be named and no process to be left, found:\n{message}")
    return took


def resume(directory: RunDirectory, newest: int) -> tuple[float, float, dict[str, float]]:
    """Train to the end; the seconds to the first step beyond `newest` and to the end, and rank 0's by phase."""
    earlier = (
        directory.metrics_file.stat().st_ino
    )  # the killed try went beyond `newest`; the next one replaces the file
    started_at = time.perf_counter()
    launch = start(directory)
    while launch.poll() is None and not _has_step(directory.metrics_file, newest + 1, earlier):
        time.sleep(0.05)
    first_step = time.perf_counter() - started_at
    message = launch.communicate()[1].decode()
    if launch.returncode:
        sys.exit(message)
    return first_step, time.perf_counter() - started_at, json.loads(directory.train_file.read_text())["phases"]


def _has_step(metrics: Path, step: int, earlier: int) -> bool:
    return metrics.stat().st_ino != earlier and f'"step": {step},' in metrics.read_text()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder, "run"))
        prepare_dataset(directory, Home(Path(folder, "home")), CONFIG, {})
        lost = lose_a_rank(directory)
        newest = ShardSet.steps(directory.checkpoints)[-1]
        first_step, took, phases = resume(directory, newest)
    print(f"SIGKILL of rank {KILLED} to the launch's exit, nothing left: {lost:.1f} s")
    print(f"next try, from shard set {newest}: {first_step:.1f} s to its first step, {took:.1f} s to its end")
    print(", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items()))


if __name__ == "__main__":
    main()
