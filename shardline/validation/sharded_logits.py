"""Does the merged model compute what the sharded ranks computed?

At the end of training the ranks compute the logits of one batch, and rank 0 stores them with the batch. The merged
model, unsharded, computes them again: any slice that merging lost, misplaced or took from another step shows.

How far the logits may differ, `shardline.validation.tolerance` derives. Beside them stand the decisions that follow
from them, which mean the same in any precision: the greatest logit of every sample or position, and the loss.
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
from shardline.scoring.cross_entropy import cross_entropy


@dataclass(frozen=True)
class Comparison:
    """The logits of the ranks and those of the merged model, and what follows from each."""

    samples: int
    relative_difference: float
    """The greatest absolute difference of two logits, relative to the greatest absolute logit of the ranks."""
    tolerance: float
    """How great that may be."""
    decisions: int
    """The samples, or the positions of all samples: each has one greatest logit."""
    decisions_changed: int
    """Those where the ranks and the merged model have it in different places."""
    decisions_changed_clearly: int
    """Of these, those where the ranks' two greatest logits lie further apart than the tolerance."""
    ranks_loss: float
    merged_loss: float
    """Mean cross entropy in nats."""
    loss_tolerance: float
    """How far the two losses may lie apart: as far as two logits."""

    @property
    def equal(self) -> bool:
        return self.relative_difference <= self.tolerance and self.decides_alike

    @property
    def decides_alike(self) -> bool:
        """Whether no clear decision is another one, and the losses are the same but for rounding."""
        return not self.decisions_changed_clearly and abs(self.ranks_loss - self.merged_loss) <= self.loss_tolerance


def compare(
    run: RunDirectory,
    merged: MergedModel,
    network: Logits,
    tolerance: float,
) -> Comparison | None:
    """Compare `network`'s logits with those of the ranks; `None` where an earlier step than the last was merged.

    Differences up to `tolerance` of the greatest logit are taken for rounding.
    """
    newest = ShardSet.newest(run.checkpoints)
    if newest is not None and newest.step != merged.step:
        return None
    samples, labels, expected = _reference(run)
    found = network(samples)
    if found.shape != expected.shape:
        raise ValidationError(
            f"{run.reference_logits_file}: expected logits of shape {found.shape}, found {expected.shape}; "
            "were they stored for another network?"
        )
    greatest = float(np.abs(expected).max())
    changed = found.argmax(-1) != expected.argmax(-1)
    second, first = np.moveaxis(np.partition(expected, -2, axis=-1)[..., -2:], -1, 0)
    return Comparison(
        samples=len(samples),
        relative_difference=float(np.abs(found.astype(np.float64) - expected).max()) / greatest,
        tolerance=tolerance,
        decisions=changed.size,
        decisions_changed=int(changed.sum()),
        decisions_changed_clearly=int((changed & (first - second > tolerance * greatest)).sum()),
        ranks_loss=cross_entropy(expected, labels),
        merged_loss=cross_entropy(found, labels),
        loss_tolerance=tolerance * greatest,
    )


def _reference(run: RunDirectory) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Samples, labels, and the logits of the ranks."""
    file = run.reference_logits_file
    run.read(file, "train")
    try:
        with np.load(file) as archive:
            samples, labels, logits = archive["samples"], archive["labels"], archive["logits"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValidationError(
            f"{file}: expected the arrays samples, labels and logits ({error!r}); clear train"
        ) from error
    if not (len(samples) == len(logits) > 0 and np.isfinite(logits).all() and logits.any()):
        raise ValidationError(f"{file}: expected finite logits, not all 0, for at least one sample; clear train")
    if labels.shape != logits.shape[:-1]:
        raise ValidationError(
            f"{file}: expected labels of shape {logits.shape[:-1]}, found {labels.shape}; clear train"
        )
    return samples, labels, logits
