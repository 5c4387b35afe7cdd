"""The words of which optimizers and training loops make names, as evidence of what a tensor is, never as proof.

MindSpore names a state by a prefix before the whole name of its parameter (`ParameterTuple.clone(prefix)`), as in
`exp_avg.layers.0.weight`; some optimizers join the two with `_` (`eta_layers.0.weight`). Prefixes are read by words
rather than looked up, so that `exp_avg_insta_row`, `muon_m` or `momentum_buffer` need no list. The words are those of
the optimizers of MindSpore 2.10 (`nn`, `mint.optim`, `experimental.optim`) and MindFormers.
"""

from __future__ import annotations

import re
from functools import lru_cache

# fmt: off
_CORE = frozenset({
    "accu", "accum", "accumulated", "accumulation", "accumulator", "adadelta", "adafactor", "adagrad", "adam", "adamw",
    "avg", "ax", "came", "delta", "eta", "exp", "grad", "gradient", "gradients", "grads", "lamb", "linear", "lion",
    "mean", "moment", "moment1", "moment2", "moments", "momentum", "mu", "muon", "prev", "rmsprop", "sgd", "sophia",
    "square", "stat", "step", "v1", "velocity", "vhat",
})
"""A prefix has at least one of these …"""
_MODIFIERS = frozenset({
    "0", "1", "2", "3", "buf", "buffer", "buffers", "col", "dn", "first", "h", "hat", "hessian", "inf", "init",
    "insta", "m", "max", "min", "norm", "proj", "res", "row", "second", "size", "sq", "squared", "state", "sum", "t",
    "update", "v", "weight", "x", "y", "z",
})
"""… and otherwise no word but these."""
_TELLING = frozenset({"moment1", "moment2", "vhat"})
"""Of these, one is enough: no layer is called so …"""
_TELLING_BESIDE_OTHERS = frozenset({
    "accu", "accum", "adadelta", "adafactor", "adagrad", "adam", "adamw", "lamb", "lion", "moment", "moments",
    "momentum", "muon", "rmsprop", "sgd", "sophia", "velocity",
})
"""… of these, one beside other such words: adam_m …"""
# fmt: on
_TELLING_TOGETHER = ({"exp", "avg"}, {"exp", "inf"}, {"mean", "square"}, {"mean", "grad"}, {"accumulated", "grads"})
"""… and of these, both. `linear_proj` may well be a layer."""
_OPTIMIZERS = frozenset({"optim", "optimizer", "opt", "optimizers"})

_OF_AN_OPTIMIZER = frozenset({"lr", "rate", "beta1", "beta2", "momentum", "decay"})
# fmt: off
_OF_TRAINING = _OF_AN_OPTIMIZER | {
    "batch", "epoch", "fake", "graceful", "iter", "iterator", "loss", "overflow", "rank", "sense", "step", "steps",
}
_FILLING = frozenset({
    "a", "afactor", "cov", "cur", "current", "exception", "exit", "global", "group", "init", "last", "learning", "num",
    "param", "power", "save", "scale", "state", "t", "total", "weight",
})
# fmt: on

_THOR = re.compile(r"matrix_[ag]_inv_\d+|matrix_max\d*|.+\.(matrix_[ag](_cov)?|[ag]_normalizer)")
THORS_COUNTER = "cov_step"


@lru_cache(maxsize=1024)
def reads_like_state(prefix: str) -> bool:
    """Whether one of the dotted parts of `prefix` is made of an optimizer's words alone."""
    return any(_is_word_of_states(part) for part in prefix.split("."))


@lru_cache(maxsize=1024)
def is_telling(prefix: str) -> bool:
    """Whether no layer would be called `prefix`, as `adam_m` or `exp_avg`; `linear` and `moments` may be ones."""
    return names_optimizer(prefix) or any(_is_telling(set(_words(part))) for part in prefix.split("."))


def names_optimizer(name: str) -> bool:
    """Whether a dotted part of `name` says that what follows is an optimizer's."""
    return any(part in _OPTIMIZERS for part in name.lower().split(".")[:-1]) or name.lower() in _OPTIMIZERS


def reads_like_counter(name: str) -> bool:
    """Whether the name of a scalar is one of training's: steps, learning rates, powers of beta, a loss scale."""
    first, _, rest = name.partition(".")
    words = set(_words(first if rest and not names_optimizer(name) else name.rpartition(".")[2]))
    if rest and not names_optimizer(name) and not words & _OF_AN_OPTIMIZER:
        return False
    return bool(words & _OF_TRAINING) and words <= _OF_TRAINING | _FILLING | {word for word in words if word.isdigit()}


def is_of_an_optimizer(name: str) -> bool:
    """Whether the name of a scalar is one that optimizers themselves save, and nobody else."""
    words = _words(name.rpartition(".")[2])
    return reads_like_counter(name) and (bool(_OF_AN_OPTIMIZER & set(words)) or name in ("state_step", "step_t"))


def is_thors(name: str) -> bool:
    """Whether the second-order optimizer THOR keeps a matrix under this name."""
    return _THOR.fullmatch(name) is not None


def _is_word_of_states(part: str) -> bool:
    words = _words(part)
    return bool(_CORE & set(words)) and set(words) <= _CORE | _MODIFIERS


def _is_telling(words: set[str]) -> bool:
    if not words <= _CORE | _MODIFIERS:
        return False
    together = any(both <= words for both in _TELLING_TOGETHER)
    return together or bool(words & _TELLING) or (len(words) > 1 and bool(words & _TELLING_BESIDE_OTHERS))


def _words(text: str) -> list[str]:
    return [word for word in text.lower().split("_") if word]
