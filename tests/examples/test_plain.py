"""A plain MindSpore program under mpirun: killed, gone on with, and promoted."""

import json
import signal
import time

import psutil

from shardline.checkpoint.shards.shard_set import ShardSet
from tests.patience import PATIENCE_S


def test_a_killed_training_goes_on_from_its_adopted_set_and_is_promoted(example):
    described = example("plain.toml")
    described.prepare(epochs=100_000)  # it ends when it is killed
    process = described.start("tasks.launch", "tasks.train")
    deadline = time.monotonic() + 4 * PATIENCE_S
    while not ShardSet.steps(described.run.checkpoints):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [rank] = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.cmdline()[1:2] == ["plain/train.py"] and child.environ()["OMPI_COMM_WORLD_RANK"] == "1"
    ]
    rank.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "rank 1" in errors

    described.prepare(epochs=1)
    killed_after = ShardSet.newest(described.run.checkpoints).epoch
    described.prepare(epochs=killed_after + 2)
    trained = described.train()
    newest = ShardSet.newest(described.run.checkpoints)
    assert trained.result["step"] == newest.step >= (killed_after + 2) * 8
    assert "goes on from shard set" in trained.stdout + trained.stderr
    steps = [json.loads(line)["step"] for line in described.run.metrics_file.read_text().splitlines()]
    assert steps == list(range(1, newest.step + 1))
    assert described.merge_to_promote()["accuracy"] >= 0.9
