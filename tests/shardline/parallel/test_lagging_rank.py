"""Collectives wait for a rank that lags behind, longer than MindSpore's own 30 seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.shardline.parallel.ranks import mpirun, rank_environment

PROJECT = Path(__file__).parents[3]
PROGRAM = """
import os, sys, time, mindspore
from pathlib import Path
from shardline.parallel.cpu import cluster
from shardline.training.receipts import Receipts
mindspore.set_device("CPU")
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
cluster.join(rank, 2)
time.sleep(45 * rank)
cluster.total([1.0])
Receipts(Path(sys.argv[1])).leave_together(rank, 2)
os._exit(0)
"""


@pytest.mark.soak
def test_a_rank_that_lags_45_seconds_is_waited_for(tmp_path):
    command = [*mpirun(2), sys.executable, "-c", PROGRAM, str(tmp_path)]
    finished = subprocess.run(command, cwd=PROJECT, env=rank_environment(), check=False, capture_output=True)
    assert finished.returncode == 0, finished.stderr
