"""Airflow's environment in tests, set before anything imports Airflow: a home of its own, nothing of the caller's.

Setting it costs nothing; the database is made only for tests that ask for `airflow_database`.

`make test` runs them in several processes (pytest-xdist). A file's tests run in one of them, one after another, and so
do all tests that share what a fixture makes once for a session: it is made once, not once a process.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from scripts import local_airflow

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCRATCH = Path(tempfile.mkdtemp(prefix="shardline-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


def isolate_environment() -> None:
    """Replace this process's environment by that of an Airflow, and of a Shardline, that live in `SCRATCH`."""
    kept = ("SHARDLINE_SCREENSHOTS", "SHARDLINE_MPIJOB_CRD", "SHARDLINE_CHART_SCHEMA")
    base = {name: value for name, value in os.environ.items() if not name.startswith("SHARDLINE_") or name in kept}
    variables = local_airflow.environment(SCRATCH / "airflow", base) | {
        "SHARDLINE_HOME": str(SCRATCH / "shardline"),
        "SHARDLINE_ALLOWED_ROOTS": tempfile.gettempdir(),  # where tests have their data, runs and hostfiles
    }
    os.environ.clear()
    os.environ.update(variables)


isolate_environment()
# How long an example takes is the machine's affair.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


SHARED = {
    "server": "a running Airflow",
    "new_run": "whole trainings",
    "airflow_database": "Airflow's database",
    "dagbag": "Airflow's database",
}
"""Session's fixtures that are dear, and the group of the tests that ask for them, the slowest group first."""
SLOW = ("tests/shardline/parallel/", "tests/shardline/launch/", "tests/shardline/recipes/", "tests/shardline/training/")
"""Folders whose tests start ranks."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put every test into its group, and the slow groups first, so that no process ends long after the others."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    order = {group: number for number, group in enumerate(dict.fromkeys(SHARED.values()))}
    items.sort(key=lambda item: (order.get(_group(item), len(order)), not item.nodeid.startswith(SLOW)))


def _group(item: pytest.Item) -> str:
    asked_for = getattr(item, "fixturenames", ())
    return next((group for fixture, group in SHARED.items() if fixture in asked_for), item.nodeid.partition("::")[0])


def pytest_collection_finish() -> None:
    """Choose MindSpore's device before the first test: it refuses the choice once any kernel has run in the process."""
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_device("CPU")


@pytest.fixture(scope="session")
def airflow_database():
    """A migrated, empty Airflow database in this session's own home."""
    local_airflow.initialise(SCRATCH / "airflow", os.environ)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, for one module: while Playwright runs, this thread can start no other event loop (nor a second
    Playwright), which tests of other modules need."""
    from playwright.sync_api import sync_playwright  # most tests need none

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield chromium
        chromium.close()
