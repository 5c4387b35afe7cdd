"""What each tensor of a checkpoint is: a weight, a state of an optimizer, or something that training saves beside them.

No name proves it: `linear.dense.weight` is a state of nn.FTRL or the weight of a layer. What tells is how names, shapes
and layouts stand to one another. A *family* is a prefix that stands, with `.` or `_`, before the whole names of
parameters whose shapes its members fit. It is taken for an optimizer's states where it reads like one and the rest of
the set bears it out; whatever has states of its own is a weight. Families that could as well be copies of the network
(`ema.`, `teacher.`) are undecided, and whoever asks is told.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from shardline.base.errors import LayoutError
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.tensor_types import TEXT
from shardline.checkpoint.shards import state_names
from shardline.checkpoint.strategy.layout import Layout

_SEPARATOR = re.compile(r"[._]")
_LONGEST = 4096
"""Characters: no network gives longer names, and a file may hold one of millions to keep a reader busy."""
_STATISTICS = (".moving_mean", ".moving_variance")
"""What ends the names of weights that no optimizer keeps states of: BatchNorm's."""


class Role(Enum):
    """What a tensor is for."""

    WEIGHT = "weight"
    STATE = "state"
    BESIDE = "beside"
    """A counter, a rate or a text that training saves beside the network."""
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Trait:
    """What is known of a tensor before its values are: the shape in a file, and how the strategy cuts it.

    `is_discrete` says that it holds whole numbers or flags.
    """

    shape: tuple[int, ...] | None = None
    layout: Layout | None = None
    is_text: bool = False
    is_discrete: bool = False

    @property
    def dimensions(self) -> int | None:
        if self.shape is not None:
            return len(self.shape)
        return len(self.layout.tensor_map) if self.layout is not None else None

    def whole_shape(self) -> tuple[int, ...] | None:
        """The shape of the whole tensor, as far as shape and layout agree."""
        if self.shape is None or self.layout is None:
            return self.shape
        try:
            return self.layout.full_shape(self.shape)
        except LayoutError:
            return self.shape

    def is_small(self) -> bool:
        """Whether it is at most one number."""
        return not self.dimensions if self.shape is None else self.shape in ((), (1,))


@dataclass(frozen=True)
class _Family:
    """A prefix and its members: the tensor's name → the parameter's."""

    prefix: str
    members: Mapping[str, str]

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(self.members.values())


def parameter_of(name: str, names: AbstractSet[str] | Mapping[str, object]) -> str | None:
    """The longest of `names` that stands after a prefix and `.` or `_` in `name`; `None` where none does."""
    return next((parameter for _, parameter in _splits(name, names)), None)


def fits(state: Trait, parameter: Trait, *, is_telling: bool = True) -> bool:
    """Whether a state may have these traits: one element for each of the parameter's, one for all, or one for each row
    or column (Adafactor). Layouts of as many dimensions must cut them alike; where the name `is_telling`, the state may
    be cut further along dimension 0 (optimizer sharding).
    """
    if state.is_text:
        return False
    if state.dimensions is None or parameter.dimensions is None or state.is_small():
        return True
    if _are_cut_otherwise(state, parameter):
        return False
    if state.shape is None or parameter.shape is None:
        return state.dimensions in (parameter.dimensions, parameter.dimensions - 1)
    pairs = ((state.shape, parameter.shape), (state.whole_shape(), parameter.whole_shape()))
    return any(_shapes_fit(one or (), other or (), is_telling) for one, other in pairs)


def _are_cut_otherwise(state: Trait, parameter: Trait) -> bool:
    """Whether layouts of as many dimensions differ in more than optimizer sharding."""
    ours, theirs = state.layout, parameter.layout
    if ours is None or theirs is None or state.dimensions != parameter.dimensions:
        return False
    return (ours.device_matrix, ours.tensor_map) != (theirs.device_matrix, theirs.tensor_map)


def _shapes_fit(state: tuple[int, ...], parameter: tuple[int, ...], is_telling: bool) -> bool:
    if state == parameter or state in (parameter[:-1], parameter[:-2] + parameter[-1:]):
        return True
    is_cut = len(state) == len(parameter) > 0 and state[1:] == parameter[1:] and 0 < state[0] < parameter[0]
    return is_telling and is_cut and parameter[0] % state[0] == 0


def cut_like(header: TensorHeader, layouts: Mapping[str, Layout], headers: Mapping[str, TensorHeader]) -> str | None:
    """The parameter in `layouts` that a tensor that they don't know must be cut like, if it is a state or copy of it.

    `headers` are those of the same files. `None` where that one isn't cut, or the tensor has the whole one's shape.
    """
    split, ours = next(_splits(header.name, layouts), None), Trait(header.shape, is_text=header.type is TEXT)
    if split is None or ours.is_text or ours.is_small() or max(layouts[split[1]].shards(), default=1) == 1:
        return None
    prefix, parameter = split
    if parameter not in headers:
        return parameter if ours.dimensions == len(layouts[parameter].tensor_map) else None
    theirs = Trait(headers[parameter].shape, layouts[parameter])
    is_like_state = state_names.reads_like_state(prefix) and fits(ours, Trait(theirs.shape))
    is_whole = fits(ours, Trait(theirs.whole_shape()), is_telling=False)
    return parameter if (ours.shape == theirs.shape or is_like_state) and not is_whole else None


def would_be_cut(header: TensorHeader, layouts: Mapping[str, Layout], headers: Mapping[str, TensorHeader]) -> bool:
    """Whether a whole tensor that `layouts` don't know would have to be cut, if it is a state or copy of a parameter.

    `headers` are those of the whole tensors. States for each row or column are cut where these dimensions are.
    """
    split = next(_splits(header.name, layouts), None)
    if split is None or split[1] not in headers:
        return False
    prefix, parameter = split
    shape, shards = headers[parameter].shape, layouts[parameter].shards()
    last = len(shape) - 1
    kept = [tuple(range(last + 1))]
    if state_names.reads_like_state(prefix) and last > 0:
        kept += [tuple(range(last)), (*range(last - 1), last)]
    return any(
        header.shape == tuple(shape[axis] for axis in axes) and any(shards[axis] > 1 for axis in axes) for axes in kept
    )


def roles_of(traits: Mapping[str, Trait], *, has_strategy: bool) -> dict[str, Role]:
    """The role of every tensor in `traits`. With a strategy, those without a layout are unknown to it."""
    return _Roles(traits, has_strategy).decide()


def _splits(name: str, names: AbstractSet[str] | Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Every (prefix, parameter) that `name` can be read as, the longest parameter first."""
    if len(name) > _LONGEST:
        return
    for match in _SEPARATOR.finditer(name, 1):
        if name[match.end() :] in names:
            yield name[: match.start()], name[match.end() :]


class _Roles:
    """The evidence in one set of tensors."""

    def __init__(self, traits: Mapping[str, Trait], has_strategy: bool) -> None:
        self.traits, self.has_strategy = traits, has_strategy
        self.splits = {name: [split for split in _splits(name, traits) if self._fits(name, *split)] for name in traits}
        self.roots = frozenset(name for name, splits in self.splits.items() if not splits and not self._counts(name))
        self.with_states = self._with_states()
        self._trained = {name for name in self.roots if not name.endswith(_STATISTICS)}

    def decide(self) -> dict[str, Role]:
        roles = {name: Role.BESIDE if self._is_beside(name) else Role.WEIGHT for name in self.traits}
        families = self._families()
        accepted = self._accepted([family for family in families if self._is_called_like_states(family)])
        for family in families:
            if family in accepted:
                role = Role.STATE
            elif self._may_be_copy(family, accepted):
                role = Role.UNDECIDED
            else:
                continue
            roles |= dict.fromkeys(family.members, role)
        for name, trait in self.traits.items():
            if roles[name] is Role.WEIGHT and self._is_unexplained(name, trait):
                roles[name] = Role.UNDECIDED
            elif state_names.THORS_COUNTER in self.traits and state_names.is_thors(name):
                roles[name] = Role.STATE
        return roles

    def _fits(self, name: str, prefix: str, parameter: str) -> bool:
        return fits(self.traits[name], self.traits[parameter], is_telling=state_names.is_telling(prefix))

    def _with_states(self) -> frozenset[str]:
        """What has states of its own in a family that has those of others as well: a state has none."""
        members: dict[str, set[str]] = defaultdict(set)
        for splits in self.splits.values():
            for prefix, parameter in splits:
                if state_names.reads_like_state(prefix):
                    members[prefix].add(parameter)
        return frozenset(name for parameters in members.values() if parameters & self.roots for name in parameters)

    def _families(self) -> list[_Family]:
        weights = self.roots | self.with_states
        members: dict[str, dict[str, str]] = defaultdict(dict)
        for name, splits in self.splits.items():
            if name in weights:
                continue
            for prefix, parameter in splits:
                if parameter in weights:
                    members[prefix][name] = parameter
                    break
        return [_Family(prefix, found) for prefix, found in members.items()]

    def _is_called_like_states(self, family: _Family) -> bool:
        """Whether its prefix reads so and a dot follows it; none need where it is telling or has numbers alone."""
        has_dots = all(name[len(family.prefix)] == "." for name in family.members)
        is_sure = state_names.is_telling(family.prefix) or all(self.traits[name].is_small() for name in family.members)
        return state_names.reads_like_state(family.prefix) and (has_dots or is_sure)

    def _accepted(self, families: list[_Family]) -> list[_Family]:
        """The families whose reading as states the rest of the set bears out."""
        sure = [each for each in families if state_names.is_telling(each.prefix) or self._is_borne_out(each, families)]
        if sure or not families:
            return sure
        largest = max(families, key=lambda each: len(each.members))
        overlaps = any(other.parameters & largest.parameters for other in families if other is not largest)
        return [largest] if not overlaps and self._must_be_the_optimizers(largest) else []

    def _is_borne_out(self, family: _Family, families: list[_Family]) -> bool:
        """Whether another family is of exactly the same parameters, and these are most, or an optimizer was saved.

        Optimizers mostly keep several states; two layers that hold copies of a third are an accident.
        """
        if not self._has_optimizer and 2 * len(family.parameters & self._trained) < len(self._trained):
            return False
        return any(other is not family and other.parameters == family.parameters for other in families)

    def _must_be_the_optimizers(self, family: _Family) -> bool:
        """Whether an optimizer was saved, of which nothing else can be the states."""
        if self._is_absent(family):
            return self._trained <= family.parameters
        if self._has_optimizer:
            return True
        has_counters = any(map(self._is_beside, self.traits))
        return self._trained <= family.parameters and (has_counters or self._is_unknown(family))

    @cached_property
    def _has_optimizer(self) -> bool:
        """Whether a number is there that optimizers alone save."""
        return any(self._is_beside(name) and state_names.is_of_an_optimizer(name) for name in self.traits)

    def _is_absent(self, family: _Family) -> bool:
        """Whether files have all of the parameters and none of the family."""
        has_shape = {name for name, trait in self.traits.items() if trait.shape is not None}
        return family.parameters <= has_shape and not has_shape & family.members.keys()

    def _is_unknown(self, family: _Family) -> bool:
        """Whether the strategy knows the parameters and not one of the family."""
        known = {name for name, trait in self.traits.items() if trait.layout is not None}
        return self.has_strategy and family.parameters <= known and not known & family.members.keys()

    def _may_be_copy(self, family: _Family, accepted: list[_Family]) -> bool:
        """Whether it could be states, or a copy of all that is trained; a layer is of a few names only."""
        if self._is_called_like_states(family) or self._trained <= family.parameters:
            return True
        if accepted:
            return any(family.parameters == other.parameters for other in accepted)
        return self._has_optimizer and 2 * len(family.parameters & self._trained) >= len(self._trained)

    def _counts(self, name: str) -> bool:
        trait = self.traits[name]
        is_list = trait.dimensions == 1 and state_names.is_of_an_optimizer(name)
        return (trait.is_small() or is_list) and state_names.reads_like_counter(name)

    def _is_beside(self, name: str) -> bool:
        """Texts, training's counters, and other whole numbers and flags at the top that the strategy doesn't know."""
        trait = self.traits[name]
        if name in self.with_states:
            return False
        is_flag = trait.is_discrete and trait.is_small() and "." not in name and not self.splits[name]
        return trait.is_text or self._counts(name) or (is_flag and trait.layout is None)

    def _is_unexplained(self, name: str, trait: Trait) -> bool:
        """A single number that the strategy doesn't know and that has no states."""
        is_foreign = self.has_strategy and trait.layout is None
        return is_foreign and trait.is_small() and name not in self.with_states
