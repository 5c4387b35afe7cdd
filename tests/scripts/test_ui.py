"""`make ui`: its port, its password, and that nothing outlives it. (tests/airflow uses the server itself.)"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scripts import ui
from scripts.local_airflow import PROJECT, environment
from tests.airflow.conftest import start_ui
from tests.processes import free_port, processes_of


def test_a_port_in_use_is_refused_with_the_remedy(tmp_path):
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        port = occupant.getsockname()[1]
        finished = subprocess.run(
            [sys.executable, "-m", "scripts.ui", "--home", str(tmp_path), "--port", str(port)],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == (
        f"port {port} on 127.0.0.1 cannot be used (Address already in use); choose another: make ui PORT=8081"
    )


def test_the_password_is_made_once_and_only_the_user_reads_it(tmp_path):
    first = ui.password(tmp_path)
    assert ui.password(tmp_path) == first
    assert len(first) >= 16
    assert (tmp_path / "passwords.json").stat().st_mode & 0o777 == 0o600


def test_the_users_own_airflow_and_python_do_not_leak_in(tmp_path):
    variables = environment(
        tmp_path, {"AIRFLOW_HOME": "/x", "AIRFLOW__CORE__EXECUTOR": "X", "PYTHONPATH": "/x", "HTTPS_PROXY": "proxy"}
    )
    assert "/x" not in variables.values()
    assert variables["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert variables["HTTPS_PROXY"] == "proxy"


def test_where_metrics_and_lineage_go_is_the_users_own_choice(tmp_path):
    chosen = {"AIRFLOW__METRICS__STATSD_ON": "True", "AIRFLOW__OPENLINEAGE__TRANSPORT": '{"type": "console"}'}
    assert chosen.items() <= environment(tmp_path, chosen).items()


@pytest.mark.parametrize(
    ("number", "until"),
    [(signal.SIGKILL, "Ctrl-C"), (signal.SIGHUP, "Starting Airflow")],
    ids=["killed", "terminal closed while it starts"],
)
def test_nothing_outlives_it(airflow_database, number, until):
    home = Path(os.environ["AIRFLOW_HOME"])
    before = {process.pid for process in processes_of(str(home))}
    server = start_ui(home, free_port(), until)
    while len({process.pid for process in processes_of(str(home))} - before) <= len(ui.COMPONENTS):
        time.sleep(0.2)
    server.send_signal(number)
    server.wait()
    while {process.pid for process in processes_of(str(home))} - before:
        time.sleep(0.2)


LAUNCH = """
import os, sys, time
from pathlib import Path
from scripts import processes

log = Path(sys.argv[1])
rank = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True)); print(flush=True)"
launch = (
    "import os, signal, subprocess, sys, time\\n"
    "def leave(*_): time.sleep(1); rank.kill(); sys.exit(print('saved', flush=True))\\n"
    "signal.signal(signal.SIGTERM, leave)\\n"
    "rank = subprocess.Popen(sys.argv[1:], env=os.environ | {'SHARDLINE_LAUNCH': 'run'})\\n"
    "rank.wait()"
)
processes.start([sys.executable, "-c", launch, sys.executable, "-c", rank + "; time.sleep(600)"], os.environ, log)
while not log.read_text():
    time.sleep(0.05)
processes.stop_descendants(grace=30)
print(log.read_text().split())
"""


def test_the_ranks_of_a_launch_are_left_to_the_launch_which_has_them_save(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", LAUNCH, tmp_path / "log"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert finished.stdout == "['saved']\n", finished.stderr


STOPPING = """
import os, sys, time
from pathlib import Path
import psutil
from scripts import processes

log = Path(sys.argv[1])
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
processes.adopt_orphans()
processes.start(["sh", "-c", f"setsid {sys.executable} -c '{stubborn}' & exit"], os.environ, log)
while not log.read_text():
    time.sleep(0.05)
assert psutil.Process().children(recursive=True)
processes.stop_descendants(grace=0.5)
assert psutil.Process().children(recursive=True) == []
print("none left")
"""


def test_descendants_that_ignore_sigterm_and_hide_in_another_session_are_ended(tmp_path):
    """In a process of its own: pytest itself must not become the reaper of what other tests start."""
    finished = subprocess.run(
        [sys.executable, "-c", STOPPING, tmp_path / "log"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (finished.stdout, finished.returncode) == ("none left\n", 0), finished.stderr


def test_the_composed_airflow_shows_refusals_above_the_forms_button_too():
    composed = yaml.safe_load((PROJECT / "docker" / "compose.yaml").read_text())
    assert json.loads(composed["x-airflow"]["environment"]["AIRFLOW__API__THEME"]) == ui.THEME
