"""Which hosts a run gets, and how many ranks each: hostfiles as Open MPI and schedulers write them."""

import pytest

from shardline.base.errors import ConfigError
from shardline.launch import hosts
from shardline.launch.hosts import Host, hosts_of


@pytest.fixture
def hostfile(tmp_path):
    """Write a hostfile; its path."""

    def write(text: str) -> str:
        (tmp_path / "hosts").write_text(text)
        return str(tmp_path / "hosts")

    return write


@pytest.mark.parametrize(
    "text",
    [
        "node1 slots=4\nnode2 slots=4\n",
        "# ours\n\nnode1   slots = 4 # fast\nnode2 slots=16 max_slots=8\n",
        "node1 cpu=4 max-slots=4\nnode2 count=4\n",
        "node1\n" * 4 + "node2\n" * 4,
        "node1 slots=2\nnode1 slots=2\nnode2 slots=9\nnode3 slots=9\n",
    ],
)
def test_slots_are_filled_host_by_host(hostfile, text):
    assert hosts_of(hostfile(text), 8, {}) == (Host("node1", 4), Host("node2", 4))


def test_without_a_hostfile_there_is_this_host_alone():
    assert hosts_of(None, 8, {}) == ()


def test_the_launching_host_comes_first_as_open_mpi_4_has_it(hostfile, monkeypatch):
    monkeypatch.setattr(hosts, "is_this_host", lambda name: name == "head")
    assert hosts_of(hostfile("node1 slots=4\nhead slots=2\n"), 5, {}) == (Host("head", 2), Host("node1", 3))


def test_this_host_is_known_by_its_names_and_addresses():
    assert all(map(hosts.is_this_host, ("localhost", "127.0.0.1", "::1", hosts.socket.gethostname(), "me@localhost")))
    assert not hosts.is_this_host("192.0.2.7")
    assert not hosts.is_this_host("no-such-host.invalid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node1 slots=4\nnode2 slots=2\n", r"hosts has 6 slots on 2 hosts, world_size is 8; add slots or hosts"),
        ("node1 slots=4\nnode2 slots=many\n", r"hosts:2: expected `HOST slots=N`.* found 'node2 slots=many'"),
        ("node1 slots=8 gpus=8\n", r"hosts:1: expected `HOST slots=N`"),
        ("^node1\n", r"hosts:1: expected `HOST slots=N`"),
        ("# nobody\n", "names no host"),
    ],
)
def test_a_hostfile_that_cannot_serve_is_refused(hostfile, text, message):
    with pytest.raises(ConfigError, match=message):
        hosts_of(hostfile(text), 8, {})


def test_a_missing_hostfile_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"hostfile {tmp_path}/none cannot be read: .*No such file"):
        hosts_of(f"{tmp_path}/none", 8, {})


def test_the_nodefile_of_pbs_is_found_through_its_variable(hostfile, monkeypatch):
    monkeypatch.setenv("PBS_NODEFILE", hostfile("node1\nnode1\nnode2\n"))
    assert hosts_of("$PBS_NODEFILE", 3, {}) == (Host("node1", 2), Host("node2", 1))


def test_the_nodes_of_a_slurm_job():
    environment = {"SLURM_JOB_NODELIST": "big,rack[08-10,2],last", "SLURM_TASKS_PER_NODE": "1,8(x3),4(x2)"}
    assert hosts.slurm_slots(environment) == {
        "big": 1,
        "rack08": 8,
        "rack09": 8,
        "rack10": 8,
        "rack2": 4,
        "last": 4,
    }
    assert hosts_of("slurm", 5, environment) == (Host("big", 1), Host("rack08", 4))


@pytest.mark.parametrize(
    ("environment", "message"),
    [({}, "'SLURM_JOB_NODELIST' is not set"), ({"SLURM_JOB_NODELIST": "a,b", "SLURM_TASKS_PER_NODE": "4"}, "a,b")],
)
def test_outside_of_a_slurm_job_there_are_no_nodes(environment, message):
    with pytest.raises(ConfigError, match=message):
        hosts_of("slurm", 4, environment)
