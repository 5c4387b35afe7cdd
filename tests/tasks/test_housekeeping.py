"""What housekeeping frees, and what it never touches."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shardline.base.digest import file_digest
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import PROJECT
from shardline.run.identity import write_identity
from shardline.run.readers import reading
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.store.model_store import ModelStore
from shardline.store.retention import cleanup_of, free
from shardline.store.version import Candidate
from tests.durability import recorded

SLICES = 3000  # bytes of a run's two slices and its manifest
MERGED = 500


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def finished_run(home: Home, run_id: str, age: int, dag_id: str = "sharded_training") -> RunDirectory:
    """A run directory as a run leaves it, last used `age` seconds ago."""
    run = RunDirectory(home.run(dag_id, run_id))
    for rank in range(2):
        folder = run.checkpoints / f"rank_{rank}"
        folder.mkdir(parents=True)
        (folder / "checkpoint-1_20.ckpt").write_bytes(bytes(1000))
    (run.checkpoints / "shard_set-20.json").write_bytes(bytes(1000))
    run.merged.mkdir()
    (run.merged / "model.ckpt").write_bytes(bytes(MERGED))
    run.merge_file.write_text("{}")
    run.metrics_file.write_text("{}\n")
    write_identity(run.path, {"SHARDLINE_DAG_ID": dag_id, "SHARDLINE_RUN_ID": run_id})
    last = run.metrics_file.stat().st_mtime - age
    for file in run.path.iterdir():
        os.utime(file, (last, last))
    return run


def files(run: RunDirectory) -> set[str]:
    return {str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file() and file.name[0] != "."}


def freeable(home: Home, **parameters: object) -> list[str]:
    return [run.path.name for run in cleanup_of(home, HousekeepingConfig(**parameters)).runs]


def test_the_newest_runs_of_each_dag_are_kept(home: Home):
    for age in range(5):
        finished_run(home, f"run{age}", age * 60)
    finished_run(home, "alone", 10_000, "retraining")
    assert freeable(home, keep_runs=2) == ["run2", "run3", "run4"]
    assert freeable(home, keep_runs=9) == []
    assert freeable(home, keep_runs=0) == ["alone", "run0", "run1", "run2", "run3", "run4"]


def test_slices_are_freed_and_everything_else_stays(home: Home):
    kept, old = finished_run(home, "new", 0), finished_run(home, "old", 60)
    before = files(kept)
    cleanup = cleanup_of(home, HousekeepingConfig(keep_runs=1))
    assert (cleanup.size, files(old)) == (SLICES, before)  # to look frees nothing
    freed, stays = free(cleanup)
    assert ([run.path for run in freed], stays) == ([old.path], {})
    assert files(kept) == before
    assert files(old) == {"merged/model.ckpt", "merged/model.ckpt.merge.json", "metrics.jsonl", "run.json"}
    assert freeable(home, keep_runs=0) == ["new"]


def test_merged_files_are_freed_only_if_asked(home: Home):
    old = finished_run(home, "old", 0)
    cleanup = cleanup_of(home, HousekeepingConfig(keep_runs=0, merged=True))
    assert cleanup.size == SLICES + MERGED
    free(cleanup)
    assert files(old) == {"merged/model.ckpt.merge.json", "metrics.jsonl", "run.json"}


def test_slices_are_hidden_on_disk_before_the_first_of_them_goes(home: Home):
    old = finished_run(home, "old", 60)
    with recorded(old.path) as durability:
        free(cleanup_of(home, HousekeepingConfig(keep_runs=0)))
    hidden = old.path / ".freed.src_checkpoints"
    named = durability.durable_since(hidden)
    assert named < min(number for number, event in enumerate(durability.events) if event.kind == "remove")


def test_what_an_interruption_left_goes_with_what_was_saved_since(home: Home):
    old = finished_run(home, "old", 60)
    shutil.copytree(old.checkpoints, old.path / ".freed.src_checkpoints")
    freed, stays = free(cleanup_of(home, HousekeepingConfig(keep_runs=0)))
    assert ([run.path for run in freed], stays) == ([old.path], {})
    assert not [*old.path.glob(".freed.*"), *old.path.glob("src_checkpoints")]


@pytest.mark.parametrize(
    "parameters",
    [
        {"resume_from": "old"},
        {"resume_from": "HOME/runs/sharded_training/old"},
        {"start_file": "../old/merged/model.ckpt"},
        {"run": "sharded_training/old"},
        {"shards": "HOME/runs/sharded_training/old/src_checkpoints"},
    ],
    ids=str,
)
def test_a_run_that_another_is_yet_to_read_from_stays(home: Home, parameters):
    finished_run(home, "old", 60)
    reader = RunDirectory(home.run("sharded_training", "reader"))
    reader.path.mkdir()
    before = cleanup_of(home, HousekeepingConfig(keep_runs=0))
    reader.config_file.write_text(json.dumps(parameters).replace("HOME", str(home.path)))
    cleanup = cleanup_of(home, HousekeepingConfig(keep_runs=0))
    assert (cleanup.runs, list(cleanup.stays.values())) == ((), [f"{reader.path} is yet to read from it"])
    assert free(before) == ([], cleanup.stays)  # planned before the reader said so
    reader.train_file.write_text("{}")
    assert [run.path.name for run in cleanup_of(home, HousekeepingConfig(keep_runs=0)).runs] == ["old"]


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"run": 3, "shards": "\\u0000"}'])
def test_parameters_that_nobody_understands_keep_nothing_and_stop_nothing(home: Home, content):
    finished_run(home, "old", 60)
    reader = RunDirectory(home.run("sharded_training", "reader"))
    reader.path.mkdir()
    reader.config_file.write_text(content)
    assert [run.path.name for run in cleanup_of(home, HousekeepingConfig(keep_runs=0)).runs] == ["old"]


def test_the_run_that_current_came_from_stays_and_its_version_too(home: Home):
    run = finished_run(home, "promoted", 60)
    for number, name in enumerate(("first", "second")):
        model = run.merged / "model.ckpt"
        model.write_bytes(name.encode())
        ModelStore(home, "digits").add(
            Candidate(
                run=f"runs/sharded_training/{name}",
                model=model,
                digest=file_digest(model),
                metric="accuracy",
                value=0.9,
                step=number,
                documents={},
            )
        )
    finished_run(home, "first", 30)
    second = finished_run(home, "second", 40)
    cleanup = cleanup_of(home, HousekeepingConfig(keep_runs=0, merged=True))
    assert [old.path.name for old in cleanup.runs] == ["first", "promoted"]
    assert cleanup.stays == {second.path: "the current version of digits came from it"}
    free(cleanup)
    store = ModelStore(home, "digits")
    for version in store.versions():
        version.verify()
    assert store.current().version == 2


@pytest.mark.parametrize("damage", ["", "{", '{"version": 1}', "[" * 100_000])
def test_a_damaged_current_version_stops_nothing_and_its_run_stays(home: Home, damage):
    run, others = finished_run(home, "promoted", 60), [finished_run(home, name, 50) for name in ("a", "b", "c", "d")]
    model = run.merged / "model.ckpt"
    candidate = Candidate("runs/sharded_training/promoted", model, file_digest(model), "accuracy", 0.9, 20, {})
    version = ModelStore(home, "digits").add(candidate)
    run.promotion_file.write_text(json.dumps({"version": 1, "path": "/mounted/elsewhere/models/digits/versions/1"}))
    others[0].promotion_file.write_text(json.dumps({"version": 1, "path": f"{home.models}/letters/versions/1"}))
    others[1].promotion_file.write_text("[]")
    others[2].promotion_file.write_text(damage)
    (version.path / "version.json").chmod(0o644)
    (version.path / "version.json").write_text(damage)
    cleanup = cleanup_of(home, HousekeepingConfig(keep_runs=0))
    assert {old.path for old in cleanup.runs} == {old.path for old in others}
    assert list(cleanup.stays) == [run.path]
    assert "became a current version" in cleanup.stays[run.path]
    assert "version.json" in cleanup.stays[run.path] or "expected a version" in cleanup.stays[run.path]


def test_a_run_in_use_stays_also_if_it_came_into_use_since_the_look(home: Home):
    held, read, old = (finished_run(home, name, 60) for name in ("held", "read", "old"))
    with held.lock(), reading(read.path):
        cleanup = cleanup_of(home, HousekeepingConfig(keep_runs=0))
        assert [run.path for run in cleanup.runs] == [old.path]
        assert f"in use by process {os.getpid()}" in cleanup.stays[held.path]
        assert "is being read" in cleanup.stays[read.path]
    cleanup = cleanup_of(home, HousekeepingConfig(keep_runs=0))
    with held.lock():
        freed, stays = free(cleanup)
    assert {run.path for run in freed} == {read.path, old.path}
    assert list(stays) == [held.path]
    assert (held.checkpoints / "shard_set-20.json").exists()


def test_what_an_interruption_left_is_freed_the_next_time(home: Home):
    old = finished_run(home, "old", 60)
    old.checkpoints.rename(old.path / ".freed.src_checkpoints")
    assert cleanup_of(home, HousekeepingConfig(keep_runs=0)).size == SLICES
    free(cleanup_of(home, HousekeepingConfig(keep_runs=0)))
    assert not (old.path / ".freed.src_checkpoints").exists()


def test_a_link_out_of_the_run_is_not_followed(home: Home, tmp_path: Path):
    old = finished_run(home, "old", 60)
    old.checkpoints.rename(tmp_path / "elsewhere")
    old.checkpoints.symlink_to(tmp_path / "elsewhere")
    assert freeable(home, keep_runs=0) == []


def command(home: Home, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks.housekeeping", *arguments],
        cwd=PROJECT,
        env=os.environ | {"SHARDLINE_HOME": str(home.path)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_what_it_would_free_and_frees_what_is_allowed(home: Home):
    runs = [finished_run(home, f"manual__2026-01-0{day}T00:00:00+00:00", day) for day in (1, 2)]
    parameters = json.dumps({"keep_runs": 0})
    shown = command(home, "plan", "--parameters", parameters)
    assert "Would free 6 kB of 2 runs" in shown.stdout
    result = json.loads(shown.stdout.splitlines()[-1])
    assert result["bytes"] == 2 * SLICES
    assert result["runs"][0]["run_id"] == "manual__2026-01-01T00:00:00+00:00"
    assert result["runs"][0]["folder"] == str(runs[0].path.relative_to(home.path / "runs"))

    dry = command(home, "free", SHARDLINE_PARAMETERS=json.dumps({"keep_runs": 0, "dry_run": True}))
    assert "Would free" in dry.stdout
    assert all(run.checkpoints.exists() for run in runs)

    finished = json.dumps([result["runs"][1]["folder"]])
    freed = command(home, "free", "--parameters", parameters, SHARDLINE_FINISHED_RUNS=finished)
    assert "Freed 3 kB of 1 run" in freed.stdout
    assert [run.checkpoints.exists() for run in runs] == [True, False]


def test_a_wrong_parameter_is_named(home: Home):
    refused = command(home, "plan", "--parameters", '{"keep_runs": -1}')
    assert refused.returncode == 2
    assert "keep_runs: " in refused.stderr


def test_thousands_of_finished_runs_fit(home: Home, tmp_path: Path):
    """More than an environment variable holds: 128 KiB, by Linux."""
    finished_run(home, "manual__1", 60)
    folders = [f"sharded_training/manual__2026-01-31T09_00_00_00_00~{number:08x}" for number in range(5000)]
    document = tmp_path / "finished.json"
    document.write_text(json.dumps([*folders, "sharded_training/manual__1"]))
    parameters = tmp_path / "parameters.json"
    parameters.write_text('{"keep_runs": 0}')
    freed = command(home, "free", SHARDLINE_FINISHED_RUNS_FILE=str(document), SHARDLINE_PARAMETERS_FILE=str(parameters))
    assert freed.returncode == 0, freed.stderr
    assert [run["folder"] for run in json.loads(freed.stdout.splitlines()[-1])["runs"]] == [
        "sharded_training/manual__1"
    ]
