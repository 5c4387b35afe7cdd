"""Compile a training step for cards that this machine doesn't have, with MindSpore's own parallel front end.

MindSpore's GPU plugin loads without a GPU once stubs stand in for CUDA's libraries (`cuda_stubs`). The front end runs
whole, on every rank: strategies are checked, layouts inferred, collectives inserted, parameters sliced, the strategy
file written. Then the back end finds no driver, and there a rehearsal ends well. Nothing is executed.

Each RUN_DIR holds `config.json`, `network`, a network's name, and `ranks`, the numbers of those that compile it: the
front end asks the other ranks nothing. Each of them leaves its strategy file in `rank_N/`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.processes import free_port
from tests.rehearsal.cuda_stubs import NO_DRIVER, mindspore_libraries

if TYPE_CHECKING:
    from mindspore import nn
    from numpy.typing import NDArray

    from shardline.parallel.single_device import SingleDevice
    from shardline.settings.run_config import RunConfig

PROJECT = Path(__file__).parents[2]
LONGEST_S = 1500
"""What a rehearsal may take on a busy machine."""


def describe(run: Path, network: str, config: RunConfig, ranks: Sequence[int]) -> None:
    """Make the folder of a run that `ranks` compile."""
    run.mkdir()
    (run / "network").write_text(network)
    (run / "config.json").write_text(config.to_json())
    (run / "ranks").write_text(" ".join(map(str, ranks)))


def launch(cuda: Path, runs: Sequence[Path], ranks: int) -> subprocess.CompletedProcess[str]:
    """Rehearse on `ranks` workers beside MindSpore's scheduler; the outcome of rank 0, or of the first that failed.

    `cuda` is what `cuda_stubs.make_cuda` made.
    """
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--rank", *map(str, runs)]
    environment = _environment(cuda, ranks)
    scheduler = subprocess.Popen(
        command, env=environment | {"MS_ROLE": "MS_SCHED"}, stderr=subprocess.DEVNULL, cwd=PROJECT
    )
    with contextlib.ExitStack() as opened:
        logs = [opened.enter_context(tempfile.TemporaryFile("w+")) for _ in range(ranks)]
        workers = [
            subprocess.Popen(
                command,
                env=environment | {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank)},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=PROJECT,
            )
            for rank, log in enumerate(logs)
        ]
        try:
            codes = _codes_when_ended(workers)
        finally:
            for process in (*workers, scheduler):
                process.kill()
                process.wait()
        told = next((rank for rank, code in enumerate(codes) if code), 0)
        logs[told].seek(0)
        return subprocess.CompletedProcess(command, codes[told] or 0, logs[told].read())


def _codes_when_ended(workers: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """The exit codes when all have ended, or one has failed: the others would wait for it."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        codes = [worker.poll() for worker in workers]
        if any(codes) or None not in codes:
            return codes
        assert time.monotonic() < deadline, f"the rehearsal takes longer than {LONGEST_S} s"
        time.sleep(0.1)


def _environment(cuda: Path, ranks: int) -> dict[str, str]:
    libraries = mindspore_libraries()
    return os.environ | {
        "CUDA_HOME": str(cuda),
        "PATH": f"{cuda}/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{cuda}/lib64:{libraries}/plugin/gpu11.6:{libraries}",
        "MS_SCHED_HOST": "127.0.0.1",
        "MS_SCHED_PORT": str(free_port()),
        "MS_WORKER_NUM": str(ranks),
        "OMP_NUM_THREADS": "1",
        "GLOG_v": "3",
    }


def rehearse(runs: Sequence[Path]) -> int:
    """Compile, on this rank, the steps that the device backend would train with."""
    import mindspore
    from mindspore._c_expression import MSContext, ms_ctx_param
    from mindspore.communication import create_group, get_group_size, get_rank, init

    mindspore.set_context(mode=mindspore.GRAPH_MODE, device_target="CPU")
    init()  # the cluster is formed on the CPU, then the target is switched
    create_group("nccl_world_group", list(range(get_group_size())))
    MSContext.get_instance().set_param(ms_ctx_param.device_target, "GPU")
    for run in runs:
        if str(get_rank()) not in (run / "ranks").read_text().split():
            continue
        outcome = _compile(run, get_rank())
        if outcome:
            print(f"rank {get_rank()}: {run}: {outcome}", flush=True)
            return 1
    _wait_for_all(runs[-1], get_rank(), get_group_size())
    return 0


def _wait_for_all(run: Path, rank: int, ranks: int) -> None:
    """Return when every rank has compiled all: one that leaves the cluster takes down those still compiling."""
    (run / f"ended_{rank}").touch()
    deadline = time.monotonic() + LONGEST_S
    while len(list(run.glob("ended_*"))) < ranks and time.monotonic() < deadline:
        time.sleep(0.1)


def _compile(run: Path, rank: int) -> str | None:
    """What is wrong with the step, if anything; else its strategy file is in `run`."""
    import numpy as np

    from shardline.parallel.semi_auto import SemiAutoBackend
    from shardline.parallel.strategies import with_strategies_of
    from shardline.settings.run_config import RunConfig
    from shardline.training.steps import train_step
    from tests.rehearsal.networks import rehearsed

    config = RunConfig.from_json((run / "config.json").read_bytes())
    graph = run / "network.mindir"
    network = rehearsed(config, (run / "network").read_text(), graph if graph.exists() else None)
    if config.strategy_load_file:
        network = with_strategies_of(network.with_strategies({}), Path(config.strategy_load_file), config.world_size)
    backend = SemiAutoBackend(config, rank, network)
    backend.shard_automatically()
    cell = network.cell(config.micro_batch_size, backend, config.seed)
    step = train_step(cell, config, backend, total_steps=100)
    samples = np.zeros((config.batch_size, *network.sample_shape), network.sample_type)
    labels = samples if network.name == "gpt" else np.zeros(config.batch_size, np.int32)
    problem = _problem(backend, step, samples, labels)
    if problem:
        return problem
    strategy_file = run / f"of_{rank}" / config.strategy_save_file
    backend.write_strategy(network, strategy_file)
    if config.pipeline_stages > 1:
        problem = _problem(backend, cell.set_train(False), samples[: config.micro_batch_size])
    strategy_file.parent.rename(run / f"rank_{rank}")
    return problem


def _problem(backend: SingleDevice, cell: nn.Cell, *inputs: NDArray[Any]) -> str | None:
    """What is wrong with `cell`, if anything but that there is no card."""
    from mindspore import Tensor

    try:
        backend.compile(cell, *map(Tensor, inputs))
    except RuntimeError as error:
        return None if NO_DRIVER in str(error) else str(error)
    return None


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        code = rehearse([Path(run) for run in sys.argv[2:]])
        sys.stdout.flush()
        os._exit(code)
    sys.exit(launch(Path(sys.argv[1]), [Path(run) for run in sys.argv[2:]], 8).returncode)
