"""The logits that the sharded ranks compute at the end of training, for validation to compare the merged model with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from tasks import atomic

SAMPLES = 64


def logits_of(network: Any, images: NDArray[np.float32], batch_size: int) -> NDArray[np.float32]:
    """The sharded `network`'s logits float32 [N, classes] of `images`, in batches of the size it was built for."""
    network.set_train(False)
    padded = np.resize(images, (-(-len(images) // batch_size) * batch_size, *images.shape[1:]))
    batches = [network(Tensor(batch)).asnumpy() for batch in np.split(padded, len(padded) // batch_size)]
    logits: NDArray[np.float32] = np.concatenate(batches)[: len(images)]
    return logits


def save_reference(
    file: Path, images: NDArray[np.float32], labels: NDArray[np.int32], logits: NDArray[np.float32]
) -> None:
    """Write images, labels and logits to `file` as a whole."""
    content = io.BytesIO()
    np.savez(content, images=images, labels=labels, logits=logits)
    atomic.write_bytes(file, content.getvalue())
