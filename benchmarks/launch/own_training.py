"""What supervision costs a program of the user's own, by launcher.

    python -m benchmarks.launch.own_training [--steps 2000] [--step-ms 5]

The program prints a line a step, which the launch reads. Compared is the same program started by hand, under the same
mpirun where that is the launcher, and once more, as a scheduler, where it is msrun. Printed are the seconds that a run
takes more, as `time` would show them; how much longer its own steps take, by its own clock; and the seconds from the
SIGKILL of a rank to the failed launch's exit, with no process of it left. Medians of `--repeats`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.launch.lost_rank import kill
from shardline.launch.mpirun import find
from shardline.run.described_run import prepare_training
from shardline.run.directory import Home, RunDirectory

RANKS = 2
PROGRAM = """
import os, sys, time
from pathlib import Path
if os.environ.get("MS_ROLE") == "MS_SCHED":
    sys.exit()
steps, seconds, forever = int(sys.argv[1]), float(sys.argv[2]) / 1000, sys.argv[3] == "true"
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("RANK_ID", "0")))
begun = time.perf_counter()
for step in range(1, steps + 1):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    print(f"step: {step} loss: {1 / step}", flush=True)
Path(f"took.{rank}").write_text(str(time.perf_counter() - begun))
time.sleep(3600 if forever else 0)
"""
DESCRIPTION = """
name = "own"
command = ["{{python}}", "{{training_folder}}/program.py", "{{steps}}", "{{step_ms}}", "{{forever}}"]
launcher = "{launcher}"
ranks = {ranks}
working_directory = "{{run_directory}}"
[parameters.steps]
type = "integer"
default = 1
[parameters.step_ms]
type = "number"
default = 1
[parameters.forever]
type = "boolean"
default = false
[slices]
files = "slices/*.ckpt"
[log]
patterns = ['step: (?P<step>\\d+) loss: (?P<loss>\\S+)']
"""


def prepare(folder: Path, launcher: str, **parameters: object) -> RunDirectory:
    file = folder / "own.toml"
    file.write_text(DESCRIPTION.format(launcher=launcher, ranks=RANKS))
    (folder / "program.py").write_text(PROGRAM)
    run = RunDirectory(Path(tempfile.mkdtemp(dir=folder)))
    prepare_training(run, Home(folder), file, json.dumps(parameters), os.environ)
    return run


def launch(run: RunDirectory) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tasks.launch", "tasks.train", "--run-directory", str(run.path)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def by_hand(folder: Path, launcher: str, steps: int, step_ms: float) -> tuple[float, float]:
    """Seconds of the whole, and of rank 0's steps, without Shardline."""
    where = Path(tempfile.mkdtemp(dir=folder))
    program = [sys.executable, str(folder / "program.py"), str(steps), str(step_ms), "false"]
    begun = time.perf_counter()
    if launcher == "mpirun":
        commands = [find(os.environ).command(RANKS, program)]
    else:
        commands = [program] * (1 if launcher == "none" else RANKS)
    environments = [os.environ | {"RANK_ID": str(rank)} for rank in range(len(commands))]
    if launcher == "msrun":  # which starts the command once more, as the scheduler
        commands, environments = [program, *commands], [os.environ | {"MS_ROLE": "MS_SCHED"}, *environments]
    with (where / "log").open("wb") as log:
        started = [
            subprocess.Popen(command, cwd=where, env=environment, stdout=log, stderr=log)
            for command, environment in zip(commands, environments, strict=True)
        ]
        for process in started:
            process.wait()
    return time.perf_counter() - begun, float((where / "took.0").read_text())


def supervised(folder: Path, launcher: str, steps: int, step_ms: float) -> tuple[float, float]:
    """The same under Shardline; the launch fails for want of slices when all is over, which costs nothing."""
    run = prepare(folder, launcher, steps=steps, step_ms=step_ms)
    begun = time.perf_counter()
    process = launch(run)
    message = process.communicate()[1].decode()
    took = time.perf_counter() - begun
    if "left no complete shard set" not in message:
        sys.exit(message)
    if len(run.metrics_file.read_text().splitlines()) != steps:
        sys.exit(f"expected {steps} steps in {run.metrics_file}")
    return took, float((run.path / "took.0").read_text())


def lost(folder: Path, launcher: str) -> float:
    """Seconds from SIGKILL of a rank to the failed launch."""
    run = prepare(folder, launcher, steps=1, forever=True)
    victim = 0 if launcher == "none" else RANKS - 1
    process = launch(run)
    while not (run.path / f"took.{victim}").exists():
        time.sleep(0.05)
    return kill(run, victim, process)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--step-ms", type=float, default=5)
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    print("| launcher | a run takes more | of its steps | SIGKILL to failed |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for launcher in ("mpirun", "msrun", "none"):
            prepare(folder, launcher)
            pairs = [
                (
                    by_hand(folder, launcher, given.steps, given.step_ms),
                    supervised(folder, launcher, given.steps, given.step_ms),
                )
                for _ in range(given.repeats)
            ]
            added = statistics.median(ours[0] - bare[0] for bare, ours in pairs)
            share = statistics.median(ours[1] / bare[1] - 1 for bare, ours in pairs)
            killed = statistics.median(lost(folder, launcher) for _ in range(given.repeats))
            print(f"| {launcher} | {added:.2f} s | {share:+.2%} | {killed:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
