"""MLflow is told of a run: while it trains, and when each of its tasks ends. SHARDLINE_MLFLOW_URI names the server.

Nothing waits long for MLflow, and nothing fails for its sake. What a task has to tell lies in HOME/mlflow, one file a
run, until the server has taken it: the end of the next task, of whatever run, tries again, and so does
`shardline track`. A server that accepts and says nothing is waited for once, and then for a while by no task
(`shardline/tracking/silence.py`).
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from shardline.base import atomic
from shardline.base.errors import AlreadyAVersion, ChampionStays, ConfigError, ShardlineError, Stopped, TrackingError
from shardline.base.file_lock import lock
from shardline.base.json_object import object_in
from shardline.run.directory import Home, RunDirectory
from shardline.run.lineage import Lineage, commits_in, digests_in, lineage_of
from shardline.tracking.mlflow_run import MLflowRun, RegisteredVersion, RunFacts, Status, move_alias, short
from shardline.tracking.mlflow_server import TIMEOUT_S, MLflowServer, NoAnswer
from shardline.tracking.sent import read_sent
from shardline.tracking.silence import Silence

EVERY_S = 10.0
LOOK_EVERY_S = 1.0
MANY_BYTES = 1 << 15
"""Of new lines, about as many as a request holds: they are sent at once, so that few are left when training ends."""
PATIENCE_S = 15.0
"""How long the end of a task waits for MLflow, at most."""
_LATER = "it is told when a next task ends, or by `shardline track`"
_LAST_TASKS = ("validate", "promote")
_NOT_WRONG = (ChampionStays, AlreadyAVersion)


def track_outcome(home: Home, environment: Mapping[str, str], error: Exception | None) -> None:
    """Tell MLflow how the task ended that `environment` names; what it does not take now stays to be told."""
    names = [environment.get(f"SHARDLINE_{name}_ID") for name in ("DAG", "RUN", "TASK")]
    dag_id, run_id, task = names
    if not (dag_id and run_id and task) or "OMPI_COMM_WORLD_RANK" in environment:
        return
    try:
        server = MLflowServer.of(environment)
        run = RunDirectory(home.run(dag_id, run_id))
        if server is None or not _is_tracked(run):
            return
        note = _note_file(home, run)
        _leave_note(note, home, run, _status(run, task, error))
    except (ConfigError, OSError) as problem:
        _say(f"MLflow is not told of this run: {problem}")
        return
    if seconds := _silence(home, server).seconds_left():
        _say(f"{server.uri} did not answer, and is not waited for in the next {seconds:.0f} s; {_LATER}")
        return
    problems = send_notes(home, server, PATIENCE_S, first=note)
    for problem_of_one in problems:
        _say(f"{problem_of_one}; {_LATER}")


def send_notes(home: Home, server: MLflowServer, patience: float | None = None, first: Path | None = None) -> list[str]:
    """Tell MLflow all that lies in HOME/mlflow, `first` before the rest; what is in the way, where anything is.

    It goes on in the background where it takes longer than `patience` seconds, until this process ends.
    """
    problems: list[str] = []
    silence, started = _silence(home, server), time.monotonic()

    def send() -> None:
        for note in sorted(_notes(home).glob("*.json"), key=lambda each: (each != first, each.name)):
            try:
                problem = _answered(silence, partial(_send_note, home, server, note))
            except NoAnswer as error:  # not for the others either
                problems.append(str(error))
                return
            if problem:
                problems.append(problem)

    sender = threading.Thread(target=send, daemon=True, name="mlflow")
    sender.start()
    sender.join(patience)
    if not sender.is_alive():
        return problems
    silence.begin(time.monotonic() - started)
    return ["MLflow has not taken everything yet: it is slow"]


@contextmanager
def tracked_meanwhile(run: RunDirectory, environment: Mapping[str, str], home: Home) -> Iterator[None]:
    """Tell MLflow of the training every few seconds, from a thread of this process, while the block runs."""
    try:
        server = MLflowServer.of(environment)
    except ConfigError as error:
        _say(f"MLflow is not told of this run: {error}")
        server = None
    if server is None or not _is_tracked(run):
        yield
        return
    _leave_note(_note_file(home, run), home, run, "RUNNING")
    follower = _Follower(run, home, server)
    thread = threading.Thread(target=follower.follow, daemon=True, name="mlflow")
    thread.start()
    try:
        yield
    finally:
        follower.has_ended.set()
        if not follower.is_unanswered:
            thread.join(PATIENCE_S)


@dataclass
class _Follower:
    """Tells MLflow of a training from time to time."""

    run: RunDirectory
    home: Home
    server: MLflowServer
    has_ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._silence = _silence(self.home, self.server)
        self.is_unanswered = bool(self._silence.seconds_left())

    def follow(self) -> None:
        """Until the training has ended; what is in the way is said when it comes, and when it has gone."""
        told = ""
        while True:
            size = self._size()
            try:
                problem = _answered(self._silence, partial(_update, self.run, self.home, self.server, "RUNNING"))
                self.is_unanswered = False
            except NoAnswer as error:
                problem, self.is_unanswered = str(error), True
            if problem != told:
                later = f"{problem}; the training goes on, and MLflow is told later"
                _say(later if problem else "MLflow answers again")
                told = problem
            if self._has_ended_before_more_is_due(size):
                return

    def _has_ended_before_more_is_due(self, size: int) -> bool:
        due = time.monotonic() + EVERY_S
        while not self.has_ended.wait(LOOK_EVERY_S):
            if time.monotonic() >= due or (self._size() >= size + MANY_BYTES and not self.is_unanswered):
                return False
        return True

    def _size(self) -> int:
        """Bytes of `metrics.jsonl`."""
        try:
            return self.run.metrics_file.stat().st_size
        except FileNotFoundError:
            return 0


def _silence(home: Home, server: MLflowServer) -> Silence:
    return Silence(_notes(home), server.uri, PATIENCE_S)


def _answered(silence: Silence, tell: Callable[[], str]) -> str:
    """What `tell` returns; after a `NoAnswer` nobody waits for the server for a while, unless it is quick again."""
    begun = time.monotonic()
    try:
        problem = tell()
    except NoAnswer:
        silence.begin(time.monotonic() - begun)
        raise
    if time.monotonic() - begun < TIMEOUT_S:
        silence.end()
    return problem


def _send_note(home: Home, server: MLflowServer, note: Path) -> str:
    """What is in the way of telling what `note` has; empty where it was told."""
    try:
        document = json.loads(note.read_bytes())
        run, status = RunDirectory(home.path / str(document["run"])), document["status"]
    except FileNotFoundError:
        return ""  # another task told it meanwhile
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return f"{note}: expected what to tell MLflow ({error!r}); remove it"
    if not run.path.is_dir():
        note.unlink(missing_ok=True)  # the run is gone, and so is what there was to tell
        return ""
    problem = _update(run, home, server, status if status in get_args(Status) else None)
    if not problem:
        note.unlink(missing_ok=True)
    return problem


def _update(run: RunDirectory, home: Home, server: MLflowServer, status: Status | None) -> str:
    """Bring the MLflow run up to date; what is in the way, where anything is. `NoAnswer` where nobody says."""
    file = run.path / "mlflow.json"
    try:
        with (run.path / ".mlflow.lock").open("a") as held:
            if not lock(held):
                return "another task tells MLflow of this run just now"
            MLflowRun(server, file, read_sent(file, server.uri)).update(facts_of(run, home, status))
    except NoAnswer:
        raise
    except (TrackingError, OSError) as error:
        return str(error)
    except (ShardlineError, KeyError, TypeError, ValueError, IndexError) as error:
        return f"MLflow was not told of {run.path}: {error!r}"
    return ""


def champion_moved(model: str, number: int, environment: Mapping[str, str]) -> None:
    """Let MLflow's alias follow the version that was made current by hand."""
    try:
        if server := MLflowServer.of(environment):
            move_alias(server, model, number)
    except (ConfigError, TrackingError) as error:
        _say(f"MLflow's alias does not follow: {error}; the next promotion moves it")


def facts_of(run: RunDirectory, home: Home, status: Status | None) -> RunFacts:
    """What there is to tell of `run` now."""
    config = run.read_any_config()
    given: dict[str, Any] = json.loads(config.to_json())
    report, promotion = map(_document, (run.report_file, run.promotion_file))
    merged = report.get("merged") if isinstance(report.get("merged"), dict) else {}
    lineage = lineage_of(run, home)
    artifacts = [run.config_file, run.dataset_file, run.train_file, run.merge_file, run.promotion_file]
    plots = sorted(run.validation.glob("*")) if run.validation.is_dir() else []
    return RunFacts(
        name=f"{run.path.parent.name}/{run.path.name}",
        experiment=config.model_name,
        metrics_file=run.metrics_file,
        status=status,
        parameters={name: short(_text(value)) for name, value in given.items() if value is not None},
        tags={f"shardline.{name}_digest": short(digest) for name, digest in digests_in(lineage).items()}
        | _commits(lineage)
        | {"shardline.directory": short(run.path)},
        measured=_measured(report),
        measured_step=int((merged or {}).get("step") or 0),
        artifacts={file.name: file for file in artifacts} | {f"validation/{file.name}": file for file in plots},
        version=_version(promotion, home),
    )


def _commits(lineage: Lineage) -> dict[str, str]:
    """The tags that say which code: MLflow's own, of the user's program where there is one, and both commits."""
    found = commits_in(lineage)
    names = {"shardline": "shardline.commit", "program": "shardline.program_commit"}
    tags = {names[name]: commit for name, commit in found.items()}
    if chosen := found.get("program") or found.get("shardline"):
        tags["mlflow.source.git.commit"] = chosen.partition("+")[0]
    return tags


def _measured(report: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"validation_{name}": float(value)
        for name, value in report.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _version(promotion: Mapping[str, Any], home: Home) -> RegisteredVersion | None:
    """The version that the run's promotion made; `None` where it made none."""
    if not promotion.get("new"):
        return None
    model = str(promotion["model"])
    current = Path(os.path.realpath(home.models / model / "current")).name
    return RegisteredVersion(
        model,
        int(promotion["version"]),
        str(promotion["digest"]),
        str(promotion["path"]),
        int(current) if current.isdecimal() else None,
    )


def _status(run: RunDirectory, task: str, error: Exception | None) -> Status:
    """What MLflow calls a run whose `task` ended so: finished once it was validated, and nothing failed since."""
    if isinstance(error, Stopped):
        return "KILLED"
    if error is not None and not isinstance(error, _NOT_WRONG):
        return "FAILED"
    return "FINISHED" if task in _LAST_TASKS and _document(run.report_file).get("passed") is True else "RUNNING"


def _is_tracked(run: RunDirectory) -> bool:
    """Whether it is a run of the pipeline whose parameters were validated."""
    try:
        run.read_any_config()
    except ShardlineError:
        return False
    return True


def _notes(home: Home) -> Path:
    return home.path / "mlflow"


def _note_file(home: Home, run: RunDirectory) -> Path:
    return _notes(home) / f"{re.sub(r'[^A-Za-z0-9._~-]', '_', f'{run.path.parent.name}~{run.path.name}')}.json"


def _leave_note(note: Path, home: Home, run: RunDirectory, status: Status) -> None:
    document = {"run": str(run.path.relative_to(home.path)), "status": status}
    atomic.write_text(note, json.dumps(document) + "\n")


def _document(file: Path) -> dict[str, Any]:
    try:
        return object_in(file.read_bytes()) or {}
    except OSError:
        return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _say(message: str) -> None:
    print(f"note: {message}", file=sys.stderr, flush=True)
