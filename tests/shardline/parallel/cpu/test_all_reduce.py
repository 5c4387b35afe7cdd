"""The sum over ranks in a graph, and its time."""

import json
import subprocess
import sys

from shardline.run.environment import PROJECT
from tests.shardline.parallel.ranks import mpirun, rank_environment

PROGRAM = """
import json, os, sys, mindspore
from pathlib import Path
from mindspore import Tensor
from shardline.parallel.cpu import collectives
from shardline.parallel.cpu.all_reduce import AllReduce
mindspore.set_context(mode=mindspore.GRAPH_MODE)
mindspore.set_device("CPU")
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
collectives.join(rank, 2)
add = AllReduce((0, 1))
totals = [add(Tensor([[1.0, step + rank]], mindspore.float32)).asnumpy().tolist() for step in range(3)]
Path(sys.argv[1], f"{rank}.json").write_text(json.dumps([totals, collectives.in_collectives.seconds]))
"""


def test_the_graph_gets_the_sum_and_its_time_is_taken(tmp_path):
    command = [*mpirun(2), sys.executable, "-c", PROGRAM, str(tmp_path)]
    finished = subprocess.run(command, cwd=PROJECT, env=rank_environment(), check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    left = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [totals for totals, _ in left] == [[[[2.0, 1.0]], [[2.0, 3.0]], [[2.0, 5.0]]]] * 2
    assert all(seconds > 0 for _, seconds in left)
