"""The loss on held-out samples while training goes on, which becomes the curve `validation_loss`.

All ranks compute it together, on the network as it is sharded, and nothing of that changes the training: with it or
without it, the weights are the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from shardline.scoring.cross_entropy import cross_entropy
from shardline.training.reference import logits_of

MOST_SAMPLES = 512


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Samples and labels that are not trained on, and the network, whose batches have `batch_size` samples."""

    network: Any
    samples: NDArray[Any]
    labels: NDArray[Any]
    batch_size: int
    every: int

    def is_due(self, step: int, last: int) -> bool:
        """Whether the loss is wanted after `step`: every so many steps, and after the last."""
        return step % self.every == 0 or step == last

    def loss(self) -> float:
        """The mean cross entropy of the first `MOST_SAMPLES` samples, in nats."""
        samples, labels = self.samples[:MOST_SAMPLES], self.labels[:MOST_SAMPLES]
        was_training = self.network.training
        logits = logits_of(self.network, samples, self.batch_size)
        self.network.set_train(was_training)
        return cross_entropy(logits, labels)
