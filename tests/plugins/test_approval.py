"""The question before a promotion: asked only where it is wanted, with the report and its pictures."""

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from plugins.approval import ApprovalIfAsked
from shardline.base.errors import RunDirectoryError
from shardline.run.directory import Home, RunDirectory
from shardline.settings.run_config import RunConfig

RUN_ID = "manual__2026-01-31T09:00:00+00:00"
CONTEXT = {"dag": SimpleNamespace(dag_id="sharded_training"), "run_id": RUN_ID}


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path))
    return RunDirectory(Home(tmp_path).run("sharded_training", RUN_ID))


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The bodies of the questions that Airflow's operator has asked."""
    bodies: list[str] = []
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.HITLOperator.execute",
        lambda operator, context: bodies.append(operator.body),
    )
    return bodies


def test_nobody_is_asked_where_approval_is_off(run, asked):
    run.write_config(RunConfig())
    with pytest.raises(AirflowSkipException, match="the parameter approval is off"):
        ApprovalIfAsked(task_id="approve").execute(CONTEXT)
    assert asked == []


def test_the_report_is_shown_with_pictures_from_the_run_page(run, asked):
    run.write_config(RunConfig(approval=True))
    run.validation.mkdir()
    (run.validation / "report.md").write_text("# Validation passed\n\n{{ 1 / 0 }}\n\n![Loss](loss.png)\n")
    ApprovalIfAsked(task_id="approve").execute(CONTEXT)
    assert asked == [
        "# Validation passed\n\n{{ 1 / 0 }}\n\n![Loss](/run-page/dags/sharded_training/plot?"
        "run_id=manual__2026-01-31T09%3A00%3A00%2B00%3A00&name=loss.png)\n"
    ]


def test_without_a_report_it_says_what_to_run(run, asked):
    run.write_config(RunConfig(approval=True))
    with pytest.raises(RunDirectoryError, match="the task validate writes it"):
        ApprovalIfAsked(task_id="approve").execute(CONTEXT)
