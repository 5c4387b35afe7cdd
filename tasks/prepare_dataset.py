"""The first task: validate the run's parameters, and bring its data set into HOME/data.

    python -m tasks.prepare_dataset [--run-directory DIR] [--parameters JSON] [--set NAME=VALUE]...

The parameters are one JSON document: `--parameters`, or else the environment's SHARDLINE_PARAMETERS, or else all the
defaults; `--set` then changes single ones. Leaves `config.json`, `code.json` and `dataset.json` in the run directory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.counts import counted
from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.file_set import read_file_set
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.export.promoted import mapping_of
from shardline.networks.train_spec import TrainSpec
from shardline.recipes.lookup import check_network, prepared_spec
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.allowed_uploads import check_upload
from shardline.run.code import record_code
from shardline.run.command_line import main, parser
from shardline.run.directory import Home, RunDirectory
from shardline.run.environment import home_from, parameters_from, run_directory_from
from shardline.run.given_paths import with_real_data, with_real_start
from shardline.run.identity import write_identity
from shardline.run.readers import reading
from shardline.settings.run_config import RunConfig
from shardline.store.model_store import current
from shardline.store.signing_key import signing_key


def prepare_dataset(run: RunDirectory, home: Home, config: RunConfig, environment: Mapping[str, str]) -> dict[str, Any]:
    """Write the run's `config.json` and, once its data is prepared, `dataset.json`.

    `ConfigError` where the network, the ranks, the batch size and the data do not go together, a path or `upload_to` is
    none that `environment` allows, or the file that the model is to be exported by is no mapping.
    """
    roots = AllowedRoots.of(home, environment)
    real = with_real_start(config, run, roots)
    if real.start_file is not None:
        read_file_set(Path(real.start_file))  # refuses what is no integrated checkpoint
    if config.upload_to:
        check_upload(config.upload_to, home, environment)
    mapping_of(config, home, environment)
    spec = prepared_spec(config, run.network_file)
    if config.strategy_load_file is None:  # a strategy that is loaded is known to train alone
        check_network(spec.network, config)
    _check_start(config, home)
    _write_config(run, config, real)
    record_code(run, home, config)
    description = spec.dataset.prepare(with_real_data(config, roots), home.data)
    if config.batch_size > description.count("train"):
        raise ConfigError(
            f"batch_size: expected at most the {counted(description.count('train'), 'training sample')}, found "
            f"{config.batch_size}"
        )
    atomic.write_text(run.dataset_file, description.to_json())
    _check_samples(spec, run.dataset_file)
    return {
        "run_directory": str(run.path),
        "dataset": str(run.dataset_file),
        "digest": description.digest,
        "train": description.count("train"),
        "test": description.count("test"),
    }


def _write_config(run: RunDirectory, config: RunConfig, real: RunConfig) -> None:
    """Write what keeps housekeeping from the run that this one resumes from, while nothing of that is being freed."""
    if real.resume_from is None:
        run.write_config(config)
        return
    source = RunDirectory(Path(real.resume_from))
    with reading(source.path):
        if not ShardSet.steps(source.checkpoints):
            raise ConfigError(
                f"resume_from is {config.resume_from!r}, but {source.checkpoints} holds no complete shard set; "
                "give the id of a run of the same DAG that has trained, or the path of its run directory"
            )
        run.write_config(config)


def _check_start(config: RunConfig, home: Home) -> None:
    """Refuse weights to start from that are not there, before anything is prepared."""
    if config.start_from == "current" and current(home, config.model_name) is None:
        raise ConfigError(
            f"start_from: expected a current version of model_name {config.model_name}, found none in {home.models}; "
            "train from 'scratch' first, or correct model_name"
        )


def _check_samples(spec: TrainSpec, dataset_file: Path) -> None:
    samples, labels = spec.dataset.load(dataset_file, "test")
    expected = spec.network.sample_shape
    if samples.shape[1:] != expected or len(samples) != len(labels):
        raise ConfigError(
            f"network {spec.network.name}: expected samples of shape {expected} and as many labels, found samples "
            f"{samples.shape} and labels {labels.shape}; correct sample_shape or the data set of the TrainSpec"
        )


def configuration_from(document: str, changes: Sequence[str]) -> RunConfig:
    """The parameters of a JSON document with `NAME=VALUE` changes; a value that is not JSON is taken as text."""
    if not changes:
        return RunConfig.from_json(document)
    RunConfig.from_json(document)  # refuses what is no document
    parameters = json.loads(document)
    for change in changes:
        name, separator, text = change.partition("=")
        if not separator:
            raise ConfigError(f"--set expects NAME=VALUE, found {change!r}")
        parameters[name] = _value(text)
    return RunConfig.from_json(json.dumps(parameters))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _command_line() -> int:
    arguments = parser(__doc__ or "")
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("--parameters", metavar="JSON", help="all parameters, as one JSON object")
    arguments.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="one parameter")
    given = arguments.parse_args()

    def task() -> Mapping[str, Any]:
        config = configuration_from(parameters_from(given, os.environ), given.set)
        run = run_directory_from(given, os.environ)
        with run.lock():
            write_identity(run.path, os.environ)
            signing_key(home_from(os.environ), os.environ)  # refused now, or after the training
            return prepare_dataset(run, home_from(os.environ), config, os.environ)

    return main(task)


if __name__ == "__main__":
    sys.exit(_command_line())
