"""Does the merged model compute what the sharded ranks computed?

At the end of training the ranks compute the logits of one batch, and rank 0 stores them with the batch. The merged
model, unsharded, computes them again: any slice that merging lost, misplaced or took from another step shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from shardline.base.errors import ValidationError
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.networks.train_spec import Logits
from shardline.run.directory import RunDirectory
from shardline.run.merged_model import MergedModel

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Comparison:
    """The greatest absolute difference of two logits, relative to the greatest absolute logit of the ranks."""

    samples: int
    relative_difference: float
    tolerance: float

    @property
    def equal(self) -> bool:
        return self.relative_difference <= self.tolerance


def compare(
    run: RunDirectory,
    merged: MergedModel,
    network: Logits,
) -> Comparison | None:
    """Compare `network`'s logits with those of the ranks; `None` where an earlier step than the last was merged."""
    newest = ShardSet.newest(run.checkpoints)
    if newest is not None and newest.step != merged.step:
        return None
    samples, expected = _reference(run)
    found = network(samples)
    if found.shape != expected.shape:
        raise ValidationError(
            f"{run.reference_logits_file}: expected logits of shape {found.shape}, found {expected.shape}; "
            "were they stored for another network?"
        )
    difference = np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max()
    return Comparison(len(samples), float(difference), TOLERANCE)


def _reference(run: RunDirectory) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    file = run.reference_logits_file
    run.read(file, "train")
    try:
        with np.load(file) as archive:
            samples, logits = archive["samples"], archive["logits"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValidationError(f"{file}: expected the arrays samples and logits ({error!r}); clear train") from error
    if not (len(samples) == len(logits) > 0 and np.isfinite(logits).all() and logits.any()):
        raise ValidationError(f"{file}: expected finite logits, not all 0, for at least one sample; clear train")
    return samples, logits
