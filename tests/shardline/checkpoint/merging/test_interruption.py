"""Real processes killed at every stage, and real devices that are full: the old output stays, nothing else is left."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
from shardline.checkpoint.strategy.layout import Layout
from tests.patience import PATIENCE_S
from tests.shardline.checkpoint.sharding import save_shards, save_strategy

PROJECT = Path(__file__).parents[4]
LAYOUTS = {f"layer{number}.weight": Layout((2, 2), ((0,), ())) for number in range(8)}


def whole(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.random((512, 1024), dtype=np.float32) for name in LAYOUTS}


@pytest.fixture
def command(tmp_path):
    """The command line of a merge of 16 MB over an output that is already there."""
    strategy = save_strategy(tmp_path / "strategy.ckpt", LAYOUTS)
    save_shards(tmp_path / "old", whole(1), LAYOUTS, world_size=4)
    save_shards(tmp_path / "shards", whole(2), LAYOUTS, world_size=4)
    merge(MergeRequest(tmp_path / "old", (strategy,), tmp_path / "out" / "model.ckpt"))
    output = ["--output", str(tmp_path / "out" / "model.ckpt")]
    return [
        sys.executable,
        "-m",
        "tasks.merge",
        "--shards",
        str(tmp_path / "shards"),
        "--strategy",
        str(strategy),
        *output,
    ]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, **options)


def kill_when(process: subprocess.Popen[str], is_reached: object, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and not is_reached() and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.send_signal(number)
    process.wait()


def has_staged(directory: Path, size: int) -> bool:
    """Whether a staged file of at least `size` bytes on disk is there."""
    try:
        return any(path.stat().st_size >= size for path in directory.glob(".*.staged"))
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.02, 0.04])
def test_after_sigkill_the_old_output_is_whole_and_the_next_run_cleans_up(command, tmp_path, delay):
    out = tmp_path / "out"
    before = contents(out)
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    kill_when(process, lambda: has_staged(out, 1), signal.SIGKILL)
    time.sleep(delay)
    after = contents(out)
    assert after["model.ckpt"] == before["model.ckpt"] or process.returncode == 0
    finished = run(command)
    assert finished.returncode == 0, finished.stderr
    assert sorted(contents(out)) == ["model.ckpt", "model.ckpt.merge.json"]
    assert np.array_equal(read_checkpoint(out / "model.ckpt")["layer3.weight"], whole(2)["layer3.weight"])


def test_sigterm_leaves_nothing_behind(command, tmp_path):
    out = tmp_path / "out"
    before = contents(out)
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    kill_when(process, lambda: has_staged(out, 1), signal.SIGTERM)
    assert process.returncode in (0, 143)
    assert sorted(contents(out)) == ["model.ckpt", "model.ckpt.merge.json"]
    assert process.returncode == 0 or contents(out) == before


def test_a_full_device_is_one_message_and_the_old_output_stays(command, tmp_path):
    out = tmp_path / "out"
    before = contents(out)
    # The limit of a file's size fails as a full device does: in the middle of the reservation.
    limited = ["prlimit", f"--fsize={4 << 20}", *command]
    done = run(limited)
    assert done.returncode == 1, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("OutputError: ")
    assert "expected room for 16" in message
    assert contents(out) == before


@pytest.mark.soak
def test_a_full_file_system_is_one_message_and_the_old_output_stays(command, tmp_path):
    """Needs root, to mount a small one."""
    before = contents(tmp_path / "out")
    disk = tmp_path / "disk"
    disk.mkdir()
    assert run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]).returncode == 0
    try:
        for name, content in before.items():
            (disk / name).write_bytes(content)
        done = run([*command[:-1], str(disk / "model.ckpt")])
        assert done.returncode == 1
        assert "no space left" in done.stderr.splitlines()[-1]
        assert contents(disk) == before
    finally:
        run(["umount", str(disk)])


def test_two_processes_into_one_output_leave_one_whole_result(command, tmp_path):
    processes = [
        subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = [(process.communicate(), process.returncode) for process in processes]
    assert 0 in [code for _, code in results]
    for (_, errors), code in results:
        assert code == 0 or "is being written by another process" in errors
    assert sorted(contents(tmp_path / "out")) == ["model.ckpt", "model.ckpt.merge.json"]
    record = json.loads(contents(tmp_path / "out")["model.ckpt.merge.json"])
    assert record["output"][0]["size"] == (tmp_path / "out" / "model.ckpt").stat().st_size
    verified = run([sys.executable, "-m", "tasks.merge", "--verify", str(tmp_path / "out" / "model.ckpt")])
    assert verified.returncode == 0
