"""The one operator of the pipeline: it runs a module of `tasks` as a process of its own.

The shell text is a constant: everything a user chose reaches the task through the environment, so that no parameter
can become part of a command. The task's working directory is the checkout, its last line of output the XCom.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder

from plugins.lineage import WithLineage
from shardline.base.exit_codes import BAD_PARAMETERS, DECLINED
from shardline.base.parent_death import send_on_parent_death

PROJECT = Path(__file__).resolve().parent.parent

RUN_ENVIRONMENT = {
    "SHARDLINE_DAG_ID": "{{ dag.dag_id }}",
    "SHARDLINE_RUN_ID": "{{ run_id }}",
    "SHARDLINE_TASK_ID": "{{ task.task_id }}{{ '-%d' % (ti.map_index + 1) if ti.map_index >= 0 else '' }}",
}
PARAMETERS = {"SHARDLINE_PARAMETERS": "{{ params | tojson }}"}


class TaskOperator(WithLineage, BashOperator):
    """Runs `python -m MODULE ARGUMENTS` in the checkout and returns the JSON object of its last line.

    The interpreter is the worker's own, or SHARDLINE_PYTHON where the tasks live in another virtual environment;
    SHARDLINE_HOME, like everything else, comes from the worker's environment. `variables` are further ones,
    templates like those. `documents` are templates too, whose results may be of any size, which the environment's may
    not (128 KiB, by the kernel): each is a file of the worker's while the task runs, and NAME_FILE in the environment
    its path. `reads_parameters` passes the run's parameters so, as the JSON document SHARDLINE_PARAMETERS.
    `output_processor` makes the task's XCom of its last line.

    The task ends with Airflow's task runner, and that with the worker's process that watches it, even where one of them
    is killed by SIGKILL: the kernel sends SIGTERM (`setpriv --pdeathsig`, `send_on_parent_death`). A task that ends
    with BAD_PARAMETERS (`shardline.base.exit_codes`) fails at once, whatever its retries: nothing changes by trying
    again. One that ends with DECLINED is skipped.
    """

    template_fields = (*BashOperator.template_fields, "documents")

    def __init__(  # noqa: PLR0913  an operator's options, by name
        self,
        *,
        module: str,
        arguments: tuple[str, ...] = (),
        reads_parameters: bool = False,
        variables: Mapping[str, str] | None = None,
        documents: Mapping[str, str] | None = None,
        output_processor: Callable[[str], Any] = json.loads,
        **kwargs: Any,
    ) -> None:
        command = shlex.join([module, *arguments])
        super().__init__(
            # Standard input is the worker's own socket to Airflow: a task must not read it.
            bash_command=f'exec setpriv --pdeathsig TERM "$SHARDLINE_PYTHON" -m {command} </dev/null',
            env={**RUN_ENVIRONMENT, **(variables or {})},
            append_env=True,
            cwd=str(PROJECT),
            skip_on_exit_code=DECLINED,
            output_processor=output_processor,
            **kwargs,
        )
        self.documents = {**(PARAMETERS if reads_parameters else {}), **(documents or {})}
        self._files: dict[str, str] = {}

    def get_env(self, context: Context) -> dict[str, str]:
        """The worker's environment, the run's identity, the interpreter and the files of documents."""
        return {"SHARDLINE_PYTHON": sys.executable} | super().get_env(context) | self._files

    def execute(self, context: Context) -> Any:
        """Run the task; `AirflowFailException`, which is never retried, where a parameter is wrong."""
        if _is_in_task_runner():
            send_on_parent_death(signal.SIGTERM)
        with tempfile.TemporaryDirectory(prefix="shardline-") as folder:
            for name, document in self.documents.items():
                file = Path(folder, name)
                file.write_text(document, encoding="utf-8")
                self._files[f"{name}_FILE"] = str(file)
            return self._run(context)

    def _run(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except AirflowException as error:
            process = self.subprocess_hook.sub_process
            if process is not None and process.returncode == BAD_PARAMETERS:
                raise AirflowFailException("a parameter is wrong: see the message above; not tried again") from error
            raise


def _is_in_task_runner() -> bool:
    """Whether this is Airflow's task runner, started by the worker's process for this task alone, which the task is
    reported to; `Dag.test` runs tasks in a process of the user's own."""
    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), CommsDecoder)
