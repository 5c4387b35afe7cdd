"""Airflow's environment in tests, set before anything imports Airflow: a home of its own, nothing of the caller's.

Setting it costs nothing; the database is made only for tests that ask for `airflow_database`.

`make test` runs them in several processes (pytest-xdist). A file's tests run in one of them, one after another, and so
do all tests that share what a fixture makes once for a session: it is made once, not once a process.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from scripts import local_airflow
from shardline.base.file_lock import lock
from tests.patience import PATIENCE_MS

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--disable-software-rasterizer",
]
SCRATCH = Path(tempfile.mkdtemp(prefix="shardline-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


_CALLER_S = ("SHARDLINE_", "AIRFLOW__")


def isolate_environment() -> None:
    """Replace this process's environment by that of an Airflow, and of a Shardline, that live in `SCRATCH`."""
    kept = ("SHARDLINE_SCREENSHOTS", "SHARDLINE_MPIJOB_CRD", "SHARDLINE_CHART_SCHEMA")
    base = {name: value for name, value in os.environ.items() if not name.startswith(_CALLER_S) or name in kept}
    variables = local_airflow.environment(SCRATCH / "airflow", base) | {
        "SHARDLINE_HOME": str(SCRATCH / "shardline"),
        "SHARDLINE_ALLOWED_ROOTS": tempfile.gettempdir(),  # where tests have their data, runs and hostfiles
        # Nothing is proved by how memory is given out; so, MindSpore compiles in nine tenths of the time.
        "GLIBC_TUNABLES": "glibc.malloc.mxfast=0",
    }
    os.environ.clear()
    os.environ.update(variables)


isolate_environment()
gc.set_threshold(100_000)  # collecting the tests, and compiling in them, makes much that stays
# How long an example takes is the machine's affair.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


SHARED = {
    "tests/airflow/": "server",
    "tests/shardline/training/test_interruption.py": "uninterrupted",
    "tests/shardline/training/test_whole_run.py": "uninterrupted",
    "tests/shardline/parallel/test_losses.py": "on_four",
    "tests/shardline/parallel/test_gpt_losses.py": "on_four",
    "tests/shardline/parallel/test_cell_losses.py": "on_four",
    "tests/plugins/": "site",
    "tests/dags/": "linear_run",
}
"""Files whose tests share what a fixture makes once for a session, and takes its time over; the slowest first."""
SLOW = tuple(
    f"tests/{place}"
    for place in (
        "shardline/launch/test_several_hosts.py",
        "protocol/",
        "shardline/parallel/",
        "shardline/training/",
        "shardline/recipes/",
        "examples/",
        "scripts/",
        "shardline/launch/",
    )
)
"""Where tests start ranks, or take their time otherwise; what takes the longest comes first."""


def group_of(test: str) -> str:
    """What is run in one process: all tests of a file, and of all files that share a fixture with it."""
    file = test.partition("::")[0]
    return next((fixture for shared, fixture in SHARED.items() if file.startswith(shared)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadscope`, processes are given groups."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        """Every other process takes groups from the end, quick ones first: ranks of them all at once would only keep
        each other from the cores."""

        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

        def _assign_work_unit(self, node) -> None:
            if self.nodes.index(node) % 2:
                self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
            super()._assign_work_unit(node)

    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow groups come first, so that no process ends long after the others; no test asks for a group's fixture that is
    not in the group."""
    for item in items:
        asked_for = set(SHARED.values()).intersection(getattr(item, "fixturenames", ())) - {group_of(item.nodeid)}
        if asked_for:
            raise pytest.UsageError(
                f"{item.nodeid} asks for {asked_for}: put its file into SHARED in tests/conftest.py"
            )
    slow = (*SHARED, *SLOW)
    items.sort(key=lambda item: next((n for n, start in enumerate(slow) if item.nodeid.startswith(start)), len(slow)))


def pytest_collection_finish() -> None:
    """Choose MindSpore's device before the first test: it refuses the choice once any kernel has run in the process."""
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_device("CPU")


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """What there is when a file's tests begin stays: it isn't looked through again whenever garbage is collected.

    Airflow and MindSpore, and what a session's fixtures have made of them, are half a million objects and more.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def airflow_database(tmp_path_factory):
    """A migrated, empty Airflow database in this session's own home; it is made once for all processes of a run."""
    own, home = tmp_path_factory.getbasetemp(), SCRATCH / "airflow"
    made = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "migrated"
    made.mkdir(exist_ok=True)
    with (made / "lock").open("w") as file:
        lock(file, wait=True)
        local_airflow.initialise(made, local_airflow.environment(made, os.environ))
    home.mkdir(mode=0o700, exist_ok=True)
    for name in ("airflow.db", "initialised"):
        shutil.copy(made / name, home)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, for one module: while Playwright runs, this thread can start no other event loop (nor a second
    Playwright), which tests of other modules need."""
    from playwright.sync_api import expect, sync_playwright  # most tests need none

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield chromium
        chromium.close()
