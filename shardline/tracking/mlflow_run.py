"""One run of ours as one run of MLflow's, brought up to date from what lies in the run directory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blake3 import blake3

from shardline.base.errors import TrackingError
from shardline.tracking.mlflow_server import MLflowServer, passes_artifacts_on, read_artifact
from shardline.tracking.new_metrics import Batch, as_metrics, next_batch
from shardline.tracking.sent import Sent, write_sent

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
ALIAS = "champion"
RUN_TAG = "shardline.run"
VERSION_TAG = "shardline.version"
_LARGEST_ARTIFACT = 1 << 25
_LONGEST = 5000
"""Characters of a parameter or tag: MLflow takes 6000 and 8000."""
_MOST_PARAMETERS = 100
_EXISTS = "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the model store, as MLflow registers it; `current` is the number of the one that is current."""

    model: str
    number: int
    digest: str
    path: str
    current: int | None


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run: of its directory, and of how its tasks went."""

    name: str
    experiment: str
    metrics_file: Path
    status: Status | None
    """`None`: as it was."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    measured_step: int = 0
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    version: RegisteredVersion | None = None


@dataclass
class MLflowRun:
    """The run of MLflow's that `sent`, in `file`, tells of."""

    server: MLflowServer
    file: Path
    sent: Sent

    def update(self, facts: RunFacts) -> None:
        """Send what was not sent yet, the status last; `TrackingError` where the server takes it not."""
        self._find_or_create(facts)
        if facts.status == "RUNNING":
            self._tell_status("RUNNING")
        self._send_parameters(facts)
        self._send_tags(facts)
        self._send_metrics(facts)
        self._send_measured(facts)
        if passes_artifacts_on(self.sent.artifact_uri):
            self._send_artifacts(facts)
        if facts.version is not None:
            self._register(facts.version)
        if facts.status is not None:
            self._tell_status(facts.status)

    def _find_or_create(self, facts: RunFacts) -> None:
        if self.sent.run_id:
            return
        self.sent.experiment_id = self._experiment(facts.experiment)
        found = self.server.post(
            "runs/search", experiment_ids=[self.sent.experiment_id], filter=f"tags.`{RUN_TAG}` = '{facts.name}'"
        ).get("runs")
        run = found[0] if found else self._create(facts)
        self.sent.run_id, self.sent.artifact_uri = run["info"]["run_id"], run["info"]["artifact_uri"]
        self._keep()

    def _experiment(self, name: str) -> str:
        try:
            return str(self.server.get("experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"])
        except TrackingError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
        try:
            return str(self.server.post("experiments/create", name=name)["experiment_id"])
        except TrackingError as error:
            if error.code != _EXISTS:
                raise
        return str(self.server.get("experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"])

    def _create(self, facts: RunFacts) -> dict[str, Any]:
        tags = {RUN_TAG: facts.name, "mlflow.source.name": "shardline", "mlflow.source.type": "JOB"}
        created = self.server.post(
            "runs/create",
            experiment_id=self.sent.experiment_id,
            run_name=facts.name.rpartition("/")[2],
            start_time=_now(),
            tags=_pairs(tags),
        )
        run: dict[str, Any] = created["run"]
        return run

    def _send_parameters(self, facts: RunFacts) -> None:
        """Each once: MLflow never changes a parameter, so what changes later is a tag."""
        new = {name: text for name, text in facts.parameters.items() if name not in self.sent.parameters}
        names = sorted(new)
        for start in range(0, len(names), _MOST_PARAMETERS):
            some = {name: new[name] for name in names[start : start + _MOST_PARAMETERS]}
            self.server.post("runs/log-batch", run_id=self.sent.run_id, params=_pairs(some))
            self.sent.parameters.update(some)
            self._keep()

    def _send_tags(self, facts: RunFacts) -> None:
        changed = {f"changed.{name}": text for name, text in facts.parameters.items() if self._differs(name, text)}
        if not passes_artifacts_on(self.sent.artifact_uri):
            changed["shardline.artifacts"] = "not sent: this server does not pass them on (--serve-artifacts)"
        new = {name: text for name, text in {**facts.tags, **changed}.items() if self.sent.tags.get(name) != text}
        if new:
            self.server.post("runs/log-batch", run_id=self.sent.run_id, tags=_pairs(new))
            self.sent.tags.update(new)
            self._keep()

    def _differs(self, name: str, text: str) -> bool:
        return self.sent.parameters.get(name, text) != text

    def _send_metrics(self, facts: RunFacts) -> None:
        while (batch := next_batch(facts.metrics_file, self.sent)) is not None:
            if batch.values:
                self._send_batch(batch)
            self.sent.offset, self.sent.last_step, self.sent.last_epoch = batch.end, batch.last_step, batch.last_epoch
            self.sent.batch_end, self.sent.batch_time = 0, 0
            self._keep()

    def _send_batch(self, batch: Batch) -> None:
        if not self.sent.batch_time:
            self.sent.batch_end, self.sent.batch_time = batch.end, _now()
            self._keep()
        metrics = as_metrics(batch.values, self.sent.batch_time)
        self.server.post("runs/log-batch", run_id=self.sent.run_id, metrics=metrics)

    def _send_measured(self, facts: RunFacts) -> None:
        new = {name: value for name, value in facts.measured.items() if self.sent.measured.get(name) != value}
        if new:
            values = tuple((name, facts.measured_step, value) for name, value in new.items())
            self.server.post("runs/log-batch", run_id=self.sent.run_id, metrics=as_metrics(values, _now()))
            self.sent.measured.update({name: value for name, value in new.items() if math.isfinite(value)})
            self._keep()

    def _send_artifacts(self, facts: RunFacts) -> None:
        """Each that changed."""
        for name, file in facts.artifacts.items():
            content = read_artifact(file, _LARGEST_ARTIFACT)
            digest = "" if content is None else blake3(content).hexdigest()
            if content is not None and self.sent.artifacts.get(name) != digest:
                self.server.store(self.sent.artifact_uri, name, content)
                self.sent.artifacts[name] = digest
                self._keep()

    def _register(self, version: RegisteredVersion) -> None:
        if self.sent.version_digest != version.digest:
            self.sent.version = find_version(self.server, version.model, version.number) or self._new_version(version)
            self.sent.version_digest = version.digest
            self._keep()
        if version.current is not None:
            move_alias(self.server, version.model, version.current)

    def _new_version(self, version: RegisteredVersion) -> str:
        try:
            self.server.post("registered-models/create", name=version.model)
        except TrackingError as error:
            if error.code != _EXISTS:
                raise
        tags = {VERSION_TAG: str(version.number), "shardline.digest": version.digest, "shardline.path": version.path}
        answer = self.server.post(
            "model-versions/create",
            name=version.model,
            source=self.sent.artifact_uri,
            run_id=self.sent.run_id,
            description=f"version {version.number} of the model store, BLAKE3 {version.digest}: {version.path}",
            tags=_pairs(tags),
        )
        return str(answer["model_version"]["version"])

    def _tell_status(self, status: Status) -> None:
        if self.sent.status == status:
            return
        ended = {} if status == "RUNNING" else {"end_time": _now()}
        self.server.post("runs/update", run_id=self.sent.run_id, status=status, **ended)
        self.sent.status = status
        self._keep()

    def _keep(self) -> None:
        write_sent(self.file, self.sent)


def find_version(server: MLflowServer, model: str, number: int) -> str | None:
    """MLflow's number of the version that is `number` in the model store; `None` where it was not registered."""
    versions, token = [], ""
    while True:
        page = {"page_token": token} if token else {}
        answer = server.get("model-versions/search", filter=f"name = '{model}'", **page)
        versions += answer.get("model_versions", [])
        token = answer.get("next_page_token", "")
        if not token:
            break
    for version in versions:
        if {"key": VERSION_TAG, "value": str(number)} in version.get("tags", []):
            return str(version["version"])
    return None


def move_alias(server: MLflowServer, model: str, number: int) -> None:
    """Let `champion` be the version that is `number` in the model store; `TrackingError` where MLflow knows it not."""
    version = find_version(server, model, number)
    if version is None:
        raise TrackingError(f"MLflow knows no version {number} of {model}: {ALIAS} stays where it is")
    server.post("registered-models/alias", name=model, alias=ALIAS, version=version)


def short(value: Any) -> str:
    """`value` as the text of a parameter or tag."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _pairs(texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": text} for name, text in texts.items()]


def _now() -> int:
    return int(time.time() * 1000)
