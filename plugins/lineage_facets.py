"""Datasets, code and digests of a run as OpenLineage has them. Imported only where its provider is installed.

A dataset is a path in the namespace `file`, or `file://HOST` where SHARDLINE_LINEAGE_HOST names a file server: workers
share SHARDLINE_HOME, and a path means the same on each of them. The standard facet `version` has the digest, and
`shardline_dataset` the rest; `shardline_run` has the run's digests and code, as `shardline models show` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

import attr
from airflow.providers.openlineage.extractors import OperatorLineage
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    OutputDatasetFacet,
    RunFacet,
    dataset_version_dataset,
    output_statistics_output_dataset,
    source_code_location_job,
)

from shardline.run.directory import Home, RunDirectory
from shardline.run.lineage import Lineage, digests_in, lineage_of
from shardline.run.lineage_datasets import Dataset, datasets_of

HOST = "SHARDLINE_LINEAGE_HOST"


@attr.define
class ShardlineDatasetFacet(DatasetFacet):
    """What a dataset of a run is: data, slices, merged, version, uploaded, exported, or files of the user's."""

    kind: str
    digest: str | None = None
    algorithm: str = "BLAKE3"
    facts: dict[str, Any] = attr.field(factory=dict)
    """Such as step, world_size, strategy; of a version: model, version, metric and its value."""
    _additional_skip_redact: ClassVar[list[str]] = ["kind", "digest", "algorithm"]


@attr.define
class ShardlineRunFacet(RunFacet):
    """The run directory, the digests that are known by now, and which code made them, the newest last."""

    directory: str
    digests: dict[str, str] = attr.field(factory=dict)
    code: list[dict[str, Any]] = attr.field(factory=list)


def operator_lineage(
    task_id: str, run: RunDirectory, home: Home, environment: Mapping[str, str], *, has_succeeded: bool
) -> OperatorLineage[Any, Any]:
    """What there is to tell of the run's task; nothing of a task that has no run directory."""
    if not run.path.is_dir():
        return OperatorLineage()
    found, lineage = datasets_of(task_id, run, home), lineage_of(run, home)
    host = environment.get(HOST, "").strip()
    facet = ShardlineRunFacet(directory=str(run.path), digests=digests_in(lineage), code=lineage["code"])
    return OperatorLineage(
        inputs=[InputDataset(*_name(each, host), facets=_facets(each)) for each in found.inputs],
        outputs=[_output(each, host) for each in found.outputs] if has_succeeded else [],
        run_facets={"shardline_run": facet},
        job_facets=_job_facets(lineage, host),
    )


def _output(dataset: Dataset, host: str) -> OutputDataset:
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        size=dataset.size, fileCount=dataset.files
    )
    written: dict[str, OutputDatasetFacet] = {} if dataset.size is None else {"outputStatistics": statistics}
    return OutputDataset(*_name(dataset, host), facets=_facets(dataset), outputFacets=written)


def _name(dataset: Dataset, host: str) -> tuple[str, str]:
    """Namespace and name, by OpenLineage's rules for file systems and object storages."""
    if dataset.place.startswith("/"):
        return (f"file://{host}" if host else "file"), dataset.place
    parts = urlsplit(dataset.place)
    if parts.scheme == "file":
        return (f"file://{host}" if host else "file"), parts.path
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")


def _facets(dataset: Dataset) -> dict[str, DatasetFacet]:
    own = ShardlineDatasetFacet(kind=dataset.kind, digest=dataset.digest, facts=dict(dataset.facts))
    facets: dict[str, DatasetFacet] = {"shardline_dataset": own}
    if dataset.digest is not None:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=dataset.digest)
    return facets


def _job_facets(lineage: Lineage, host: str) -> dict[str, JobFacet]:
    """Where the user's program lies, with its commit, where that is known."""
    program = (lineage["code"][-1]["program"] if lineage["code"] else None) or {}
    if not program.get("commit"):
        return {}
    url = f"file://{host}{program['folder']}"
    location = source_code_location_job.SourceCodeLocationJobFacet(type="git", url=url, version=program["commit"])
    return {"sourceCodeLocation": location}
