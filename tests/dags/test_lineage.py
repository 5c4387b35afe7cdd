"""The events that Airflow's OpenLineage provider sends of a run: the digests that `shardline models show` prints."""

import json
import os

import pytest

from shardline.cli import models_command
from shardline.run.environment import home_from
from tests.shardline.run.test_git_checkout import git

TASKS = ("prepare_dataset", "train", "merge", "validate", "promote")


@pytest.fixture
def complete(linear_run):
    """The last event of a task."""

    def last(task: str) -> dict:
        job = f"linear.{task}"
        return [event for event in linear_run.events if event["job"]["name"] == job][-1]

    return last


@pytest.fixture
def shown(linear_run, capsys) -> dict:
    assert models_command.main(["show", "--model", "linear", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def datasets(event: dict, side: str) -> dict[str, tuple[str, str]]:
    """Name and digest of an event's datasets, by what they are."""
    found = {}
    for dataset in event[side]:
        own = dataset["facets"]["shardline_dataset"]
        assert dataset["namespace"] == "file"
        assert own["algorithm"] == "BLAKE3"
        assert dataset["facets"]["version"]["datasetVersion"] == own["digest"]
        found[own["kind"]] = (dataset["name"], own["digest"])
    return found


def test_each_task_says_what_it_read_and_wrote(linear_run, complete, shown):
    home, lineage = home_from(os.environ), shown["lineage"]
    run = home.run("linear", linear_run.run_id)
    slices = (str(run / "src_checkpoints"), lineage["shard_set"]["digest"])
    merged = (str(run / "merged" / lineage["merged"]["file"]), lineage["merged"]["digest"])
    version = (str(home.models / "linear" / "versions" / str(shown["version"])), shown["digest"])
    assert [complete(task)["eventType"] for task in TASKS] == ["COMPLETE"] * len(TASKS)
    assert datasets(complete("train"), "outputs") == {"slices": slices}
    assert datasets(complete("merge"), "inputs") == {"slices": slices}
    assert datasets(complete("merge"), "outputs") == {"merged": merged}
    assert datasets(complete("validate"), "inputs") == {"merged": merged}
    assert datasets(complete("promote"), "inputs") == {"merged": merged}
    assert datasets(complete("promote"), "outputs") == {"version": version}
    facts = complete("promote")["outputs"][0]["facets"]["shardline_dataset"]["facts"]
    assert facts == {"model": "linear", "version": 1, "metric": "error", "value": shown["value"]}


def test_events_name_the_program_s_commit_and_the_run_s_digests(linear_run, complete, shown):
    commit = git(linear_run.checkout, "rev-parse", "HEAD")
    event = complete("promote")
    location = event["job"]["facets"]["sourceCodeLocation"]
    assert (location["type"], location["version"], location["url"]) == ("git", commit, f"file://{linear_run.checkout}")
    told = event["run"]["facets"]["shardline_run"]
    assert told["code"] == shown["lineage"]["code"]
    assert told["code"][-1]["program"]["commit"] == commit
    assert told["digests"] == {
        "shard_set": shown["lineage"]["shard_set"]["digest"],
        "merged": shown["digest"],
        "strategy": shown["lineage"]["strategies"][0],
    }


def test_a_task_that_was_skipped_claims_nothing(complete):
    event = complete("upload")
    assert (event["eventType"], event["outputs"]) == ("COMPLETE", [])
