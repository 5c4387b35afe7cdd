"""The commands of the documents that speak to Airflow by REST, and a shell in which a reader types them."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts.local_airflow import PROJECT

DOCUMENTS = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
ADDRESS = "http://127.0.0.1:8080"
COMMANDS = {
    "log in": "/auth/token",
    "trigger": "-X POST $AIRFLOW/api/v2/dags/sharded_training/dagRuns",
    "state": "curl $AIRFLOW/api/v2/dags/sharded_training/dagRuns/$RUN -H",
    "unpause": '"is_paused": false',
    "new data": "/assets/events",
    "approve": "/hitlDetails",
    "clear the merge": "/clearTaskInstances",
    "reached": "/state-store/training",
}
"""By what each is found."""


def blocks() -> list[str]:
    """All blocks of commands of all documents that name Airflow's address."""
    texts = [document.read_text() for document in DOCUMENTS]
    found = [block for text in texts for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)]
    return [block for block in found if "AIRFLOW=" in block or "$AIRFLOW" in block or "/api/v2/" in block]


def command(name: str) -> str:
    """The one block that is called `name` here, as it stands."""
    (found,) = [block for block in blocks() if COMMANDS[name] in block]
    return found


class Reader:
    """Types commands as they stand in the documents, but for the port at which Airflow listens."""

    def __init__(self, checkout: Path, address: str) -> None:
        self._checkout, self._address = checkout, address

    def types(self, *names: str, show: str | None = None, **variables: str) -> str:
        """Log in, set `variables` and run the commands; what was printed, and at the end the variable `show`."""
        log_in = command("log in")
        assert ADDRESS in log_in
        script = [log_in.replace(ADDRESS, self._address), *map(command, names)]
        given: Mapping[str, str] = {"PATH": "/usr/local/bin:/usr/bin:/bin", **variables}
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join([*script, f'echo "${show}"' if show else ""])],
            cwd=self._checkout,
            env=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout
