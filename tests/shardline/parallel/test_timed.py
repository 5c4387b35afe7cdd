"""The time in collectives, as the graph itself takes it."""

import json
import subprocess
import sys
import time

from shardline.run.environment import PROJECT
from tests.shardline.parallel.ranks import mpirun, rank_environment

LAG = 1.5
PROGRAM = f"""
import json, os, sys, time, mindspore
from mindspore import Tensor
from mindspore.communication import GlobalComm
from pathlib import Path
from shardline.parallel.cpu import cluster
from shardline.parallel.cpu.timed import TimedAllReduce, in_collectives
from shardline.training.receipts import Receipts
mindspore.set_context(mode=mindspore.GRAPH_MODE)
mindspore.set_device("CPU")
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
cluster.join(rank, 2)
folder = Path(sys.argv[1])
add = TimedAllReduce(GlobalComm.WORLD_COMM_GROUP)
x = Tensor([[1.0, 2.0 + rank]], mindspore.float32)
add(x).asnumpy()
before = in_collectives.seconds
time.sleep({LAG} * rank)
total = add(x).asnumpy().tolist()
seconds = in_collectives.seconds - before
(folder / f"{{rank}}.json").write_text(json.dumps([total, before, seconds]))
Receipts(folder).leave_together(rank, 2)
os._exit(0)
"""


def test_a_rank_that_comes_first_waits_and_the_sum_is_the_sum(tmp_path):
    command = [*mpirun(2), sys.executable, "-c", PROGRAM, str(tmp_path)]
    finished = subprocess.run(command, cwd=PROJECT, env=rank_environment(), check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    first, late = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first[0] == late[0] == [[2.0, 5.0]]
    assert first[1] > 0
    assert late[1] > 0
    assert first[2] > LAG / 2, "the other rank slept meanwhile"
    assert 0 < late[2] < first[2]


def test_what_overlaps_counts_once():
    from shardline.parallel.cpu.timed import Stopwatch  # MindSpore, which changes the process that imports it

    watch = Stopwatch()
    start = time.perf_counter()
    watch.begin()
    watch.begin()
    time.sleep(0.05)
    watch.end()
    assert watch.seconds == 0, "one has not ended"
    watch.end()
    assert 0.05 <= watch.seconds <= time.perf_counter() - start
    before = watch.seconds
    time.sleep(0.01)
    assert watch.seconds == before
