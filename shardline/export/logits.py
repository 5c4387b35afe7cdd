"""Does an exported folder compute, in `transformers`, what the sharded ranks computed?

The ranks of a run leave the logits of some samples (`reference_logits.npz`), which validation holds the merged model
against. Here `transformers` computes them from the exported folder; how far they may differ is what validation allowed
(`shardline.validation.tolerance`), which its report says.

`transformers` and PyTorch are no dependencies of ours. They run in the interpreter that SHARDLINE_HF_PYTHON names, or
in this one where it has them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.base import parent_death
from shardline.base.counts import counted
from shardline.base.errors import CheckpointError, ConfigError, ExportError, RunDirectoryError
from shardline.base.json_object import object_in, read_object
from shardline.export import transformers_logits
from shardline.export.transformers_logits import NO_PACKAGE, NOT_STRICT
from shardline.run.directory import Home, RunDirectory
from shardline.run.merged_model import MergedModel
from shardline.store.version import Version
from shardline.validation.sharded_logits import Comparison, compare

PYTHON = "SHARDLINE_HF_PYTHON"
REPORT = "report.json"


@dataclass(frozen=True)
class Reference:
    """The run that a version comes from, whose ranks' logits are there, and how far others may lie from them."""

    run: RunDirectory
    tolerance: float


@dataclass(frozen=True)
class ComparedLogits:
    """What was compared, and by which versions of what."""

    comparison: Comparison
    computed_by: Mapping[str, str]

    def to_document(self) -> dict[str, Any]:
        """As it stands in the record."""
        document = asdict(self.comparison)
        return document | {"exported_loss": document.pop("merged_loss"), "computed_by": dict(self.computed_by)}

    def __str__(self) -> str:
        found = self.comparison
        packages = ", ".join(f"{name} {version}" for name, version in self.computed_by.items())
        return (
            f"loads strictly ({packages}); the logits of {counted(found.samples, 'sample')} differ from the sharded "
            f"ranks' by {found.relative_difference:.2e} of the greatest (at most {found.tolerance:.2g})"
        )


class NotCompared(Exception):
    """Why logits are not compared: no error, unless somebody insists."""


def interpreter(environment: Mapping[str, str]) -> str:
    """Where `transformers` runs; `NotCompared` where there is no such place."""
    if named := environment.get(PYTHON):
        return named
    if find_spec("transformers") and find_spec("torch"):
        return sys.executable
    raise NotCompared(f"transformers and torch are not installed here, and {PYTHON} names no Python that has them")


def reference_of(version: Version, home: Home) -> Reference:
    """The ranks' logits of `version`; `NotCompared` where there are none."""
    run = RunDirectory(home.path / version.run)
    compared = read_object(version.path / REPORT, "report").get("sharded_logits")
    if compared is None:
        raise NotCompared("its validation compared no logits, since an earlier step than the last was merged")
    try:
        tolerance = float(compared["tolerance"])
    except (LookupError, TypeError, ValueError):
        raise NotCompared("its report does not say how far logits may differ: it is an earlier Shardline's") from None
    try:
        is_of_the_run = read_object(run.report_file, "report")["merged"]["digest"] == version.digest
        run.read(run.reference_logits_file, "train")
    except (CheckpointError, RunDirectoryError, LookupError, TypeError) as error:
        raise NotCompared(f"the ranks' logits are not there any more: {error}") from None
    if not is_of_the_run:
        raise NotCompared(f"{run.path} has trained or merged another model since: its logits are not this version's")
    return Reference(run, tolerance)


def compare_logits(folder: Path, version: Version, reference: Reference, python: str) -> ComparedLogits:
    """What `transformers` computes from `folder`, beside the ranks' logits; `ExportError` where that is not the same,
    or the folder does not load strictly."""
    computed_by: dict[str, str] = {}

    def logits(samples: NDArray[Any]) -> NDArray[np.float32]:
        found, versions = _computed(folder, samples, python)
        computed_by.update(versions)
        return found

    merged = MergedModel(version.model_file, version.digest, version.step)
    comparison = compare(reference.run, merged, logits, reference.tolerance)
    if comparison is None:
        raise NotCompared(f"{reference.run.path} has gone on training since: its logits are not this version's")
    if not comparison.equal:
        raise ExportError(
            f"transformers does not compute from the exported model what the sharded ranks computed: expected logits "
            f"that differ by at most {comparison.tolerance:.2g} of the greatest, found "
            f"{comparison.relative_difference:.2e}; {comparison.decisions_changed_clearly} of {comparison.decisions} "
            "decisions clearly differ. Nothing was exported; the network is not the one that the mapping is for"
        )
    return ComparedLogits(comparison, computed_by)


def _computed(folder: Path, samples: NDArray[Any], python: str) -> tuple[NDArray[np.float32], Mapping[str, str]]:
    with TemporaryDirectory(prefix="shardline-") as scratch:
        given, found = Path(scratch, "samples.npy"), Path(scratch, "logits.npy")
        np.save(given, samples)
        ours = [sys.executable, parent_death.__file__, str(os.getpid()), str(int(signal.SIGKILL))]
        theirs = [_program(python), transformers_logits.__file__, str(folder), str(given), str(found)]
        ended = subprocess.run([*ours, *theirs], env=_environment(), capture_output=True, text=True, check=False)
        _check(ended, python)
        versions = next(filter(None, map(object_in, reversed(ended.stdout.splitlines()))), None)
        if versions is None or not found.is_file():
            raise ExportError(f"{PYTHON}: {python} ended well, and left no logits; is it a Python?")
        return np.load(found), versions


def _program(python: str) -> str:
    """The path of `python`; `ConfigError` where there is no such program."""
    if (program := shutil.which(python)) is None:
        raise ConfigError(f"{PYTHON}: there is no program {python} that may be started; correct it")
    return program


def _environment() -> dict[str, str]:
    """Another Python's packages are its own; nothing is fetched."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def _check(ended: subprocess.CompletedProcess[str], python: str) -> None:
    if ended.returncode == 0:
        return
    said = ended.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
    if ended.returncode == NO_PACKAGE:
        raise ConfigError(f"{PYTHON}: {said[0]}; install them there, or name a Python that has them")
    if ended.returncode == NOT_STRICT:
        raise ExportError(f"the exported folder does not load strictly: {said[0]}")
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit code {ended.returncode}"
    raise ExportError(
        f"{python} was to compute the exported model's logits and ended by {how}: {said[0]}; it holds the whole model "
        "in memory: is there enough?"
    )
