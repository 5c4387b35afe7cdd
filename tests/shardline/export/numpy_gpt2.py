"""GPT-2 as `transformers` computes it (modeling_gpt2.py), in NumPy: Conv1D is x @ weight + bias, Linear x @ weight.T"""

from math import pi, sqrt

import numpy as np


def gpt2_logits(weights: dict, config: dict, ids: np.ndarray) -> np.ndarray:
    """float64 [N, positions, vocabulary] of the token ids [N, positions]."""
    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][: ids.shape[1]]
    for number in range(config["n_layer"]):
        block = {
            name.removeprefix(f"transformer.h.{number}."): array
            for name, array in weights.items()
            if name.startswith(f"transformer.h.{number}.")
        }
        x = x + _attention(_norm(x, block, "ln_1", config), block, config["n_head"])
        y = _gelu_new(_conv1d(_norm(x, block, "ln_2", config), block, "mlp.c_fc"))
        x = x + _conv1d(y, block, "mlp.c_proj")
    return _norm(x, weights, "transformer.ln_f", config) @ weights["lm_head.weight"].T


def _attention(x, block, heads):
    batch, positions, hidden = x.shape
    query, key, value = (
        part.reshape(batch, positions, heads, hidden // heads).transpose(0, 2, 1, 3)
        for part in np.split(_conv1d(x, block, "attn.c_attn"), 3, axis=-1)
    )
    scores = query @ key.transpose(0, 1, 3, 2) / sqrt(hidden // heads)
    scores = np.where(np.tri(positions, dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = scores / scores.sum(-1, keepdims=True) @ value
    return _conv1d(mixed.transpose(0, 2, 1, 3).reshape(batch, positions, hidden), block, "attn.c_proj")


def _conv1d(x, block, name):
    return x @ block[f"{name}.weight"] + block[f"{name}.bias"]


def _norm(x, block, name, config):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_epsilon"])
    return scaled * block[f"{name}.weight"] + block[f"{name}.bias"]


def _gelu_new(x):
    return 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
