"""Ranks on two hosts: started, watched over, stopped and killed as on one; what can't work names the host."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.launch.processes import MARKER
from shardline.launch.records import rank_folder
from shardline.run.directory import Home
from shardline.settings.run_config import RunConfig
from tasks.prepare_dataset import prepare_dataset
from tests.patience import PATIENCE_S

from .conftest import Launch, wait_until
from .network_hosts import NetworkHost, needs_hosts, two_hosts

pytestmark = needs_hosts
EXPORT = {"SHARDLINE_EXPORT": "SCENARIO,SCENARIO_MEETING,SCENARIO_RANKS,SCENARIO_OTHERS,SCENARIO_IGNORES_SIGTERM"}
STEPS_PER_EPOCH = 14  # of the embedded digits, 320 at a time
MEETING_PORT = 21999
STUBBORN = {**EXPORT, "SCENARIO_IGNORES_SIGTERM": "1"}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory) -> Iterator[tuple[NetworkHost, NetworkHost]]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture
def directory(directory, hosts):
    """A run directory for 4 ranks, two on each host."""
    configure(directory, hosts, world_size=4)
    return directory


def configure(directory, hosts: tuple[NetworkHost, NetworkHost], world_size: int, **parameters: object) -> RunConfig:
    hostfile = directory.path / "hostfile"
    hostfile.write_text("".join(f"{host.address} slots={world_size // 2}\n" for host in hosts))
    config = RunConfig(world_size=world_size, hostfile=str(hostfile), **parameters)
    directory.write_config(config)
    return config


def supervisor(launch: Launch) -> psutil.Process:
    """The launch itself; its parent, which the test started, only entered the host."""
    (process,) = psutil.Process(launch.process.pid).children()
    return process


def mpirun_of(launch: Launch) -> psutil.Process:
    (process,) = supervisor(launch).children()
    return process


def message_of(launch: Launch) -> str:
    ended = launch.wait()
    assert ended.exit_code != 0
    said = re.search(r"^[A-Z]\w+: (.*)", ended.stderr, re.DOTALL | re.MULTILINE)
    assert said, ended.stderr
    return said[1]


def test_ranks_run_on_both_hosts_and_meet(each_mpirun, start, hosts, directory):
    ended = start(on=hosts[0], **EXPORT).wait()
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["world_size"] == 4
    started = [rank_folder(directory.logs, rank).read_started() for rank in range(4)]
    assert [record.host for record in started] == ["host-a", "host-a", "host-b", "host-b"]
    assert not list(directory.path.glob(".hosts-*"))


def test_the_environment_is_passed_on(start, hosts, directory):
    more = {"HCCL_IF_IP": "10.77.0.2", "SHARDLINE_CARDS": "4,5", "AWS_SECRET_ACCESS_KEY": "secret", **EXPORT}
    names = "HCCL_IF_IP SHARDLINE_CARDS AWS_SECRET_ACCESS_KEY"
    assert start(f"print {names}", on=hosts[0], **more).wait().exit_code == 0
    for rank, own in {0: ("4,5", "secret"), 3: ("None", "None")}.items():
        found = dict(line.split("=", 1) for line in directory.rank_log(rank).read_text().splitlines() if "=" in line)
        assert tuple(found[name] for name in names.split()) == ("10.77.0.2", *own)


def test_a_launching_host_without_slots_only_watches(start, hosts, directory):
    Path(directory.read_config().hostfile).write_text(f"{hosts[1].address} slots=4\n")
    ended = start(on=hosts[0], **EXPORT, SCENARIO_MEETING=f"{hosts[1].address}:{MEETING_PORT}").wait()
    assert ended.exit_code == 0, ended.stderr
    assert {rank_folder(directory.logs, rank).read_started().host for rank in range(4)} == {"host-b"}


def test_ranks_on_both_hosts_save_before_they_leave(each_mpirun, start, hosts, directory):
    launch = start("save 1.5", on=hosts[0], **EXPORT)
    logs = [directory.rank_log(rank) for rank in range(4)]
    wait_until(lambda: all(log.exists() and "trains" in log.read_text() for log in logs), "all ranks train")
    supervisor(launch).terminate()
    assert "stopped by signal 15 (SIGTERM): the ranks saved shard set 120 and left" in message_of(launch)
    assert not launch.alive()


def test_a_hang_shows_where_the_ranks_of_both_hosts_stand(each_mpirun, start, hosts, directory):
    configure(directory, hosts, world_size=4, hang_timeout=5)
    until_all_answer = {"PATIENCE": '{"stacks_s": 600}'}
    lines = message_of(start("sleep 600", on=hosts[0], **EXPORT, **until_all_answer)).splitlines()
    assert lines[1].startswith("  ranks 0-3: sleep (ranks/scenario.py:")


def kill_the_supervisor(launch: Launch, _: NetworkHost) -> None:
    supervisor(launch).kill()


def kill_mpirun(launch: Launch, _: NetworkHost) -> None:
    mpirun_of(launch).kill()


def kill_a_rank(launch: Launch, host: NetworkHost) -> None:
    host.run("kill", "-9", str(rank_folder(launch.directory.logs, 3).read_started().pid))


def kill_the_daemon(_: Launch, host: NetworkHost) -> None:
    daemons = [process for process in host.processes("ess_base_vpid") if process.name() in ("orted", "prted")]
    min(daemons, key=lambda process: process.pid).kill()


def cut_ssh(_: Launch, host: NetworkHost) -> None:
    for process in host.processes("sshd: root@"):
        process.kill()


@pytest.mark.parametrize(
    ("kill", "message"),
    [
        (kill_the_supervisor, None),
        (kill_mpirun, r"mpirun was ended by signal 9 \(SIGKILL\)"),
        (kill_a_rank, r"rank 3 on host-b was ended by signal 9 \(SIGKILL\)"),
        (kill_the_daemon, r"host-b|10\.77\.0\.2"),  # as Open MPI 5 and 4.1 call it
        (cut_ssh, None),
    ],
)
def test_whatever_is_killed_no_process_is_left_on_either_host(each_mpirun, start, hosts, kill, message):
    launch = start("sleep 600", on=hosts[0], **STUBBORN)
    launch.wait_for_ranks()
    kill(launch, hosts[1])
    if kill is cut_ssh and launch.process.poll() is None:
        supervisor(launch).terminate()
    if message:
        assert re.search(message, message_of(launch))
        assert not launch.alive()
    launch.wait_until_nothing_is_left()
    wait_until(lambda: launch.process.poll() is not None, "the launch ends")
    assert not hosts[1].processes("shardline.launch")


def test_what_an_earlier_try_left_on_another_host_is_ended_first(start, hosts, directory):
    left = subprocess.Popen(hosts[1].command("sleep", "600"), env=os.environ | {MARKER: str(directory.path.resolve())})
    wait_until(lambda: hosts[1].processes("sleep 600"), "the process runs")
    ended = start(on=hosts[0], **EXPORT).wait()
    assert ended.exit_code == 0
    line = f"ended 1 process that an earlier try had left running on {hosts[1].address} (host-b)"
    assert line in ended.stderr
    left.wait(timeout=PATIENCE_S)


def test_a_run_directory_that_a_host_does_not_share_is_refused(start, hosts, directory):
    hosts[1].run("mount", "-t", "tmpfs", "none", str(directory.path))
    try:
        message = message_of(start(on=hosts[0], PATIENCE='{"meeting_s": 2}', **EXPORT))
    finally:
        hosts[1].run("umount", str(directory.path))
    assert message.startswith("not every host of the run can be used:\n  10.77.0.2 (host-b): the run directory ")
    assert f"{directory.path} is not the launching host's: expected " in message
    assert "let all hosts share SHARDLINE_HOME" in message
    assert not (directory.logs / "mpirun").exists()


def test_a_host_that_cannot_be_reached_is_named(each_mpirun, start, hosts, directory):
    Path(directory.read_config().hostfile).write_text("10.77.0.1 slots=2\n10.77.0.9 slots=2\n")
    message = message_of(start(on=hosts[0], **EXPORT))
    assert message.startswith("no answer from ")
    assert "10.77.0.9" in message.partition("\n")[0]
    assert "See that `ssh " in message


def test_a_training_sharded_over_two_hosts_is_stopped_and_goes_on(start, hosts, directory, tmp_path):
    network = {"network": "shardline.recipes.examples.residual_mlp:residual_mlp", "enable_parallel_optimizer": True}
    parameters = network | {"world_size": 2, "batch_size": 320, "save_checkpoint_steps": 1000}
    config = configure(directory, hosts, **parameters, epochs=1000)  # it is stopped long before
    prepare_dataset(directory, Home(tmp_path / "home"), config, {})
    launch = start(module="tasks.train", on=hosts[0])
    wait_until(lambda: launch.process.poll() is not None or directory.metrics_file.exists(), "the first steps")
    assert launch.process.poll() is None, launch.wait()
    supervisor(launch).terminate()
    message = message_of(launch)
    stopped = re.search(r"the ranks saved shard set (\d+) and left; the next try goes on from it", message)
    assert stopped, message
    assert not launch.alive()

    configure(directory, hosts, **parameters, epochs=int(stopped[1]) // STEPS_PER_EPOCH + 1)
    ended = start(module="tasks.train", on=hosts[0]).wait()
    assert ended.exit_code == 0, ended.stderr
    assert any(line.startswith(f"resumed from shard set {stopped[1]}") for line in ended.stdout.splitlines())
    newest = ShardSet.newest(directory.checkpoints)
    assert (newest.step, newest.world_size) == (json.loads(ended.stdout.splitlines()[-1])["step"], 2)
    newest.verify(directory.checkpoints)
    shapes = {read_checkpoint(directory.checkpoints / item.path)["moment1.head.weight"].shape for item in newest.slices}
    assert shapes == {(64, 10)}, "each host holds half of the optimizer's state"
    started = [rank_folder(directory.logs, rank).read_started() for rank in range(2)]
    assert [record.host for record in started] == ["host-a", "host-b"]


def test_a_program_of_somebodys_own_runs_and_saves_on_both_hosts(describe, start, hosts, directory):
    hostfile = directory.path / "hostfile"
    hostfile.write_text("".join(f"{host.address} slots=1\n" for host in hosts))
    describe("save", hostfile=str(hostfile))
    ended = start(module="tasks.train", on=hosts[0]).wait()
    assert ended.exit_code == 0, ended.stderr
    started = [rank_folder(directory.logs, rank).read_started() for rank in range(2)]
    assert [record.host for record in started] == ["host-a", "host-b"]
    assert ShardSet.steps(directory.checkpoints) == [1, 2, 3]


def test_a_killed_rank_of_a_program_on_the_other_host_is_named_and_nothing_is_left(describe, start, hosts, directory):
    hostfile = directory.path / "hostfile"
    hostfile.write_text("".join(f"{host.address} slots=1\n" for host in hosts))
    describe("hang", hostfile=str(hostfile))
    launch = start(module="tasks.train", on=hosts[0])
    wait_until(lambda: "rank 1 waits" in _log(directory, 1), "rank 1 waits")
    hosts[1].run("kill", "-9", str(rank_folder(directory.logs, 1).read_started().pid))
    assert message_of(launch).startswith("rank 1 on host-b was ended by signal 9 (SIGKILL)")
    launch.wait_until_nothing_is_left()


def _log(directory, rank: int) -> str:
    log = directory.rank_log(rank)
    return log.read_text() if log.exists() else ""
