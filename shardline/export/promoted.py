"""A run's promoted version, exported where its parameters ask for that: to HOME/models/NAME/exports/VERSION."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError, PromotionError
from shardline.base.progress import ReportingMeter
from shardline.export.export import ExportRequest, export
from shardline.export.mapping import NameMapping
from shardline.export.mapping_file import read_mapping
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.directory import Home, RunDirectory
from shardline.settings.export_mapping import BUILT_IN
from shardline.settings.run_config import RunConfig
from shardline.settings.training_config import TrainingConfig
from shardline.store.version import Version, read_version

PARAMETER = "hugging_face_export"


def mapping_of(config: RunConfig | TrainingConfig, home: Home, environment: Mapping[str, str]) -> NameMapping | None:
    """The mapping file that the run's parameters name; `None` where they name none.

    `ConfigError` where it is no mapping, or lies where `environment` does not allow tasks to read.
    """
    named = config.hugging_face_export
    if not named or named == BUILT_IN:
        return None
    return read_mapping(AllowedRoots.of(home, environment).file(Path(named).absolute(), PARAMETER))


def export_promoted(run: RunDirectory, home: Home, environment: Mapping[str, str]) -> dict[str, Any]:
    """Export the version that promote made of the run's model; done again, it replaces what it made before."""
    config = run.read_any_config()
    if not config.hugging_face_export:
        raise ConfigError(f"{PARAMETER} is empty: nothing is to be exported; name a mapping")
    version = _promoted(run)
    output = home.export(config.model_name, version.version)
    request = ExportRequest(
        model=config.model_name,
        version=version,
        output=output,
        mapping=mapping_of(config, home, environment),
        replaces=True,
    )
    meter = ReportingMeter(sys.stdout)
    with meter.running():
        record = export(request, home, environment, meter)
    print(f"{output}: {record['proof']['said']}", flush=True)
    return {
        "output": str(output),
        "version": version.version,
        "digest": version.digest,
        "proof": record["proof"]["said"],
    }


def _promoted(run: RunDirectory) -> Version:
    """The version in the run's promotion file; `PromotionError` where it is not that any more."""
    content = run.read(run.promotion_file, "promote")
    try:
        promoted = json.loads(content)
        path, digest = Path(promoted["path"]), promoted["digest"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PromotionError(f"{run.promotion_file}: expected what promote writes ({error!r}); clear promote") from None
    version = read_version(path)
    if version.digest != digest:
        raise PromotionError(
            f"{path}: expected the version of digest {digest} that promote made, found one of {version.digest}: the "
            "model store was changed since; clear promote"
        )
    return version
