"""A running Airflow, as `make ui` starts it (API server, scheduler, DAG processor, triggerer), and a real browser."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from playwright.sync_api import Page, expect

from scripts import local_airflow, ui
from scripts.local_airflow import PROJECT
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.datasets import embedded, idx
from shardline.launch.records import rank_folder
from shardline.run.directory import RunDirectory
from tests.airflow.documented import Reader
from tests.airflow.rest import FINISHED, Api
from tests.patience import PATIENCE_MS
from tests.processes import environment_of, free_port
from tests.statsd_server import StatsdServer, statsd_server

SCREENSHOTS = os.environ.get("SHARDLINE_SCREENSHOTS")  # a folder; without it the tests leave the checkout as it is

DEADLINE_HOURS = 1.0 if SCREENSHOTS else 0.001  # every run misses the short one, and pictures would show that
DAGS = {"sharded_training", "retraining", "merge_checkpoint", "housekeeping", "consume_model"}

CARDS = 4
ENDLESS = 10_000
"""Epochs of a training that something happens to before its end, however fast the machine is."""
STEPS_PER_EPOCH = 20
MLP_PARTS = ("weight", "bias")
NOT_EXPORTED = ["moment*", "beta*", "global_step", "learning_rate", "epoch_num", "step_num"]
"""What of a checkpoint of the MLP is state of its optimizer."""


@dataclass(frozen=True)
class Server:
    """Where it listens, who may log in, where its runs lie."""

    address: str
    password: str
    home: Path
    shared: Path
    process: subprocess.Popen[str]
    notices: Path
    """What `FileNotifier` was told, a JSON object a line."""

    @property
    def scheduler_log(self) -> Path:
        return self.home / "logs" / "scheduler.log"

    def stop(self) -> None:
        """End it as `kill` does, and return when it has ended."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A folder with 320 training and 100 test digits, in the four IDX files of MNIST."""
    folder = tmp_path_factory.mktemp("digits")
    for split, prefix, count in (("train", "train", 320), ("test", "t10k", 100)):
        images = embedded.Embedded().read()[split]
        idx.write_images(folder / f"{prefix}-images-idx3-ubyte", np.ascontiguousarray(images.images[:count]))
        idx.write_labels(folder / f"{prefix}-labels-idx1-ubyte", np.ascontiguousarray(images.labels[:count]))
    return folder


@pytest.fixture(scope="session")
def small(digits) -> dict[str, Any]:
    """Parameters of a run that takes seconds: one epoch of twenty steps, unsharded."""
    return {
        "data_source": "directory",
        "data_directory": str(digits),
        "world_size": 1,
        "epochs": 1,
        "batch_size": 16,
        "min_accuracy": 0.0,
        "save_checkpoint_steps": 5,
    }


def start_ui(home: Path, port: int, until: str = "Ctrl-C", **settings: str) -> subprocess.Popen[str]:
    """`make ui` without make: start it in a session of its own; returns when it has said `until`, that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.ui", "--home", str(home), "--port", str(port)],
        cwd=PROJECT,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if until in line:
                return process
    except BaseException:  # Ctrl-C, which this session of its own isn't told
        process.terminate()
        process.wait()
        raise
    raise AssertionError(f"the user interface did not start:\n{''.join(said)}")


def parse_dags_once(home: Path, **settings: str) -> None:
    """Make Airflow's home, as `make ui` would, but don't have its DAGs parsed again every half minute."""
    local_airflow.initialise(home, local_airflow.environment(home, os.environ | settings))
    file, every = home / "airflow.cfg", "\nmin_file_process_interval = {}\n"
    configuration = file.read_text()
    assert every.format(30) in configuration
    file.write_text(configuration.replace(every.format(30), every.format(3600)))


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsdServer]:
    """What Airflow's metrics are sent to."""
    with statsd_server() as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory, small, statsd) -> Iterator[Server]:
    """Airflow on a free port with a home of its own; `retraining` is paused, or runs every 15 seconds and on new data.

    It has `CARDS` cards. Everything that happens is told to a file; a run is late after `DEADLINE_HOURS`.
    """
    home, shared, port = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("shardline"), free_port()
    notices = shared / "notices.jsonl"
    arguments = {"file": str(notices), "title": "{{ notice.title }}", "text": "{{ notice.text }}"}
    notifier = {"notifier": "tests.airflow.file_notifier.FileNotifier", "arguments": arguments}
    cards = {"SHARDLINE_DEVICE_SLOTS": str(CARDS)}
    parse_dags_once(home, **cards)
    process = start_ui(
        home,
        port,
        **cards,
        SHARDLINE_HOME=str(shared),
        SHARDLINE_RETRAINING_CRON="* * * * * */15",
        SHARDLINE_RETRAINING_ON_DATASET="true",
        SHARDLINE_RETRAINING_PARAMETERS=json.dumps(small | {"start_from": "current", "champion_margin": 1.0}),
        SHARDLINE_NOTIFIERS=json.dumps([notifier]),
        SHARDLINE_DEADLINE_HOURS=str(DEADLINE_HOURS),
        **statsd.environment,
    )
    running = Server(f"http://127.0.0.1:{port}", ui.password(home), home, shared, process, notices)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def api(server) -> Api:
    """A client of the server that knows all DAGs."""
    client = Api(server.address, ui.USER, server.password)
    assert client.wait_for_dags(DAGS) == DAGS
    return client


@pytest.fixture(scope="session")
def reader(tmp_path_factory, api, server) -> Reader:
    """Somebody who follows the documents in a checkout whose `make ui` is the server."""
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / ".airflow").symlink_to(server.home)
    return Reader(checkout, server.address)


@pytest.fixture(scope="module")
def page(browser, server, api) -> Page:
    """A page of the browser, logged in."""
    page = browser.new_page(viewport={"width": 1280, "height": 860}, base_url=server.address)
    page.set_default_timeout(PATIENCE_MS)
    page.goto("/")
    page.get_by_label("Username").fill(ui.USER)
    page.get_by_label("Password").first.fill(server.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{server.address}/")
    return page


def leave(page: Page) -> None:
    """Show what asks for nothing more: as long as Airflow's interface is shown, it keeps browser and server busy."""
    page.goto("/api/v2/version")


@pytest.fixture(autouse=True)
def left(request) -> Iterator[None]:
    """What a test looked at isn't shown any longer while the next one waits for a run."""
    page = request.getfixturevalue("page") if "page" in request.fixturenames else None
    yield
    if page:
        leave(page)


@pytest.fixture(scope="module")
def screenshot(page):
    """Save what the browser shows, for the documents, where SHARDLINE_SCREENSHOTS names a folder."""

    def save(name: str) -> None:
        if SCREENSHOTS:
            page.wait_for_load_state("networkidle")
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")

    return save


@pytest.fixture(scope="module")
def mapping(server) -> Path:
    """A mapping file for the MLP, where runs may read it: layer1.weight becomes layers.0.weight."""
    file = server.shared / "mlp.toml"
    rules = "".join(f'[[tensors]]\nfrom = "layer{{i}}.{part}"\nto = "layers.{{i-1}}.{part}"\n' for part in MLP_PARTS)
    file.write_text(f"leave_out = {json.dumps(NOT_EXPORTED)}\n{rules}")
    return file


@pytest.fixture(scope="module")
def form_run(page, api, digits, mapping, screenshot) -> str:
    """The id of a run of `sharded_training`, four ranks, started from the trigger form in the browser, now ended.

    Its version is exported for Hugging Face too.
    """
    page.goto("/dags/sharded_training")
    page.get_by_role("button", name="Trigger Dag").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_role("heading", name="Trigger Dag - sharded_training")).to_be_visible()
    screenshot("trigger-form")
    choose(page, "Data source", "Directory of IDX files")
    filled = {
        "Run Parameters": {"world_size": "4", "epochs": "1", "batch_size": "16"},
        "Data": {"data_directory": str(digits)},
        "Checkpoints": {"save_checkpoint_steps": "5"},
        "Validation": {"min_accuracy": "0"},
        "Promotion": {"hugging_face_export": str(mapping)},
    }
    for section, values in filled.items():
        if section != "Run Parameters":  # which is open, until another is opened
            form.get_by_role("button", name=section, exact=True).click()
        for name, value in values.items():
            form.locator(f"[name=element_{name}]").fill(value)
            form.locator(f"[name=element_{name}]").blur()
    form.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url("**/dags/sharded_training/runs/*")
    run_id = httpx.URL(page.url).path.rsplit("/", 1)[-1]
    leave(page)
    api.wait_for_run("sharded_training", run_id)
    return run_id


@contextmanager
def endless_runs(api: Api, small: dict[str, Any]) -> Iterator[Callable[..., str]]:
    """What starts a run of `sharded_training` that has no end, and returns its id.

    None goes on after the block, whatever that came to, and keeps others from cores and cards.
    """
    started = []

    def start(**conf: Any) -> str:
        started.append(api.trigger("sharded_training", small | {"epochs": ENDLESS} | conf))
        return started[-1]

    try:
        yield start
    finally:
        for run_id in started:
            if api.get(f"/dags/sharded_training/dagRuns/{run_id}")["state"] not in FINISHED:
                api.patch(f"/dags/sharded_training/dagRuns/{run_id}", state="failed")
        while any(processes_of_run(run_id) for run_id in started):
            time.sleep(0.2)


@pytest.fixture
def endless(api, small) -> Iterator[Callable[..., str]]:
    """Starts a run that has no end but that of the test."""
    with endless_runs(api, small) as start:
        yield start


def processes_of_run(run_id: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if environment_of(process).get("SHARDLINE_RUN_ID") == run_id]


@contextmanager
def suspended_ranks(directory: RunDirectory, count: int) -> Iterator[list[psutil.Process]]:
    """The `count` ranks that train there: they keep their cards, and leave the cores to others, for the block."""
    ranks = [psutil.Process(rank_folder(directory.logs, rank).read_started().pid) for rank in range(count)]
    for rank in ranks:
        rank.suspend()
    try:
        yield ranks
    finally:
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                rank.resume()


def end_soon(directory: RunDirectory) -> None:
    """Let the next try of an `ENDLESS` training, which nobody trains now, end soon after the newest shard set."""
    epoch = ShardSet.steps(directory.checkpoints)[-1] // STEPS_PER_EPOCH
    directory.write_config(directory.read_config().model_copy(update={"epochs": epoch + 2}))


def choose(page: Page, label: str, option: str) -> None:
    """Choose `option` in the drop-down list called `label`."""
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()
