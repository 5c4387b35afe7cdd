"""A run's documents as JSON. Every route asks for the right on the run's DAG before anything else."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from plugins.run_page import airflow_runs
from plugins.run_page.access import METRICS, READS_RUN, Run, RunDep
from shardline.base.errors import RunDirectoryError
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.page import overview, results
from shardline.page.containment import LARGEST_DOCUMENT, Contained
from shardline.page.curves import last_step
from shardline.page.shard_map import read_shard_map, strategies_to_show
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import home_from

MERGES = ("merge", "merge_checkpoint")
"""Tasks, and groups of them, that merge."""

LISTED_PARAMETERS = ("network", "world_size", "epochs", "batch_size", "learning_rate", "optimizer")

router = APIRouter()
of_a_run = APIRouter(prefix="/dags/{dag_id}", dependencies=[READS_RUN])


@router.get("/runs")
def runs(
    user: GetUserDep,
    session: SessionDep,
    dag_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> JSONResponse:
    """The runs that the user may see, newest first, of DAGs that have run directories."""
    home = home_from(os.environ)
    permitted = get_auth_manager().get_authorized_dag_ids(user=user, method="GET", session=session)
    wanted = [dag for dag in permitted if home.run(dag, "any").parent.is_dir() and dag_id in (None, dag)]
    listed = airflow_runs.list_runs(session, wanted, limit=limit + 1, offset=offset)
    rows = [run | _outcome(Run(run["dag_id"], run["run_id"], home)) for run in listed[:limit]]
    return JSONResponse({"runs": rows, "has_more": len(listed) > limit, "dags": sorted(wanted)})


def _outcome(run: Run) -> dict[str, Any]:
    """What the list shows of a run's results; a damaged one must not hide the others."""
    try:
        files = run.files
        report = files.document(run.directory.report_file) or {}
        promotion = files.document(run.directory.promotion_file) or {}
        config = files.document(run.directory.config_file) or {}
        last = last_step(files)
    except RunDirectoryError as error:
        return {"has_folder": run.has_started, "problem": str(error) if run.has_started else None}
    listed = {name: config.get(name) for name in LISTED_PARAMETERS}
    return {
        "has_folder": True,
        "parameters": listed | {"network": listed["network"] or config.get("model_name")},
        **last,
        "metric": report.get("metric"),
        "value": report.get(str(report.get("metric"))),
        "passed": report.get("passed"),
        "version": promotion.get("version"),
    }


@of_a_run.get("/overview")
def run_overview(run: RunDep, session: SessionDep) -> JSONResponse:
    """What Airflow and the run directory say at a glance."""
    known = airflow_runs.describe_run(session, run.dag_id, run.run_id)
    if known is None and not run.has_started:
        raise HTTPException(404, f"there is no run {run.run_id!r} of {run.dag_id}")
    found = {}
    if run.has_started:
        files = run.files
        found = overview.read_overview(files, METRICS.of(files))
    kind = _kind(known, found.get("config"))
    return JSONResponse({"airflow": known, "has_folder": run.has_started, "kind": kind, **found})


def _kind(known: dict[str, Any] | None, config: dict[str, Any] | None) -> str:
    """What a run is of: a training, a merge on request, or something else, as its parameters' names say."""
    names = set(config or (known or {}).get("parameters", ()))
    if {"world_size", "checkpoint_step"} & names:
        return "training"
    return "merge" if "target_strategy" in names else "other"


class SeriesQuery(BaseModel):
    """Which metric, over which steps, in how many points, and how smooth."""

    name: Literal["loss", "validation_loss", "learning_rate", "gradient_norm", "samples_per_second"] = "loss"
    points: int = Field(1200, ge=10, le=10_000)
    smoothing: float = Field(0, ge=0, lt=1)
    first: float | None = None
    last: float | None = None


@of_a_run.get("/metrics")
def metrics(run: RunDep, query: Annotated[SeriesQuery, Query()]) -> JSONResponse:
    """One metric by step, down-sampled."""
    return JSONResponse(METRICS.of(run.files).series(**query.model_dump()))


@of_a_run.get("/shard-map")
def shard_map(run: RunDep) -> JSONResponse:
    """Which rank holds which slice."""
    files = run.files
    checkpoints = RunDirectory(files.root).checkpoints
    strategies = tuple((path, path.stat().st_mtime_ns) for path in strategies_to_show(files))
    steps = ShardSet.steps(checkpoints) if checkpoints.is_dir() else []
    return JSONResponse(_shard_map(files, strategies, steps[-1] if steps else None))


@lru_cache(maxsize=8)
def _shard_map(files: Contained, strategies: tuple[tuple[Path, int], ...], _step: int | None) -> dict[str, Any] | None:
    """Kept until a strategy is written, at the time that stands beside it, or a newer shard set is complete."""
    return read_shard_map(files, [path for path, _ in strategies])


@of_a_run.get("/merge")
def merge(run: RunDep, session: SessionDep) -> JSONResponse:
    """What could be merged, what was, and how long Airflow says that took, unless the task found it done already."""
    known = airflow_runs.describe_run(session, run.dag_id, run.run_id) or {"tasks": []}
    merging = [task for task in known["tasks"] if task["task_id"].partition(".")[0] in MERGES]
    found = results.read_merge(run.files)
    written, started = found.pop("written"), airflow_runs.start_of(merging)
    did_nothing = written is not None and started is not None and written < started
    seconds = None if did_nothing else airflow_runs.seconds_of(merging)
    return JSONResponse(found | {"seconds": seconds, "did_nothing": did_nothing})


@of_a_run.get("/validation")
def validation(run: RunDep) -> JSONResponse:
    """The report and the names of the plots."""
    return JSONResponse(results.read_validation(run.files))


@of_a_run.get("/plot")
def plot(run: RunDep, name: str) -> Response:
    """One of the plots that validation left."""
    files = run.files
    for path in results.plots(files):
        if path.name == name:
            with files.open(path) as file:
                return Response(file.read(LARGEST_DOCUMENT), media_type="image/png")
    raise HTTPException(404, "no such plot")


@of_a_run.get("/versions")
def versions(run: RunDep, user: GetUserDep, session: SessionDep) -> JSONResponse:
    """The versions of the run's model; the runs of DAGs that the user may not see stay unnamed."""
    files = run.files
    permitted = get_auth_manager().get_authorized_dag_ids(user=user, method="GET", session=session)
    visible = {_dag_folder(run.home, dag_id) for dag_id in permitted}
    model = _name_in(files, "model_name", "")
    return JSONResponse(results.read_versions(run.home, model, run.directory, visible.__contains__))


def _dag_folder(home: Home, dag_id: str) -> str:
    return home.run(dag_id, "any").parent.name


def _name_in(files: Contained, key: str, default: str) -> str:
    """A file's or folder's name from config.json, which training code could have changed: its last part alone."""
    config = files.document(RunDirectory(files.root).config_file) or {}
    return Path(str(config.get(key) or default)).name
