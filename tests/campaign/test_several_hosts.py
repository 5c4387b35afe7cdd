"""Trainings on two hosts that lose a process: done again, on both, they end as if nothing had been."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch.records import rank_folder
from tests.campaign.kinds import Loss
from tests.campaign.test_training_faults import UNDER_WAY, begin, end, finish, wait_until, where_they_stood
from tests.campaign.training_faults import ON_TWO_HOSTS
from tests.campaign.trial import HANG_TIMEOUT_S, TRAINING, Trial, tried
from tests.patience import PATIENCE_S
from tests.shardline.launch.network_hosts import NetworkHost, needs_hosts, two_hosts

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(2 * PATIENCE_S), needs_hosts]
Hosts = tuple[NetworkHost, NetworkHost]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


def begin_on(hosts: Hosts, trained: tuple[Path, bytes], place: Path) -> Trial:
    """A training that is prepared: half its ranks on each host, launched on the first."""
    trial = begin(trained, place, {"hostfile": str(place / "home" / "runs" / "training" / "run" / "hostfile")})
    slots = int(str(TRAINING["world_size"])) // len(hosts)
    (trial.run.path / "hostfile").write_text("".join(f"{host.address} slots={slots}\n" for host in hosts))
    trial.launcher = hosts[0]
    return trial


@pytest.fixture(scope="module")
def undisturbed(trained: tuple[Path, bytes], hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What it is merged into where nothing happens to it."""
    trial = begin_on(hosts, trained, tmp_path_factory.mktemp("undisturbed"))
    for task in ("train", "merge", "promote"):
        trial.succeed(task)
    started = [rank_folder(trial.run.logs, rank).read_started() for rank in (0, 3)]
    assert [record.host for record in started if record] == [host.name for host in hosts]
    return (trial.run.merged / "model.ckpt").read_bytes()


@pytest.mark.parametrize("loss", ON_TWO_HOSTS, ids=lambda loss: loss.kind)
def test_a_training_on_two_hosts_that_loses_a_process(
    trained: tuple[Path, bytes], undisturbed: bytes, hosts: Hosts, tmp_path: Path, loss: Loss
) -> None:
    def run() -> None:
        trial = begin_on(hosts, trained, tmp_path)
        if loss.victim == "network":
            trial.change({"hang_timeout": HANG_TIMEOUT_S})
        process = trial.start("pausing")
        wait_until(lambda: ShardSet.steps(trial.run.checkpoints) == [UNDER_WAY], process)
        if loss.victim == "network":  # nobody can end what is beyond it: the next try does
            with cut_off(hosts[1]):
                end(process, loss.message)
        else:
            for victim in victims(loss.victim, trial, process, hosts[1]):
                victim.kill()
            end(process, loss.message)
            trial.check_no_orphan()
        finish(trial, undisturbed, where_they_stood(trial))

    tried(loss.kind, run)


@contextmanager
def cut_off(host: NetworkHost) -> Iterator[None]:
    """Its cable is unplugged meanwhile."""
    host.run("ip", "link", "set", "eth0", "down")
    try:
        yield
    finally:
        host.run("ip", "link", "set", "eth0", "up")


def victims(victim: str, trial: Trial, entered: subprocess.Popen[str], other: NetworkHost) -> list[psutil.Process]:
    """The processes to kill, by their ids here; `entered` is what entered the host that launches."""
    (supervisor,) = psutil.Process(entered.pid).children()
    if victim == "supervisor":
        return [supervisor]
    if victim == "mpirun":
        return supervisor.children()
    if victim == "all there":
        what_makes_it_a_host = [other.init, *(each.pid for each in other.processes("[listener]"))]
        return [process for process in other.processes("") if process.pid not in what_makes_it_a_host]
    if victim == "daemon":
        daemons = [process for process in other.processes("ess_base_vpid") if process.name() in ("orted", "prted")]
        return [min(daemons, key=lambda process: process.pid)]
    started = rank_folder(trial.run.logs, 3).read_started()
    assert started is not None
    return [process for process in other.processes("shardline.launch.rank") if _id_there(process) == started.pid]


def _id_there(process: psutil.Process) -> int:
    """By which number the process is known on its own host."""
    found = re.search(r"^NSpid:.*\t(\d+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
