"""The loss of a merged model, computed apart from training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def cross_entropy(logits: npt.NDArray[np.float32], labels: npt.NDArray[Any]) -> float:
    """Mean cross entropy in nats of logits [..., classes] and labels [...], in float64."""
    from scipy.special import log_softmax

    chosen = np.take_along_axis(log_softmax(logits.astype(np.float64), axis=-1), labels[..., None], axis=-1)
    return float(-chosen.mean())
