"""What a DAG passes to a task arrives, however large it is, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from plugins.task_operator import TaskOperator
from shardline.run.environment import PROJECT
from tests.patience import wait_until
from tests.processes import wait_until_ended


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """An operator whose task prints, as its result, the size of a document and where that was."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "echo.py").write_text(
        "import json, os\n"
        "from pathlib import Path\n"
        "file = Path(os.environ['SHARDLINE_PARAMETERS_FILE'])\n"
        "mode = oct(file.parent.stat().st_mode & 0o777)\n"
        "print(json.dumps({'file': str(file), 'size': len(file.read_text()), 'mode': mode}))\n"
    )

    def execute(document: str) -> dict:
        operator = TaskOperator(task_id="echo", module="echo", reads_parameters=True)
        operator.documents = {"SHARDLINE_PARAMETERS": document}  # as Airflow has rendered it
        operator.env = {}
        return operator.execute({"ti": None})

    return execute


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_a_document_of_any_size_is_a_file_for_as_long_as_the_task_runs(echo, size):
    """Linux allows 128 KiB for a variable of the environment."""
    result = echo("é" * size)
    assert (result["size"], result["mode"]) == (size, "0o700")
    assert not Path(result["file"]).exists()


def test_documents_are_templates():
    operator = TaskOperator(task_id="merge", module="echo", documents={"NAME": "{{ run_id }}"}, reads_parameters=True)
    operator.env = {}
    operator.render_template_fields({"run_id": "manual__1", "params": {"epochs": 3, "text": "é'\"<"}})
    assert operator.documents["NAME"] == "manual__1"
    assert json.loads(operator.documents["SHARDLINE_PARAMETERS"]) == {"epochs": 3, "text": "é'\"<"}


WORKER = """
import os, signal, socket, sys
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder
from plugins.task_operator import TaskOperator

near, far = socket.socketpair()
if os.fork():
    os.wait()
    raise SystemExit
os.setpgid(0, 0)
if sys.argv[1] == "task runner":
    task_runner.SUPERVISOR_COMMS = CommsDecoder(socket=far)
operator = TaskOperator(task_id="wait", module="wait", reads_parameters=True)
operator.documents, operator.env = {}, {}
signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
operator.execute({"ti": None})
"""
"""A worker's process and its task runner, as Airflow's supervisor starts it: in a process group of its own, and with a
handler of SIGTERM that has the operator end the task."""
WAIT = "import os, time\nopen(os.environ['STARTED'], 'w').write(f'{os.getppid()} {os.getpid()}\\n')\ntime.sleep(3600)\n"


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """A function: the processes of a worker, of what runs the task there and of the task, which waits."""
    (tmp_path / "wait.py").write_text(WAIT)
    started = tmp_path / "started"
    monkeypatch.setenv("PYTHONPATH", f"{PROJECT}{os.pathsep}{tmp_path}")
    monkeypatch.setenv("STARTED", str(started))
    processes = []

    def start(where: str) -> list[psutil.Process]:
        worker = subprocess.Popen([sys.executable, "-c", WORKER, where], stdout=subprocess.DEVNULL, cwd=tmp_path)
        processes.append(psutil.Process(worker.pid))
        wait_until(lambda: started.exists() and started.read_text().endswith("\n"))
        processes.extend(psutil.Process(int(pid)) for pid in started.read_text().split())
        return processes

    yield start
    for process in processes:
        if process.is_running():
            process.kill()


def test_a_task_ends_with_the_worker_that_watches_its_runner(waiting):
    """The runner has a process group of its own: whoever kills the worker's misses it."""
    worker, runner, task = waiting("task runner")
    os.kill(worker.pid, signal.SIGKILL)
    wait_until_ended([worker, runner, task])


def test_a_task_outlives_whoever_started_a_process_of_the_users_own(waiting):
    """Such as the shell of `nohup make demo`."""
    parent, process, task = waiting("dag.test")
    parent.kill()
    wait_until_ended([parent])
    assert process.is_running()
    assert task.is_running()
