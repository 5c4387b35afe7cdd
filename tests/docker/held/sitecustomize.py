"""Python imports this when it starts, where this folder is on PYTHONPATH: a process that is to be held stops itself.

The file HOLD, where there is one, has a JSON object: a process that is started with `command` among its arguments gets
SIGSTOP, once, before its first call that Python audits as `event` on a path that `path`, a regular expression, matches.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

AUDITED = {"open": 0, "os.rename": 1}
"""Events by which of their arguments is the path."""


def hold_at(event: str, path: str) -> None:
    """Have this process stop before the first such call."""
    passed: list[str] = []

    def audited(found: str, arguments: tuple[Any, ...]) -> None:
        if found == event and not passed and re.search(path, os.fsdecode(arguments[AUDITED[event]])):
            passed.append(path)
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(audited)


if "HOLD" in os.environ and Path(os.environ["HOLD"]).exists():
    hold = json.loads(Path(os.environ["HOLD"]).read_text())
    if hold["command"] in " ".join(sys.orig_argv):
        hold_at(hold["event"], hold["path"])
