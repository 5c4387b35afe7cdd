"""Which samples each step takes: a function of the seed and the step alone, so that a resumed run goes on exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardline.base.errors import ConfigError


class Batches:
    """Batches by global step, from 0. Epoch e, from 1, is permuted by [seed, e]; the remainder is dropped."""

    def __init__(self, samples: NDArray[Any], labels: NDArray[Any], batch_size: int, seed: int) -> None:
        if len(labels) < batch_size:
            raise ConfigError(f"batch_size {batch_size} is more than the {len(labels)} training samples; lower it")
        self.steps_per_epoch = len(labels) // batch_size
        self._samples, self._labels = samples, labels
        self._batch_size, self._seed = batch_size, seed
        self._epoch, self._order = 0, np.empty(0, np.int64)

    def position(self, step: int) -> tuple[int, int]:
        """The epoch, and the step within it, both from 1, of the global step counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return epoch + 1, index + 1

    def is_last_of_epoch(self, step: int) -> bool:
        """Whether an epoch ends with the global step counted from 0."""
        return (step + 1) % self.steps_per_epoch == 0

    def at(self, step: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Samples [batch, ...], float32 or int32, and labels int32 [batch, ...] of one step."""
        epoch, index = self.position(step)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self._labels))
        chosen = self._order[(index - 1) * self._batch_size : index * self._batch_size]
        return as_taken(self._samples[chosen]), as_taken(self._labels[chosen])


def as_taken(batch: NDArray[Any]) -> NDArray[Any]:
    """A batch of samples or labels in the type that a network takes: int32 for integers of any type."""
    return batch.astype(np.int32) if np.issubdtype(batch.dtype, np.integer) else batch
