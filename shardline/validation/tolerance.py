"""How far rounding may drive two computations of the same logits apart: the ranks' and the merged model's.

Both multiply the same matrices in the same precision; what differs is how sums are parted among ranks, and in which
order they are added. An error model gives the bound, from the network itself:

* A multiplication rounds two inputs and its output to a *unit roundoff* u (IEEE 754: half the distance from 1 to the
  next number): 2⁻²⁴ in float32, 2⁻¹¹ in float16, 2⁻⁸ in bfloat16. On cards, a multiplication "in float32" may be done
  in NVIDIA's TF32 (10 bits of fraction: 2⁻¹¹) or Ascend's HF32 (11 bits: 2⁻¹²) without MindSpore saying so.
* A sum of K products is accumulated in float32, with an error that grows as √K (Higham and Mary, A New Approach to
  Probabilistic Rounding Error Analysis, 2019).
* These errors are independent: they add up as squares do, over the D multiplications one after another, and over the
  two computations.

So a logit's difference has a standard deviation of at most √(2D) · √(3u² + K · (2⁻²⁴)²) of the greatest logit, and the
tolerance is 4 of these: of normally distributed differences, one in 16,000 is greater.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod, sqrt

from shardline.networks.operators import Operator

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""By the `precision` of a run: half the distance from 1 to the next greater number."""

CARDS_FLOAT32 = {"CPU": 2.0**-24, "GPU": 2.0**-11, "Ascend": 2.0**-12}
"""The unit roundoff of multiplications of float32 by device: TF32 on GPU and HF32 on Ascend may be used."""

_ROUNDINGS = 3
_DEVIATIONS = 4
_MULTIPLICATIONS = ("MatMul", "BatchMatMul", "Conv2D")


def tolerance_of(operators: Iterable[Operator], precision: str, device_target: str) -> float:
    """The greatest difference of two logits that rounding explains, relative to the greatest logit."""
    depth, terms = 1, 1
    depths: dict[str, int] = {}
    for operator in operators:
        multiplies = operator.primitive in _MULTIPLICATIONS
        before = max((depths.get(value.name, 0) for value in operator.inputs), default=0)
        depths[operator.output.name] = before + multiplies
        depth = max(depth, before + multiplies)
        if multiplies:
            terms = max(terms, _terms(operator))
    roundoff = max(UNIT_ROUNDOFF[precision], CARDS_FLOAT32[device_target])
    deviation = sqrt(2 * depth) * sqrt(_ROUNDINGS * roundoff**2 + terms * UNIT_ROUNDOFF["float32"] ** 2)
    return _DEVIATIONS * deviation


def _terms(operator: Operator) -> int:
    """How many products each number of a multiplication's output sums."""
    notation = operator.notation
    return prod(size for letter, size in operator.sizes.items() if letter not in notation.output)
