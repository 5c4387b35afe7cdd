"""A text that a language model writes: token by token, each drawn from what the model expects next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shardline.networks.train_spec import Logits


@dataclass(frozen=True)
class Sampling:
    """How many tokens are drawn, and how.

    At `temperature` 0 the likeliest token is taken, at 1 one is drawn as the model expects it; `seed` decides which.
    """

    length: int
    temperature: float
    seed: int


def generate(logits: Logits, prompt: bytes, window: int, sampling: Sampling) -> bytes:
    """`prompt` and the tokens that a byte-level model, which sees the last `window` tokens, puts behind it."""
    generator = np.random.default_rng(sampling.seed)
    tokens = list(prompt)
    for _ in range(sampling.length):
        seen = tokens[-window:]
        # Filled up behind: a causal model's logits do not depend on what comes later.
        sample = np.zeros((1, window), np.int32)
        sample[0, : len(seen)] = seen
        tokens.append(_drawn(logits(sample)[0, len(seen) - 1], sampling.temperature, generator))
    return bytes(tokens)


def _drawn(scores: npt.NDArray[np.float32], temperature: float, generator: np.random.Generator) -> int:
    from scipy.special import softmax

    if temperature == 0:
        return int(scores.argmax())
    return int(generator.choice(len(scores), p=softmax(scores.astype(np.float64) / temperature)))
