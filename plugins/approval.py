"""Airflow's question to a person, between validation and promotion, where the run's parameters ask for it."""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSkipException

from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from

_PICTURE = re.compile(r"^!\[(?P<title>[^\]]*)\]\((?P<file>[\w.-]+)\)$", re.MULTILINE)


class ApprovalIfAsked(ApprovalOperator):
    """Shows the validation's report, with its pictures, and waits for *Approve* or *Reject*.

    Skipped, without a question, where the run's parameter `approval` is off. *Reject* skips what follows.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            subject="Promote the model of {{ dag.dag_id }}, {{ run_id }}?", body="The report of validate.", **kwargs
        )

    def execute(self, context: Context) -> Any:
        """Ask, or skip."""
        dag_id, run_id = context["dag"].dag_id, context["run_id"]
        run = RunDirectory(home_from(os.environ).run(dag_id, run_id))
        if not run.read_any_config().approval:
            raise AirflowSkipException("the parameter approval is off: nobody is asked")
        report = run.read(run.validation / "report.md", "validate").decode()
        self.body = _PICTURE.sub(lambda match: _picture(match, dag_id, run_id), report)
        return super().execute(context)


def _picture(match: re.Match[str], dag_id: str, run_id: str) -> str:
    """A picture of the report, from where the run page serves it: Airflow shows none that lies in the Markdown."""
    root = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
    query = urlencode({"run_id": run_id, "name": match["file"]})
    return f"![{match['title']}]({root}/run-page/dags/{quote(dag_id, safe='')}/plot?{query})"
