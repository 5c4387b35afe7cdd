"""How an MPIJob gets on: its launcher's log, and its state and its pods' in a line."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from plugins.mpijob.api import ROLE_LABEL, MPIJobs

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

LAST_LINES = 30

_MARGIN_S = 10
"""By so much more than has passed is asked for again: lines come late, and those seen already are known."""


class LauncherLog:
    """Copies the logs of a job's launchers, each line once, into the task's log."""

    def __init__(self, jobs: MPIJobs, log: Logger) -> None:
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.result: Any = None
        """The last line that was a JSON object: what the launch returned, if it did."""
        self._jobs, self._log = jobs, log
        self._read_at: dict[str, float] = {}
        self._last: dict[str, str] = {}

    def follow(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Copy what has come since the last time."""
        for pod in pods:
            if role_of(pod) == "launcher":
                for status in pod.get("status", {}).get("containerStatuses", []):
                    if "waiting" not in status.get("state", {"waiting": {}}):
                        self._follow(pod["metadata"]["name"], status["name"])

    def _follow(self, pod: str, container: str) -> None:
        now, before = time.monotonic(), self._read_at.get(pod)
        since = None if before is None else int(now - before) + _MARGIN_S
        text = self._jobs.log(pod, container, since)
        if text is None:  # the node or the API is away: next time, more
            return
        self._read_at[pod] = now
        lines = text[: text.rfind("\n") + 1].splitlines()  # a line without an end will be whole next time
        for line in self._new(pod, lines):
            self._show(line.partition(" ")[2])

    def _new(self, pod: str, lines: list[str]) -> list[str]:
        """Those that come after the last one seen: where that isn't among them, all do."""
        last = self._last.get(pod)
        if lines:
            self._last[pod] = lines[-1]
        return lines[lines.index(last) + 1 :] if last in lines else lines

    def _show(self, line: str) -> None:
        self._log.info("%s", line)
        self.last_lines.append(line)
        if line.startswith("{"):
            try:
                self.result = json.loads(line)
            except ValueError:
                return  # it only began like one


def role_of(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"].get("labels", {}).get(ROLE_LABEL, "pod"))


def condition_of(job: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """The job's condition of that kind if it holds."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == kind and item["status"] == "True"), None)


def state_of(job: Mapping[str, Any], pods: Iterable[Mapping[str, Any]]) -> str:
    """The conditions that hold, and how many pods are how."""
    conditions = job.get("status", {}).get("conditions", [])
    holding = [item["type"] for item in conditions if item["status"] == "True"]
    said = ", ".join(holding) or "waiting for the mpi-operator"
    return "; ".join(part for part in (said, state_of_pods(pods)) if part)


def state_of_pods(pods: Iterable[Mapping[str, Any]]) -> str:
    """How many pods are how."""
    counts = Counter(f"{role_of(pod)} {_pod_state(pod)}" for pod in pods)
    return "; ".join(f"{count} × {text}" for text, count in sorted(counts.items()))


def exit_codes(pods: Iterable[Mapping[str, Any]]) -> list[int]:
    """How the containers of the launchers have ended, the latest last."""
    return [
        status["state"]["terminated"]["exitCode"]
        for pod in pods
        if role_of(pod) == "launcher"
        for status in pod.get("status", {}).get("containerStatuses", [])
        if "terminated" in status.get("state", {})
    ]


def _pod_state(pod: Mapping[str, Any]) -> str:
    """A pod's phase, and why it is no further."""
    status = pod.get("status", {})
    reasons = [status]
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = container.get("state", {})
        reasons += [state[kind] for kind in ("waiting", "terminated") if kind in state]
    reasons += [item for item in status.get("conditions", []) if _unscheduled(item)]
    texts = dict.fromkeys(_reason(reason) for reason in reasons)
    return ": ".join([status.get("phase", "Unknown"), *(text for text in texts if text)])


def _unscheduled(condition: Mapping[str, Any]) -> bool:
    return (condition["type"], condition["status"]) == ("PodScheduled", "False")


def _reason(state: Mapping[str, Any]) -> str:
    code = f"exit code {state['exitCode']}" if state.get("exitCode") else ""
    return ", ".join(part for part in (state.get("reason"), code, state.get("message")) if part)
