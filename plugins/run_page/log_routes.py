"""The ranks: how they are, and their logs, which need the right to read task logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, BinaryIO

from airflow.api_fastapi.common.db.common import SessionDep
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import JSONResponse, StreamingResponse

from plugins.run_page import airflow_runs
from plugins.run_page.access import READS_LOGS, RunDep
from shardline.page.containment import Contained
from shardline.page.rank_log import MOST_BYTES, read_page
from shardline.page.rank_states import Try, describe_ranks, tries

router = APIRouter(prefix="/dags/{dag_id}", dependencies=[READS_LOGS])
RankNumber = Annotated[int, Query(ge=0)]


@router.get("/ranks")
def ranks(run: RunDep, session: SessionDep, launch: str = "1") -> JSONResponse:
    """All tries of the tasks that run on ranks, and the ranks of one of them."""
    files = run.files
    known = tries(files)
    chosen = next((one for one in known if one.name == launch), None)
    rows = []
    if chosen is not None:
        is_newest = chosen.attempt is None
        running = is_newest and airflow_runs.task_is_running(session, run.dag_id, run.run_id, chosen.task)
        rows = describe_ranks(files, chosen, running=running)
    rows_of_tries = [{"name": one.name, "task": one.task, "attempt": one.attempt} for one in known]
    return JSONResponse({"launches": rows_of_tries, "launch": launch, "ranks": rows})


@router.get("/log")
def log_page(
    run: RunDep,
    launch: str,
    rank: RankNumber,
    start: Annotated[int | None, Query(ge=0)] = None,
    length: Annotated[int, Query(ge=1, le=MOST_BYTES)] = 64 * 1024,
) -> JSONResponse:
    """A page of a rank's log: the last one, or the one from byte `start`."""
    files = run.files
    try:
        page = read_page(files, _try(files, launch).log(rank), start=start, length=length)
    except FileNotFoundError as error:
        raise HTTPException(404, f"rank {rank} has no log yet") from error
    return JSONResponse(asdict(page))


@router.get("/log-file")
def log_file(run: RunDep, launch: str, rank: RankNumber) -> StreamingResponse:
    """The whole log as a download, streamed."""
    files = run.files
    try:
        file = files.open(_try(files, launch).log(rank))
    except FileNotFoundError as error:
        raise HTTPException(404, f"rank {rank} has no log yet") from error
    headers = {"Content-Disposition": f'attachment; filename="rank.{rank}.log"'}
    return StreamingResponse(_blocks(file), media_type="text/plain; charset=utf-8", headers=headers)


def _try(files: Contained, name: str) -> Try:
    for one in tries(files):
        if one.name == name:
            return one
    raise HTTPException(404, "no such try")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while block := file.read(MOST_BYTES):
            yield block
