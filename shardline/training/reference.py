"""The logits that the sharded ranks compute at the end of training, for validation to compare the merged model with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from shardline.base import atomic

SAMPLES = 64


def logits_of(network: Any, samples: NDArray[Any], batch_size: int) -> NDArray[np.float32]:
    """The sharded `network`'s logits float32 [N, ..., classes] of `samples`, in batches of its own size."""
    network.set_train(False)
    padded = np.resize(samples, (-(-len(samples) // batch_size) * batch_size, *samples.shape[1:]))
    batches = [network(Tensor(batch)).asnumpy() for batch in np.split(padded, len(padded) // batch_size)]
    logits: NDArray[np.float32] = np.concatenate(batches)[: len(samples)]
    return logits


def save_reference(file: Path, samples: NDArray[Any], labels: NDArray[Any], logits: NDArray[np.float32]) -> None:
    """Write samples, labels and logits to `file` as a whole."""
    content = io.BytesIO()
    np.savez(content, samples=samples, labels=labels, logits=logits)
    atomic.write_bytes(file, content.getvalue())
