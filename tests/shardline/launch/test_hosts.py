"""Which hosts a run gets, and how many ranks each: hostfiles as Open MPI and schedulers write them."""

import itertools
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.base.errors import ConfigError
from shardline.launch import hosts
from shardline.launch.hosts import Host, hosts_of

ROOT = {"SHARDLINE_ALLOWED_ROOTS": tempfile.gettempdir()}


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
    assert hosts_of(hostfile(text), 8, ROOT) == (Host("node1", 4), Host("node2", 4))


def test_without_a_hostfile_there_is_this_host_alone():
    assert hosts_of(None, 8, {}) == ()


def test_the_launching_host_comes_first_as_open_mpi_4_has_it(hostfile, monkeypatch):
    monkeypatch.setattr(hosts, "is_this_host", lambda name: name == "head")
    assert hosts_of(hostfile("node1 slots=4\nhead slots=2\n"), 5, ROOT) == (Host("head", 2), Host("node1", 3))


def test_this_host_is_known_by_its_names_and_addresses():
    assert all(map(hosts.is_this_host, ("localhost", "127.0.0.1", "::1", hosts.socket.gethostname(), "me@localhost")))
    assert not hosts.is_this_host("192.0.2.7")
    assert not hosts.is_this_host("no-such-host.invalid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node1 slots=4\nnode2 slots=2\n", r"hosts has 6 slots on 2 hosts, world_size is 8; add slots or hosts"),
        ("node1 slots=4\nnode2 slots=many\n", r"hosts:2: expected `HOST slots=N`.* found something else"),
        ("node1 slots=8 gpus=8\n", r"hosts:1: expected `HOST slots=N`"),
        ("^node1\n", r"hosts:1: expected `HOST slots=N`"),
        ("# nobody\n", "names no host"),
    ],
)
def test_a_hostfile_that_cannot_serve_is_refused(hostfile, text, message):
    with pytest.raises(ConfigError, match=message):
        hosts_of(hostfile(text), 8, ROOT)


def test_a_missing_hostfile_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"hostfile: there is no {tmp_path}/none, or it may not be read: No such"):
        hosts_of(f"{tmp_path}/none", 8, ROOT)


@pytest.mark.parametrize("name", ["$PBS_NODEFILE", "${PBS_NODEFILE}"])
def test_the_nodefile_of_pbs_is_found_through_its_variable(hostfile, name):
    environment = {"PBS_NODEFILE": hostfile("node1\nnode1\nnode2\n")}
    assert hosts_of(name, 3, environment) == (Host("node1", 2), Host("node2", 1))
    with pytest.raises(ConfigError, match="PBS_NODEFILE is not set"):
        hosts_of(name, 3, {})


@pytest.mark.parametrize("name", ["$SECRET", "${SECRET}", "~/hosts", "/x/$PBS_NODEFILE", "$PBS_NODEFILE/../hosts"])
def test_no_other_variable_is_replaced(hostfile, monkeypatch, name):
    monkeypatch.setenv("SECRET", hostfile("node1 slots=8\n"))
    monkeypatch.setenv("HOME", hostfile("node1 slots=8\n").rpartition("/")[0])
    with pytest.raises(ConfigError, match=r"^hostfile: ") as refused:
        hosts_of(name, 8, ROOT | {"SECRET": hostfile("node1 slots=8\n"), "PBS_NODEFILE": hostfile("node1 slots=8\n")})
    assert hostfile("") not in str(refused.value)


@pytest.mark.parametrize("path", ["/proc/self/environ", "/etc/shadow", "/dev/zero", "LINK", "FIFO"])
def test_nothing_of_a_file_that_is_no_hostfile_is_shown(tmp_path, path):
    (tmp_path / "LINK").symlink_to("/proc/self/environ")
    os.mkfifo(tmp_path / "FIFO")
    with pytest.raises(ConfigError, match=r"^hostfile: expected a (path below|regular file)"):
        hosts_of(str(tmp_path / path), 8, ROOT)


def test_what_stands_in_a_hostfile_is_not_repeated(hostfile):
    for text in ("JWT_SECRET=hunter2\n", "node1 slots=4\nhunter2 is=the secret\n", "hunter2\0\n"):
        with pytest.raises(ConfigError) as refused:
            hosts_of(hostfile(text), 8, ROOT)
        assert "hunter2" not in str(refused.value)
    path = hostfile("")
    Path(path).write_bytes(b"\xff\xfehunter2")
    with pytest.raises(ConfigError, match="is no text"):
        hosts_of(path, 8, ROOT)


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
    ("nodes", "names"),
    [
        ("node7", ["node7"]),
        ("a,b,c", ["a", "b", "c"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[5]", ["n5"]),
        ("n[1,3-4,07]", ["n1", "n3", "n4", "n07"]),
        ("n[1-2]-ib", ["n1-ib", "n2-ib"]),
        ("n[1-2].cluster.example", ["n1.cluster.example", "n2.cluster.example"]),
        ("rack[0-1]node[1-2]", ["rack0node1", "rack0node2", "rack1node1", "rack1node2"]),
        ("r[0-1][8-9]", ["r08", "r09", "r18", "r19"]),
        ("r[0-1]n[1,3]s", ["r0n1s", "r0n3s", "r1n1s", "r1n3s"]),
        ("head,r[1-2]n[1-2],last[3,5-6]", ["head", "r1n1", "r1n2", "r2n1", "r2n2", "last3", "last5", "last6"]),
        ("[1-2]n", ["1n", "2n"]),
        ("gpu-a100-[01-02],cpu_[1-1]", ["gpu-a100-01", "gpu-a100-02", "cpu_1"]),
    ],
)
def test_lists_of_nodes_as_slurm_writes_them(nodes, names):
    environment = {"SLURM_JOB_NODELIST": nodes, "SLURM_TASKS_PER_NODE": f"2(x{len(names)})"}
    assert list(hosts.slurm_slots(environment).items()) == [(name, 2) for name in names]


@st.composite
def node_lists(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A list of nodes as Slurm abbreviates it, and the names; parts begin differently, so that none is named twice."""
    texts, names = [], []
    for number in range(draw(st.integers(1, 4))):
        text, expanded = f"{'abcd'[number]}", [f"{'abcd'[number]}"]
        for _ in range(draw(st.integers(0, 2))):
            first, width = draw(st.integers(0, 120)), draw(st.integers(1, 4))
            last = first + draw(st.integers(0, 5))
            suffix = draw(st.sampled_from(["", "-ib", "node", ".example"]))
            text += f"[{first:0{width}d}-{last:0{width}d}]{suffix}"
            spelt = [f"{value:0{width}d}" for value in range(first, last + 1)]
            expanded = [f"{name}{value}{suffix}" for name in expanded for value in spelt]
        texts.append(text)
        names += expanded
    return ",".join(texts), names


@given(node_lists(), st.data())
def test_every_node_of_a_list_gets_its_tasks(nodes, data):
    text, names = nodes
    hypothesis.assume(len(set(names)) == len(names))  # n[1-2][1-2] may spell a name twice, as n1 1 and n 11
    counts = data.draw(st.lists(st.integers(1, 16), min_size=len(names), max_size=len(names)))
    runs = [(count, len(list(same))) for count, same in itertools.groupby(counts)]
    written = ",".join(str(count) if times == 1 else f"{count}(x{times})" for count, times in runs)
    environment = {"SLURM_JOB_NODELIST": text, "SLURM_TASKS_PER_NODE": written}
    assert list(hosts.slurm_slots(environment).items()) == list(zip(names, counts, strict=True))


@pytest.mark.parametrize(
    ("nodes", "tasks", "message"),
    [
        ("n[1-3", "4(x3)", r"SLURM_JOB_NODELIST=n\[1-3: unbalanced brackets; expected a list such as"),
        ("n1-3]", "4(x3)", "unbalanced brackets"),
        ("n[[1-3]]", "4(x3)", "nested brackets"),
        ("n[3-1]", "4(x3)", "start > stop"),
        ("n[]", "4", "bad range"),
        ("n[1-a]", "4", "bad range"),
        ("n[1-999999999]", "4", "range too large"),
        ("n 1", "4", "'n 1' is no host's name"),
        ("n1;reboot", "4", "'n1;reboot' is no host's name"),
        ("", "4", "names 0 nodes, SLURM_TASKS_PER_NODE=4 is of 1"),
        ("a,b", "4", "names 2 nodes, SLURM_TASKS_PER_NODE=4 is of 1; write a hostfile instead"),
        ("a,a", "4(x2)", "names 1 node,"),
        ("a,b", "8(x2000000000)", "is of 2000000000"),
        ("a,b", "4(x2", r"expected counts such as 8\(x2\),4, found '4\(x2'"),
        ("a,b", "4,four", "found 'four'"),
        ("a,b", "4,-4", "found '-4'"),
        ("a,b", "", "found ''"),
    ],
)
def test_lists_of_nodes_that_cannot_be_meant_are_refused(nodes, tasks, message):
    with pytest.raises(ConfigError, match=message):
        hosts_of("slurm", 4, {"SLURM_JOB_NODELIST": nodes, "SLURM_TASKS_PER_NODE": tasks})


@pytest.mark.parametrize("missing", ["SLURM_JOB_NODELIST", "SLURM_TASKS_PER_NODE"])
def test_outside_of_a_slurm_job_there_are_no_nodes(missing):
    environment = {"SLURM_JOB_NODELIST": "a,b", "SLURM_TASKS_PER_NODE": "4(x2)"}
    del environment[missing]
    with pytest.raises(ConfigError, match=f"'{missing}' is not set"):
        hosts_of("slurm", 4, environment)
