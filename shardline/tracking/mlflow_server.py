"""An MLflow server's REST interface, as far as runs need it, by the standard library alone.

`mlflow-skinny` cannot be installed beside Airflow's locked packages (it wants cachetools below 8), costs seconds to
import, and tries again for minutes where a server is down. MLflow documents the interface as stable:
https://mlflow.org/docs/latest/api_reference/rest-api.html. Artifacts go through the server, `mlflow server
--serve-artifacts`, which is its default.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

from shardline.base.errors import ConfigError, TrackingError

TIMEOUT_S = 5.0
"""How long a server may say nothing."""
_MOST_BYTES = 1 << 24


class NoAnswer(TrackingError):
    """The server is down, slow, or none of MLflow's."""


@dataclass(frozen=True)
class MLflowServer:
    """The server at `uri`, http or https, with the value of the header Authorization, where it wants one."""

    uri: str
    authorization: str | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> MLflowServer | None:
        """The server that SHARDLINE_MLFLOW_URI names, with MLflow's own variables for who asks; `None` without."""
        uri = environment.get("SHARDLINE_MLFLOW_URI", "").strip()
        if not uri:
            return None
        parts = urlsplit(uri)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigError(
                "SHARDLINE_MLFLOW_URI: expected the address of an MLflow server, http://HOST:PORT, without a password "
                "(MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN have it), found another"
            )
        return cls(uri.rstrip("/"), _authorization(environment))

    def get(self, method: str, **fields: str) -> dict[str, Any]:
        """The answer to `method`, such as `runs/get`; `TrackingError` where there is none."""
        return self._answer(Request(f"{self.uri}/api/2.0/mlflow/{method}?{urlencode(fields)}"))  # noqa: S310

    def post(self, method: str, **fields: Any) -> dict[str, Any]:
        """The answer to `method`, such as `runs/create`; `TrackingError` where there is none."""
        request = Request(  # noqa: S310  http or https
            f"{self.uri}/api/2.0/mlflow/{method}",
            data=json.dumps(fields, allow_nan=False).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        return self._answer(request)

    def store(self, artifact_uri: str, name: str, content: bytes) -> None:
        """Leave `content` as `name` below `artifact_uri`, which the server passes on to where it keeps artifacts."""
        parts = urlsplit(artifact_uri)
        path = quote(f"{parts.path.strip('/')}/{name}")
        request = Request(  # noqa: S310
            f"{self.uri}/api/2.0/mlflow-artifacts/artifacts/{path}",
            data=content,
            headers={"Content-Type": "application/octet-stream"},
            method="PUT",
        )
        self._answer(request)

    def _answer(self, request: Request) -> dict[str, Any]:
        if self.authorization is not None:
            request.add_header("Authorization", self.authorization)
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                document = json.loads(answer.read(_MOST_BYTES) or b"{}")
        except HTTPError as error:
            raise _refusal(error) from error
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            reason = getattr(error, "reason", None) or error
            raise NoAnswer(f"{self.uri} does not answer as an MLflow server does: {reason}") from error
        if not isinstance(document, dict):
            raise NoAnswer(f"{self.uri} does not answer as an MLflow server does: expected a JSON object")
        return document


def _refusal(error: HTTPError) -> TrackingError:
    """What MLflow said: its code in `TrackingError.code`, as RESOURCE_ALREADY_EXISTS."""
    try:
        document = json.loads(error.read(_MOST_BYTES))
        code, message = str(document["error_code"]), str(document.get("message", ""))
    except (OSError, HTTPException, ValueError, TypeError, KeyError, RecursionError):
        code, message = "", str(error.reason)
    path = urlsplit(error.url).path
    return TrackingError(f"MLflow refused {path}: {error.code} {code} {message:.500}", code)


def _authorization(environment: Mapping[str, str]) -> str | None:
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return f"Bearer {token}"
    if user := environment.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"
    return None


def passes_artifacts_on(artifact_uri: str) -> bool:
    """Whether `store` can leave anything there: MLflow's own client goes to all other places by itself."""
    return urlsplit(artifact_uri).scheme == "mlflow-artifacts"


def read_artifact(file: Path, most: int) -> bytes | None:
    """The content of `file`; `None` where there is none, or more than `most` bytes."""
    try:
        if file.stat().st_size > most:
            return None
        return file.read_bytes()
    except OSError:
        return None
