"""Which mpirun is taken, and how each version of Open MPI is called."""

import sys
from pathlib import Path

import pytest

from shardline.base.errors import LaunchError
from shardline.launch import mpirun
from shardline.launch.hosts import Host
from shardline.launch.mpirun import Mpirun


def program(path: Path, prints: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' '{prints}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def beside_python(tmp_path, monkeypatch) -> Path:
    """The folder of the Python that runs."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    return tmp_path / "bin"


def test_the_named_one_comes_first_then_pythons_own_then_the_first_on_path(beside_python, tmp_path):
    on_path = program(tmp_path / "path" / "mpirun", "mpirun (Open MPI) 4.1.4")
    environment = {"PATH": str(on_path.parent)}
    assert mpirun.find(environment) == Mpirun(on_path, (4, 1))
    own = program(beside_python / "mpirun", "mpirun (Open MPI) 5.0.11")
    assert mpirun.find(environment) == Mpirun(own, (5, 0))
    named = program(tmp_path / "named", "mpirun.openmpi (OpenRTE) 4.1.6rc2")
    assert mpirun.find(environment | {"SHARDLINE_MPIRUN": str(named)}) == Mpirun(named, (4, 1))


def test_a_named_one_that_is_not_there_is_not_replaced_by_another():
    with pytest.raises(LaunchError, match="SHARDLINE_MPIRUN=/no/mpirun: no such program"):
        mpirun.find({"SHARDLINE_MPIRUN": "/no/mpirun"})


@pytest.mark.parametrize("prints", ["HYDRA build details:", "mpirun (Open MPI) 4.0.7", "mpirun (Open MPI) 3.1.0"])
def test_other_and_older_implementations_are_refused(tmp_path, prints):
    path = program(tmp_path / "mpirun", prints)
    with pytest.raises(LaunchError) as caught:
        mpirun.find({"SHARDLINE_MPIRUN": str(path)})
    assert str(caught.value).startswith(f"{path}: expected Open MPI 4.1 or newer, found '{prints}'")


def test_one_that_does_not_run_is_refused(tmp_path):
    path = program(tmp_path / "mpirun", "")
    path.write_text("#!/no/such/interpreter\n")
    with pytest.raises(LaunchError, match=f"{path} --version doesn't run: .*No such file"):
        mpirun.find({"SHARDLINE_MPIRUN": str(path)})


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ((4, 1), "-n 8 --oversubscribe --bind-to none"),
        ((5, 0), "-n 8 --map-by slot:OVERSUBSCRIBE --bind-to none"),
    ],
)
@pytest.mark.parametrize(("as_root", "root"), [(False, []), (True, ["--allow-run-as-root"])])
def test_the_command_of_each_version(version, options, as_root, root, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0 if as_root else 1000)
    command = Mpirun(Path("/opt/mpirun"), version).command(8, ["python", "train.py"])
    assert command == ["/opt/mpirun", *options.split(), *root, "python", "train.py"]


@pytest.mark.parametrize("version", [(4, 1), (5, 0)])
def test_the_command_on_several_hosts(version, tmp_path, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    launcher, hosts = Mpirun(Path("/opt/mpirun"), version), (Host("node1", 4), Host("node2", 3))
    environment = {"SHARDLINE_HOME": "/shared", "LD_LIBRARY_PATH": "/cuda", "HCCL_IF_IP": "10.0.0.1", "EDITOR": "vi"}
    command = launcher.command_on_hosts(hosts, tmp_path / "hosts", ["python"], environment)
    assert " ".join(command) == (
        f"/opt/mpirun --hostfile {tmp_path}/hosts -n 7 --map-by slot --bind-to none "
        "-x HCCL_IF_IP -x LD_LIBRARY_PATH -x SHARDLINE_HOME python"
    )
    assert (tmp_path / "hosts").read_text() == "node1 slots=4\nnode2 slots=3\n"
    command = launcher.command_on_hosts(hosts, tmp_path / "hosts", ["python"], {}, one_a_host=True)
    assert " ".join(command).endswith("/hosts -n 2 --map-by ppr:1:node --bind-to none python")


def test_other_hosts_get_neither_this_hosts_cards_nor_the_workers_secrets_unless_asked():
    secret = {"AIRFLOW__CORE__FERNET_KEY": "…", "AWS_SECRET_ACCESS_KEY": "…", "HOME": "/root"}
    cards = {"SHARDLINE_CARDS": "4,5", "CUDA_VISIBLE_DEVICES": "4,5", "ASCEND_RT_VISIBLE_DEVICES": "4,5"}
    settings = {"NCCL_SOCKET_IFNAME": "eth1", "GLOG_v": "3", "MS_DEV_X": "1", "OMP_NUM_THREADS": "2", "PATH": "/bin"}
    assert mpirun.passed_on(secret | cards | settings) == sorted(settings)
    asked = {"SHARDLINE_EXPORT": "AWS_SECRET_ACCESS_KEY, NOT_SET"}
    assert mpirun.passed_on(secret | asked) == ["AWS_SECRET_ACCESS_KEY", "SHARDLINE_EXPORT"]


def test_what_an_outer_run_left_in_the_environment_goes_and_a_users_settings_stay():
    settings = {"OMPI_MCA_btl_tcp_if_include": "eth0", "PATH": "/bin"}
    assert mpirun.without_outer_run(settings) == settings
    inside = settings | {"OMPI_COMM_WORLD_RANK": "0", "PMIX_SERVER_URI41": "…", "PRTE_LAUNCHED": "1"}
    assert mpirun.without_outer_run(inside) == {"PATH": "/bin"}


def test_the_locked_environment_brings_its_own():
    found = mpirun.find({"PATH": "/nowhere"})
    assert found.path == Path(sys.executable).with_name("mpirun")
    assert found.version >= (5, 0)
