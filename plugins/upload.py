"""The upload of a promoted version to an object storage, where the run's parameters ask for it.

Airflow's part of `shardline.store.upload`: the storage behind `upload_to`, with the credentials of its connection.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import BaseOperator, Connection, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException

from plugins.lineage import WithLineage
from shardline.base.errors import ConfigError, ShardlineError, UploadError
from shardline.run.allowed_uploads import check_upload, check_upload_folder
from shardline.run.directory import RunDirectory
from shardline.run.environment import home_from
from shardline.run.failures import record_outcome
from shardline.store.upload import Place, upload
from shardline.store.version import read_version


class UploadIfAsked(WithLineage, BaseOperator):
    """Copies the version that `promote` made to the run's parameter `upload_to`; skipped where that is empty.

    A scheme or a connection that Airflow does not know fails at once, whatever the retries.
    """

    def execute(self, context: Context) -> Any:
        """Upload, or skip; what fails is on the run's page and in notifications as the other tasks' failures are."""
        dag_id, run_id = context["dag"].dag_id, context["run_id"]
        home = home_from(os.environ)
        config = RunDirectory(home.run(dag_id, run_id)).read_any_config()
        if not config.upload_to:
            raise AirflowSkipException("the parameter upload_to is empty: nothing is uploaded")
        run = {"SHARDLINE_DAG_ID": dag_id, "SHARDLINE_RUN_ID": run_id, "SHARDLINE_TASK_ID": self.task_id}
        try:
            promoted = context["ti"].xcom_pull(task_ids="promote")
            check_upload(config.upload_to, home, os.environ)
            result = upload_promoted(promoted, config.model_name, config.upload_to)
        except ShardlineError as error:
            record_outcome(home, run, error)
            if isinstance(error, ConfigError):
                raise AirflowFailException(str(error)) from None  # it says all
            raise
        except Exception as error:
            record_outcome(home, run, error)
            raise
        record_outcome(home, run, None)
        return result


def upload_promoted(promoted: dict[str, Any], model: str, upload_to: str) -> dict[str, Any]:
    """Upload the version that `promoted`, the result of promote, describes."""
    version = read_version(Path(promoted["path"]))
    if version.digest != promoted["digest"]:
        raise UploadError(
            f"{version.path}: expected the version of digest {promoted['digest']} that promote returned, found one of "
            f"{version.digest}: the model store was changed since; clear promote"
        )
    return upload(version, place_of(model, upload_to))


def place_of(model: str, upload_to: str) -> Place:
    """The place that `upload_to` names; `ConfigError` where Airflow knows no such storage or connection."""
    from airflow.sdk.io.path import ObjectStoragePath  # fsspec and its kind: no DAG file needs them
    from fsspec.implementations.local import LocalFileSystem

    connection = urlsplit(upload_to).netloc.rpartition("@")[0]
    try:
        if connection:
            Connection.get(connection)  # first: Amazon's provider goes on without one, as whoever the worker is
        path = ObjectStoragePath(upload_to)
        if isinstance(path.fs, LocalFileSystem):
            check_upload_folder(Path(path.path), home_from(os.environ), os.environ)  # as the storage understands it
        return Place(storage=path.fs, root=path.path, model=model, uri=upload_to)
    except AirflowNotFoundException as error:
        raise ConfigError(
            f"upload_to {upload_to}: expected a connection {connection} in Airflow, found none; add it (Admin → "
            "Connections), then clear upload"
        ) from error
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"upload_to {upload_to}: Airflow has no such storage ({error}); install the provider of its scheme, then "
            "clear upload"
        ) from error
