"""Which of the planned runs housekeeping frees, by what Airflow says of all runs."""

from __future__ import annotations

import pytest

PLANNED = {
    "runs": [
        {"folder": "sharded_training/ended", "dag_id": "sharded_training", "run_id": "ended"},
        {"folder": "sharded_training/running", "dag_id": "sharded_training", "run_id": "running"},
        {"folder": "sharded_training/by_hand", "dag_id": None, "run_id": None},
    ]
}


class Airflow:
    """What a task instance can ask of Airflow, where one DAG has a queued run."""

    def __init__(self, queued: str | None) -> None:
        self.queued = queued

    def get_dr_count(self, dag_id: str, states: list[str]) -> int:
        return int((dag_id, states) == (self.queued, ["queued"]))

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        return "running" if run_id == "running" else "success"


@pytest.mark.parametrize("queued", ["sharded_training", "retraining", "merge_checkpoint", "described"])
def test_nothing_is_freed_while_a_run_of_any_dag_that_reads_others_is_queued(queued, monkeypatch, tmp_path, capsys):
    from dags import housekeeping

    (tmp_path / "described.toml").write_text(
        'name = "described"\ncommand = ["true"]\nranks = 2\n[slices]\nfiles = "rank_*/*.ckpt"\n'
    )
    monkeypatch.setenv("SHARDLINE_TRAININGS", str(tmp_path))
    assert housekeeping.finished.function(PLANNED, ti=Airflow(queued)) == []
    assert f"all runs stay: runs of {queued} are queued" in capsys.readouterr().out
    unaffected = housekeeping.finished.function(PLANNED, ti=Airflow("consume_model"))
    assert unaffected == ["sharded_training/ended", "sharded_training/by_hand"]
