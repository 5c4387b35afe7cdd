"""A notifier for tests: it writes what it is told to a file, a JSON object a line."""

import json
from pathlib import Path
from typing import Any

from airflow.sdk.bases.notifier import BaseNotifier


class FileNotifier(BaseNotifier):
    """As providers write theirs: templates in the arguments, `notify` to send."""

    template_fields = ("title", "text")

    def __init__(self, file: str, title: str, text: str) -> None:
        super().__init__()
        self.file, self.title, self.text = file, title, text

    def notify(self, context: Any) -> None:
        with Path(self.file).open("a") as file:
            file.write(json.dumps({"title": self.title, "text": self.text}) + "\n")
