"""The loss of a merged model, computed apart from training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def cross_entropy(logits: npt.NDArray[np.float32], labels: npt.NDArray[Any]) -> float:
    """Mean cross entropy in nats of logits [..., classes] and labels [...], in float64."""
    return float(cross_entropy_by_label(logits, labels).mean())


def cross_entropy_by_label(logits: npt.NDArray[np.float32], labels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The cross entropy [...] of every label, in nats, in float64."""
    from scipy.special import log_softmax

    logarithms = log_softmax(logits.astype(np.float64), axis=-1)
    chosen: npt.NDArray[np.float64] = np.take_along_axis(logarithms, labels[..., None].astype(np.int64), axis=-1)
    return -chosen[..., 0]
