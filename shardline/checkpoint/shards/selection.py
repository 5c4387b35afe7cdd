"""Which tensors go into the output, and in which element type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.file_index import Schema
from shardline.checkpoint.formats.tensor_types import CASTS, TEXT, TensorType

_STATE_PREFIXES = frozenset(
    {
        "accu_grads",
        "accum",
        "accum_update",
        "adam_m",
        "adam_v",
        "ax",
        "ax_",
        "delta_weight",
        "dn_init",
        "exp_avg",
        "exp_avg_sq",
        "exp_inf",
        "grad_accumulation",
        "grad_proj_init",
        "grad_res_momentum",
        "lamb_m",
        "lamb_v",
        "linear",
        "max_exp_avg_sq",
        "mean_grad",
        "mean_square",
        "moment",
        "moment1",
        "moment2",
        "moments",
        "prev",
        "stat",
        "step_size",
        "velocity",
        "vhat",
    }
)
"""What the optimizers and training wrappers of MindSpore 2.10 put before a parameter's name to name its states."""


_TRAINING_SCALARS = frozenset(
    {
        "beta1_power",
        "beta2_power",
        "cov_step",
        "current_iterator_step",
        "decay_steps",
        "epoch_num",
        "global_step",
        "last_overflow_iterator_step",
        "learning_rate",
        "loss_scale",
        "momentum",
        "scale_sense",
        "step_num",
        "weight_decay",
    }
)
"""Scalars that training saves beside the network; without a strategy nothing but their names tells them apart."""


@dataclass(frozen=True)
class Selection:
    """What to keep. A tensor is kept if a pattern of `include` matches its name (or there is none) and none of
    `exclude` does.

    `weights_only` leaves out optimizer states and the scalars and strings that training saves beside the network;
    `known_only` leaves out whatever the strategy doesn't know. `dtype` casts floating-point tensors.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    weights_only: bool = False
    known_only: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in CASTS:
            raise ConfigError(f"dtype {self.dtype!r}: expected one of {', '.join(CASTS)}")

    def choose(self, names: Sequence[str], known: AbstractSet[str] | None, schemas: Iterable[Schema]) -> list[str]:
        """The names to keep, in order. `known` are those that the strategy knows; `None` where there is none."""
        everything = set(names)
        incidental = _incidental(schemas, known) if self.weights_only else set()
        return [
            name
            for name in names
            if self._matches(name)
            and not (self.known_only and known is not None and name not in known)
            and not (self.weights_only and (is_optimizer_state(name, everything) or name in incidental))
        ]

    def target(self, source: TensorType) -> TensorType:
        """The element type that a tensor of type `source` is written in."""
        return CASTS[self.dtype] if self.dtype and source.is_floating else source

    def _matches(self, name: str) -> bool:
        included = not self.include or any(fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatchcase(name, pattern) for pattern in self.exclude)


def is_optimizer_state(name: str, names: set[str]) -> bool:
    """Whether `name` reads `STATE.PARAMETER`, as in moment1.layer1.weight, and that parameter is there."""
    prefix, _, parameter = name.partition(".")
    return prefix in _STATE_PREFIXES and parameter in names


def _incidental(schemas: Iterable[Schema], known: AbstractSet[str] | None) -> set[str]:
    """Scalars and strings that are no parameters of the network: steps, learning rates, powers of beta."""
    headers = {header for schema in schemas for header in schema.headers}
    small = {header.name for header in headers if header.type is TEXT or header.shape in ((), (1,))}
    text = {header.name for header in headers if header.type is TEXT}
    return text | (small & _TRAINING_SCALARS) | (small - known if known is not None else set())


def selection_record(selection: Selection) -> dict[str, Any]:
    """The selection as it stands in merge.json."""
    return {
        "include": list(selection.include),
        "exclude": list(selection.exclude),
        "weights_only": selection.weights_only,
        "known_only": selection.known_only,
        "dtype": selection.dtype,
    }


def selection_from(record: Mapping[str, Any]) -> Selection:
    """The selection that `selection_record` described."""
    return Selection(
        include=tuple(record["include"]),
        exclude=tuple(record["exclude"]),
        weights_only=bool(record["weights_only"]),
        known_only=bool(record["known_only"]),
        dtype=record["dtype"],
    )
