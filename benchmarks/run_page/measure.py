"""How long the run page takes on a long run: its answers, and what a browser shows when.

    python -m benchmarks.run_page.measure [--steps 100000] [--parameters 333]

Writes a synthetic run of 8 ranks (`synthetic_run`) and prints three tables in Markdown: the processor time of the
readers behind the page, then, from an API server of Airflow on a home of its own, the time of each answer and of each
part of the page in a browser. Each parameter has two optimizer states, so that 333 of them are 1,000 tensors.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

from benchmarks.run_page.synthetic_run import Size, write_run
from scripts import local_airflow, ui
from shardline.page.containment import Contained
from shardline.page.curves import Curves
from shardline.page.rank_states import describe_ranks, tries
from shardline.page.results import read_merge
from shardline.page.shard_map import read_shard_map, strategies_to_show
from shardline.run.directory import Home, RunDirectory

DAG, RUN = "sharded_training", "benchmark"
PORT = 18099
ADDRESS = f"http://{ui.ADDRESS}:{PORT}"
WARM = 10
PARTS: dict[str, dict[str, Any]] = {
    "overview": {},
    "metrics": {"points": 1200, "smoothing": 0.99},
    "metrics of 1,000 steps": {"points": 1200, "smoothing": 0.99, "first": 50_000, "last": 51_000},
    "ranks": {},
    "log": {"launch": "1", "rank": 3},
    "shard-map": {},
    "merge": {},
    "validation": {},
    "versions": {},
}
TABS = ("overview", "training", "ranks", "shards", "merge", "validation", "versions")


@contextmanager
def api_server(home: Path, shared: Path) -> Iterator[str]:
    """Run an API server that knows the DAGs; yield a token of its administrator."""
    variables = ui.server_environment(home, PORT, os.environ) | {"SHARDLINE_HOME": str(shared)}
    local_airflow.initialise(home, variables)
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "dags", "reserialize"], env=variables, check=True, capture_output=True)
    login = {"username": ui.USER, "password": ui.password(home)}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([*airflow, "api-server"], env=variables, stdout=log, stderr=log)
    try:
        yield _token(login)
    finally:
        server.terminate()
        server.wait()


def _token(login: dict[str, str]) -> str:
    """Wait for the server, a minute at most, and log in."""
    with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=60) as client:
        answer = client.post(f"{ADDRESS}/auth/token", json=login)
    return str(answer.raise_for_status().json()["access_token"])


def readers(run: RunDirectory, root: Path) -> None:
    """Print the processor time of reading what the page shows; unlike the other tables, a busy machine leaves it be."""
    files = Contained.below(run.path, root)
    metrics = Curves(files, run.metrics_file)
    megabytes = run.metrics_file.stat().st_size / 1e6
    timed: dict[str, Callable[[], Any]] = {
        f"all metrics, {megabytes:.0f} MB": metrics.last,
        "what was appended": metrics.last,
        "a curve of 1,200 points, smoothed": lambda: metrics.series("loss", points=1200, smoothing=0.99),
        "shard map": lambda: read_shard_map(files, strategies_to_show(files)),
        "merge": lambda: read_merge(files),
        "ranks": lambda: describe_ranks(files, tries(files)[0], running=True),
    }
    print("| read | processor time, ms |\n|---|---:|")
    for title, read in timed.items():
        started = time.process_time()
        read()
        print(f"| {title} | {1000 * (time.process_time() - started):.1f} |")
    print()


def answers(token: str) -> None:
    """Print how long each route takes the first time and again, and how much it sends."""
    print("| answer | first, ms | again, ms | sent, kB |\n|---|---:|---:|---:|")
    with httpx.Client(base_url=f"{ADDRESS}/run-page", cookies={"_token": token}, timeout=60) as client:
        for title, query in PARTS.items():
            times = []
            for _ in range(1 + WARM):
                started = time.perf_counter()
                answer = client.get(f"/dags/{DAG}/{title.split(' ')[0]}", params={"run_id": RUN, **query})
                times.append(1000 * (time.perf_counter() - started))
                answer.raise_for_status()
            sent = answer.num_bytes_downloaded / 1000
            print(f"| {title} | {times[0]:.0f} | {statistics.median(times[1:]):.0f} | {sent:.1f} |", flush=True)


def browser(token: str) -> None:
    """Print when each tab is painted first, and when it shows all: in a fresh browser, and with its files kept."""
    print("\n| tab | first paint, ms | all shown, ms | again: first paint | all shown |\n|---|---:|---:|---:|---:|")
    with sync_playwright() as playwright:
        for tab in TABS:
            chromium = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--headless", "--no-sandbox", "--disable-gpu"]
            )
            context = chromium.new_context(viewport={"width": 1280, "height": 860})
            context.add_cookies([{"name": "_token", "value": token, "url": ADDRESS}])
            page = context.new_page()
            times = [*_load(page, tab), *_load(page, tab)]
            print(f"| {tab} | " + " | ".join(f"{value:.0f}" for value in times) + " |", flush=True)
            chromium.close()


def _load(page: Page, tab: str) -> tuple[float, float]:
    """First contentful paint and the time until all is shown, from the start of the navigation."""
    page.goto("about:blank")
    page.goto(f"{ADDRESS}/run-page/dags/{DAG}/run?run_id={RUN}#{tab}", wait_until="commit")
    page.wait_for_selector(f"body[data-ready={tab}]")
    if tab == "training":
        page.wait_for_selector(".bk-Figure canvas")
    shown = page.evaluate("new Promise(done => requestAnimationFrame(() => done(performance.now())))")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
    return painted, shown


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=100_000)
    arguments.add_argument("--parameters", type=int, default=333)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder, "shared")
        readers(write_run(Home(shared).run(DAG, RUN), Size(chosen.steps, chosen.parameters, log_lines=100_000)), shared)
        home = Path(folder, "airflow")
        home.mkdir()
        with api_server(home, shared) as token:
            body = {"dag_run_id": RUN, "logical_date": None, "conf": {}}
            headers = {"Authorization": f"Bearer {token}"}
            httpx.post(f"{ADDRESS}/api/v2/dags/{DAG}/dagRuns", json=body, headers=headers).raise_for_status()
            answers(token)
            browser(token)
    return 0


if __name__ == "__main__":
    sys.exit(main())
