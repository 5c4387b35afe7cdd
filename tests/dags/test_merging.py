"""The merge as one task or as a group: its shape, and the group run by Airflow on a real shard set."""

import os
from datetime import UTC, datetime

import pytest
from airflow.sdk import DAG, TaskGroup

from dags.merging import merge_workers, merging
from plugins.task_operator import TaskOperator
from shardline.checkpoint.merging.verify import verify
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from tests.tasks.test_merge import save_run

DAG_FILE = """
from airflow.sdk import DAG
from dags.merging import merging

with DAG("merge_in_parts", schedule=None):
    merging(3)
"""


def test_one_worker_is_the_default_and_nonsense_is_refused():
    assert merge_workers({}) == merge_workers({"SHARDLINE_MERGE_WORKERS": ""}) == 1
    assert merge_workers({"SHARDLINE_MERGE_WORKERS": "4"}) == 4
    for text in ("0", "-1", "many", "4.5", "1025"):
        with pytest.raises(ValueError, match="SHARDLINE_MERGE_WORKERS: expected a number from 1 to 1024"):
            merge_workers({"SHARDLINE_MERGE_WORKERS": text})


def test_one_worker_is_one_plain_task():
    with DAG("plain", schedule=None):
        merge = merging(1)
    assert isinstance(merge, TaskOperator)
    assert merge.task_id == "merge"


def test_several_workers_are_a_group_of_the_same_name():
    with DAG("parts", schedule=None) as dag:
        merge = merging(3)
    assert isinstance(merge, TaskGroup)
    assert [task.task_id for task in dag.topological_sort()] == ["merge.plan", "merge.write", "merge.commit"]
    assert dag.get_task("merge.write").downstream_task_ids == {"merge.commit"}
    assert dag.get_task("merge.commit").trigger_rule == "none_failed"
    assert all(task.doc_md for task in dag.tasks)


@pytest.fixture(scope="module")
def run_group(airflow_database, tmp_path_factory):
    """Run the group on a run of its own DAG and return the states of its tasks, by id and place among the mapped."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    folder = tmp_path_factory.mktemp("dags")
    (folder / "merge_in_parts.py").write_text(DAG_FILE)
    bag = DagBag(folder)
    assert bag.import_errors == {}
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, "dags-folder", None)

    def run(moment: datetime) -> dict[tuple[str, int], str]:
        finished = bag.dags["merge_in_parts"].test(logical_date=moment, run_after=moment)
        return {(task.task_id, task.map_index): str(task.state) for task in finished.get_task_instances()}

    return run


def trained(moment: datetime) -> RunDirectory:
    """The folder of the run of `moment`, with one complete shard set."""
    directory = RunDirectory(home_from(os.environ).run("merge_in_parts", f"manual__{moment.isoformat()}"))
    directory.path.mkdir(parents=True)
    save_run(directory, {})
    return directory


def test_airflow_merges_in_parts_and_again_does_nothing(run_group):
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    run_directory = trained(moment)
    ends = {("merge.plan", -1): "success", ("merge.commit", -1): "success"}
    assert run_group(moment) == ends | {("merge.write", number): "success" for number in range(3)}
    merged = run_directory.merged / "model.ckpt"
    assert verify(merged)
    content = merged.read_bytes()
    assert run_group(moment) == ends | {("merge.write", -1): "skipped"}
    assert merged.read_bytes() == content
    merged.unlink()
    assert run_group(moment) == ends | {("merge.write", number): "success" for number in range(3)}
    assert merged.read_bytes() == content


def test_a_damaged_slice_fails_the_part_that_proves_it_and_says_so(run_group):
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    run_directory = trained(moment)
    slice_file = next((run_directory.checkpoints / "rank_5").glob("*.ckpt"))
    content = bytearray(slice_file.read_bytes())
    content[100] ^= 1
    slice_file.write_bytes(content)
    states = run_group(moment)
    assert states["merge.plan", -1] == "success"
    assert "failed" in {states["merge.write", number] for number in range(3)}
    assert states["merge.commit", -1] == "upstream_failed"
    failures = [path.name for path in (run_directory.path / "failures").iterdir()]
    assert failures
    assert all(name.startswith("merge.write-") for name in failures)
