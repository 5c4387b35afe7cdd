"""Who is told of runs: servers that answer, that are not there, and that accept and never answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.processes import free_port
from tests.shardline.tracking.conftest import Server
from tests.statsd_server import statsd_server

Settings = dict[str, str]


class Accepting(BaseHTTPRequestHandler):
    """Takes whatever is sent, as an OpenTelemetry collector does."""

    answer = b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    do_GET = do_PUT = do_POST  # noqa: N815  the names that http.server looks for

    def log_message(self, *arguments: object) -> None:
        """Not shown."""


class LikeMLflow(Accepting):
    """Answers at once as MLflow's server does, as far as Shardline looks, and keeps nothing."""

    answer = json.dumps(
        {
            "experiment": {"experiment_id": "1"},
            "run": {"info": {"run_id": "1", "artifact_uri": "mlflow-artifacts:/1"}},
            "model_version": {"version": "1"},
            "model_versions": [{"version": "1", "tags": [{"key": "shardline.version", "value": "1"}]}],
        }
    ).encode()


@contextmanager
def accepting(handler: type[Accepting]) -> Iterator[int]:
    """The port of an HTTP server that takes everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def silent() -> Iterator[int]:
    """A port whose connections are accepted, and never answered."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1000)
        yield listening.getsockname()[1]


@contextmanager
def nobody() -> Iterator[int]:
    """A port that refuses connections."""
    yield free_port()


@contextmanager
def mlflow(folder: Path) -> Iterator[int]:
    """A real MLflow server's."""
    server = Server(folder)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


@contextmanager
def told(settings: Callable[[int], Settings], server: Callable[[], AbstractContextManager[int]]) -> Iterator[Settings]:
    """`settings` of the port at which `server` listens."""
    with server() as port:
        yield settings(port)


def mlflow_settings(port: int) -> Settings:
    return {"SHARDLINE_MLFLOW_URI": f"http://127.0.0.1:{port}"}


def opentelemetry_settings(port: int) -> Settings:
    return {
        "AIRFLOW__METRICS__OTEL_ON": "True",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }


def statsd_settings(port: int) -> Settings:
    return {
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": str(port),
    }


@contextmanager
def statsd() -> Iterator[int]:
    with statsd_server() as server:
        yield server.port


@contextmanager
def lineage() -> Iterator[Settings]:
    """Where the worker has lineage told: what would be sent is put together, and not sent."""
    yield {"AIRFLOW__OPENLINEAGE__TRANSPORT": '{"type": "console"}'}


def all_listeners(folder: Path) -> dict[str, Callable[[], AbstractContextManager[Settings]]]:
    """Each by name; an MLflow server keeps in `folder` what it is told."""
    return {
        "mlflow": lambda: told(mlflow_settings, lambda: mlflow(folder)),
        "mlflow-elsewhere": lambda: told(mlflow_settings, partial(accepting, LikeMLflow)),
        "mlflow-down": lambda: told(mlflow_settings, nobody),
        "mlflow-silent": lambda: told(mlflow_settings, silent),
        "statsd": lambda: told(statsd_settings, statsd),
        "statsd-down": lambda: told(statsd_settings, nobody),
        "opentelemetry": lambda: told(opentelemetry_settings, partial(accepting, Accepting)),
        "opentelemetry-down": lambda: told(opentelemetry_settings, nobody),
        "opentelemetry-silent": lambda: told(opentelemetry_settings, silent),
        "openlineage": lineage,
    }


NAMES = tuple(all_listeners(Path()))
