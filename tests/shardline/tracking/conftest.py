"""A real MLflow server: of `.venv-server`, which `make mlflow` makes, or of the tests' own environment."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from shardline.run.environment import PROJECT
from tests.processes import free_port

PATIENCE_S = 120
SERVER_PYTHON = PROJECT / ".venv-server" / "bin" / "python"


def server_python() -> str | None:
    """The Python that has MLflow's server; `None` where there is none."""
    if SERVER_PYTHON.is_file():
        return str(SERVER_PYTHON)
    return sys.executable if importlib.util.find_spec("mlflow") else None


class Server:
    """One that can be stopped and started again at the same address, on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores = [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination",
            str(self.folder),
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(server_python()), "-m", "mlflow", "server", *options, *stores],
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (URLError, OSError):  # noqa: PERF203  it starts
                assert time.monotonic() < end, (self.folder / "log").read_text()
                assert self._process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 15)
            self._process.wait(PATIENCE_S)
            self._process = None


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """A server on SQLite, with all its artifacts in a folder."""
    if server_python() is None:
        pytest.skip("MLflow's server is not installed: make mlflow")
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.stop()
