"""Shard sets of very large models as the planner sees them: real headers, manifest and strategies, no payload.

A transformer's weights (bfloat16; norms float32) and both moments of Adam (float32) over pipeline stages, each with the
device matrix [data, tensor]. Weights are split on rows, on columns or not at all; every slice of a weight is on `data`
ranks. The moments are optimizer-sharded among those. The files are sparse: they have the true size, and a header.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.safetensors_file import encode_header, layout_order
from shardline.checkpoint.formats.tensor_types import BFLOAT16, FLOAT32, TensorType
from shardline.checkpoint.shards.shard_set import ShardSet, SliceFile
from shardline.checkpoint.strategy.layout import Layout
from shardline.checkpoint.strategy.strategy_file import OperatorStrategy, Strategy, write_strategy

ROWS, COLUMNS, VECTOR, WHOLE = ((0,), ()), ((), (0,)), ((0,),), ((),)
_DIGEST = "0" * 64
Parameter = tuple[str, tuple[int, ...], TensorType, Layout]


@dataclass(frozen=True)
class Model:
    """A transformer of `layers` layers of `width` features over data × tensor × pipeline cards."""

    data: int
    tensor: int
    pipeline: int
    width: int
    layers: int
    vocabulary: int = 128_000

    @property
    def cards(self) -> int:
        return self.data * self.tensor * self.pipeline

    @property
    def ranks_per_stage(self) -> int:
        return self.data * self.tensor

    @property
    def parameters(self) -> int:
        """The number of weights, biases and norms included."""
        layer = 12 * self.width**2 + 13 * self.width
        return self.layers * layer + 2 * self.vocabulary * self.width + 2 * self.width

    def stage(self, number: int) -> list[Parameter]:
        """Name, whole shape, type and layout of everything that the ranks of one pipeline stage save."""
        layers = self.layers // self.pipeline
        shapes = [("embedding.table", (self.vocabulary, self.width), ROWS)] if number == 0 else []
        for layer in range(number * layers, (number + 1) * layers):
            shapes += [(f"layers.{layer}.{name}", shape, place) for name, shape, place in self._layer]
        if number == self.pipeline - 1:
            shapes += [("head.weight", (self.vocabulary, self.width), ROWS), *_norm("norm", self.width)]
        return [each for shape in shapes for each in self._with_moments(*shape)]

    @cached_property
    def _layer(self) -> list[tuple[str, tuple[int, ...], tuple[tuple[int, ...], ...]]]:
        width = self.width
        return [
            ("attention.qkv.weight", (3 * width, width), ROWS),
            ("attention.qkv.bias", (3 * width,), VECTOR),
            ("attention.output.weight", (width, width), COLUMNS),
            ("attention.output.bias", (width,), WHOLE),
            *_norm("attention.norm", width),
            ("mlp.up.weight", (4 * width, width), ROWS),
            ("mlp.up.bias", (4 * width,), VECTOR),
            ("mlp.down.weight", (width, 4 * width), COLUMNS),
            ("mlp.down.bias", (width,), WHOLE),
            *_norm("mlp.norm", width),
        ]

    def _with_moments(
        self, name: str, shape: tuple[int, ...], tensor_map: tuple[tuple[int, ...], ...]
    ) -> Iterator[Parameter]:
        matrix = (self.data, self.tensor)
        yield name, shape, FLOAT32 if "norm" in name else BFLOAT16, Layout(matrix, tensor_map)
        sharded = Layout(matrix, tensor_map, self.tensor, -1) if tensor_map != WHOLE else Layout(matrix, tensor_map)
        for moment in ("moment1", "moment2"):
            yield f"{moment}.{name}", shape, FLOAT32, sharded


def _norm(name: str, width: int) -> list[tuple[str, tuple[int, ...], tuple[tuple[int, ...], ...]]]:
    return [(f"{name}.gamma", (width,), WHOLE), (f"{name}.beta", (width,), WHOLE)]


def save(folder: Path, model: Model, *, keeps_replicas: bool) -> list[Path]:
    """Lay out the shard set of `model` under `folder`/shards, and return the stages' strategy files.

    Every rank's file holds all its slices, or, unless `keeps_replicas`, each slice is on one of its ranks alone, shared
    out as `shardline.training.redundancy` does it.
    """
    shards, strategies, slices = folder / "shards", [], []
    shards.mkdir()
    for stage in range(model.pipeline):
        parameters = model.stage(stage)
        strategies.append(folder / f"strategy_{stage}.ckpt")
        operators = {"MatMul": OperatorStrategy(stage, ((model.data, 1), (1, model.tensor)))}
        layouts = {name: layout for name, _, _, layout in parameters}
        write_strategy(Strategy(stage, operators, layouts), strategies[-1])
        whole = _content(parameters, {}) if keeps_replicas else None
        held = [] if keeps_replicas else _shared_out(parameters, model.ranks_per_stage)
        for local in range(model.ranks_per_stage):
            content = whole or _content(held[local], {"remove_redundancy": "True"})
            slices.append(_write(shards, stage * model.ranks_per_stage + local, *content))
    ShardSet(model.cards, 1, 1, "", "", integrated=False, slices=tuple(slices)).write(shards)
    return strategies


def _shared_out(parameters: list[Parameter], ranks: int) -> list[list[Parameter]]:
    """What each rank saves where each slice is saved once, by the holder that has the fewest bytes so far."""
    load, held = [0] * ranks, [list[Parameter]() for _ in range(ranks)]
    for parameter in sorted(parameters, key=lambda parameter: (-_slice(parameter).size, parameter[0])):
        size = _slice(parameter).size
        for holders in parameter[3].replica_groups():
            saver = min(holders, key=load.__getitem__)
            load[saver] += size
            held[saver].append(parameter)
    return held


def _slice(parameter: Parameter) -> TensorHeader:
    name, shape, tensor_type, layout = parameter
    return TensorHeader(name, tensor_type, layout.slice_shape(shape))


def _content(parameters: list[Parameter], metadata: dict[str, str]) -> tuple[bytes, int]:
    """What a rank's file begins with, and how long it is in all."""
    headers = [_slice(parameter) for parameter in parameters]
    header = encode_header(layout_order(headers), metadata)
    return header, len(header) + sum(each.size for each in headers)


def _write(shards: Path, rank: int, header: bytes, size: int) -> SliceFile:
    path = shards / f"rank_{rank}" / "large-1_1.safetensors"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)
    return SliceFile(rank, str(path.relative_to(shards)), size, _DIGEST)
