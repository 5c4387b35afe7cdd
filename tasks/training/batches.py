"""Which samples each step takes: a function of the seed and the step alone, so that a resumed run goes on exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ConfigError


class Batches:
    """Batches by global step, from 0. Epoch e, from 1, is permuted by [seed, e]; the remainder is dropped."""

    def __init__(self, images: NDArray[np.float32], labels: NDArray[np.int32], batch_size: int, seed: int) -> None:
        if len(labels) < batch_size:
            raise ConfigError(f"batch_size {batch_size} is more than the {len(labels)} training samples; lower it")
        self.steps_per_epoch = len(labels) // batch_size
        self._images, self._labels = images, labels
        self._batch_size, self._seed = batch_size, seed
        self._epoch, self._order = 0, np.empty(0, np.int64)

    def position(self, step: int) -> tuple[int, int]:
        """The epoch, and the step within it, both from 1, of the global step counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return epoch + 1, index + 1

    def at(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Images float32 [batch, 1, 28, 28] and labels int32 [batch] of one step."""
        epoch, index = self.position(step)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(len(self._labels))
        chosen = self._order[(index - 1) * self._batch_size : index * self._batch_size]
        return self._images[chosen], self._labels[chosen]
