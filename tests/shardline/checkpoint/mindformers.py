"""MindFormers' own code for Checkpoint 2.0, where it is there: to write fixtures, and to read what we wrote.

Only its package `checkpoint` is imported, everything else that it asks for is a mock. For example:

    pip download --no-deps mindformers==2.1.0 && unzip mindformers-2.1.0-*.whl -d there
    PYTHONPATH=there pytest tests/shardline/checkpoint/formats/test_checkpoint2_mindformers.py
    PYTHONPATH=there:. python -m tests.shardline.checkpoint.mindformers     # writes the fixtures again
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import shutil
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoint2"
_OWN = "mindformers.checkpoint"


def is_there() -> bool:
    return importlib.util.find_spec("mindformers") is not None


class _Mocks:
    """Finds a mock for every module of MindFormers beyond its package `checkpoint`, and for hyper_parallel."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name.partition(".")[0] not in ("mindformers", "hyper_parallel") or name.startswith(f"{_OWN}."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> MagicMock:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__ = spec, []
        return module

    def exec_module(self, module: object) -> None:
        """A mock is complete as it is."""


def checkpoint_module(name: str) -> Any:
    """A module of the package `mindformers.checkpoint`."""
    if _OWN not in sys.modules:
        spec = importlib.util.find_spec("mindformers")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        root = Path(next(iter(spec.submodule_search_locations)))
        for package, folder in (("mindformers", root), (_OWN, root / "checkpoint")):
            module = types.ModuleType(package)
            module.__path__ = [str(folder)]  # without its __init__, which imports all the rest
            sys.modules[package] = module
        sys.meta_path.insert(0, _Mocks())
    return importlib.import_module(f"{_OWN}.{name}")


class Parameter:
    """One tensor of a run: its whole value, how MindFormers' `Layout` cuts it, and in which kind of file it goes."""

    def __init__(self, value: np.ndarray, layout: Any = None, is_weight: bool = True, dtype: Any = None) -> None:
        self.value, self.layout, self.is_weight, self.dtype = value, layout, is_weight, dtype


def save(
    folder: Path,
    iteration: int,
    ranks: Sequence[Mapping[str, Parameter]],
    balanced: bool = False,
    prefix: str | None = "run",
) -> None:
    """What a run of `len(ranks)` ranks saves, each holding its parameters, by MindFormers' and MindSpore's functions.

    `balanced` is MindFormers' `remove_redundancy`: each slice is saved by one rank.
    """
    sharded, metadata, utils = (checkpoint_module(name) for name in ("sharded_tensor", "metadata", "utils"))
    metas = {}
    for rank, parameters in enumerate(ranks):
        infos = {name: [one.layout, one.dtype, one.value.shape] for name, one in parameters.items()}
        metas[rank] = sharded.get_sharded_tensor_from_strategy_metadata(infos, rank)
    target = Path(utils.get_checkpoint_iter_dir(str(folder), iteration))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    weights = {name for parameters in ranks for name, one in parameters.items() if one.is_weight}
    if balanced:
        _save_balanced(target, ranks, metas, weights, prefix)
    else:
        sys.modules[f"{_OWN}.metadata"].get_group_size = lambda: len(ranks)
        for rank in range(len(ranks)):
            for kind in utils.FileType:
                names = [n for n in metas[rank] if (n in weights) == (kind is utils.FileType.MODEL)]
                path = utils.get_checkpoint_name(str(target), prefix, rank, len(ranks), kind)
                _save_file(path, {name: _part(ranks[rank][name], metas[rank][name]) for name in names}, ranks[rank])
        mappings = metadata.get_total_params_file_mapping_info(metas, prefix, weights)
        metadata.save_metadata(metas, mappings, str(target / "metadata.json"))
    checkpoint_module("checkpoint").CommonInfo(
        epoch_num=1, step_num=iteration, global_step=iteration, loss_scale=None, global_batch_size=32
    ).save_common(str(target / "common.json"))
    Path(utils.get_checkpoint_tracker_filename(str(folder))).write_text(str(iteration))


def _save_balanced(target: Path, ranks: Any, metas: Any, weights: set[str], prefix: str | None) -> None:
    parallel, utils = checkpoint_module("fully_parallel"), checkpoint_module("utils")
    parallel.get_real_rank = lambda: 0
    plans = []
    for kind in utils.FileType:
        is_model = kind is utils.FileType.MODEL
        mine = {r: {n: m for n, m in held.items() if (n in weights) == is_model} for r, held in metas.items()}
        payloads, assignment = parallel._compute_balanced_assignment_on_rank0(mine, len(ranks))
        plan = MagicMock(full_assignment=assignment, total_files_num=payloads[0][3])
        plans.append((plan, kind, None))
        for number, (rank, shards) in enumerate(assignment.items()):
            names = [utils._reverse_sharded_tensor_shard_id(shard)[0] for shard in shards]
            path = utils.get_checkpoint_name(str(target), prefix, number, payloads[0][3], kind)
            _save_file(path, {name: _part(ranks[rank][name], metas[rank][name]) for name in names}, ranks[rank])
    iteration = utils.parse_iteration_from_dir_name(target.name)
    parallel.save_balanced_metadata(str(target.parent), iteration, prefix, plans, metas)


def _part(parameter: Parameter, meta: Any) -> np.ndarray:
    """The slice with the number that MindFormers gave it, by the definition: row-major over the parts."""
    place = np.unravel_index(meta.global_offset[0], meta.axis_fragmentations or (1,))[: parameter.value.ndim]
    index = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, meta.local_shape, strict=True))
    return parameter.value[index]


def _save_file(path: str, parts: Mapping[str, np.ndarray], parameters: Mapping[str, Parameter]) -> None:
    import mindspore

    tensors = [
        {"name": name, "data": mindspore.Tensor(part).astype(parameters[name].dtype)} for name, part in parts.items()
    ]
    if tensors:
        mindspore.save_checkpoint(tensors, path, format="safetensors")


def whole_values() -> dict[str, np.ndarray]:
    """The whole tensors of the fixtures."""
    shapes = {
        "decoder.0.weight": (4, 6, 8),
        "it's": (8, 2),
        "embedding.table": (8, 4),
        "scale": (),
        "adam_m.decoder.0.weight": (4, 6, 8),
        "adam_m.it's": (8, 2),
        "global_step": (1,),
    }
    return {
        name: (np.arange(np.prod(shape, dtype=int)).reshape(shape) + 100 * number).astype(
            np.int32 if name == "global_step" else np.float32
        )
        for number, (name, shape) in enumerate(shapes.items())
    }


def parameters(
    ranks: Sequence[int], device_matrix: tuple[int, ...] = (2, 2), aliases: tuple[str, ...] = ("dp", "tp")
) -> dict[str, Parameter]:
    """The fixtures' parameters as `ranks` share them."""
    import mindspore
    from mindspore.parallel import Layout

    mesh, (dp, tp) = Layout(device_matrix, aliases, list(ranks)), aliases
    layouts = {
        "decoder.0.weight": mesh(tp, "None", dp),
        "it's": mesh((dp, tp), "None"),
        "embedding.table": mesh(tp, "None"),
    }
    held = {}
    for name, value in whole_values().items():
        parameter = name.removeprefix("adam_m.")
        dtype = mindspore.int32 if name == "global_step" else mindspore.float32
        dtype = mindspore.bfloat16 if name == "embedding.table" else dtype
        is_weight = name == parameter and name != "global_step"
        held[name] = Parameter(value, layouts.get(parameter), is_weight, dtype)
    return held


def stages(aliases: tuple[str, ...] = ("dp", "tp")) -> list[dict[str, Parameter]]:
    """The parameters of four ranks in two pipeline stages, which share the embedding."""
    first, second = (parameters(ranks, (1, 2), aliases) for ranks in ([0, 1], [2, 3]))
    own = {"decoder.0.weight", "adam_m.decoder.0.weight"}
    stage0 = {name: one for name, one in first.items() if name not in own}
    stage1 = {name: one for name, one in second.items() if "it's" not in name}
    return [stage0, stage0, stage1, stage1]


def main() -> None:
    """Write the fixtures."""
    four = [parameters(range(4))] * 4
    save(FIXTURES / "every_rank", 12, four)
    save(FIXTURES / "balanced", 7, four, balanced=True)
    save(FIXTURES / "two_stages", 3, stages(), prefix=None)
    # As a run in static graphs names the axes, to be compared with what we write byte for byte.
    save(FIXTURES / "static_graph", 7, [parameters(range(4), aliases=("a", "b"))] * 4, balanced=True)
    save(FIXTURES / "static_graph_stages", 7, stages(("a", "b")), balanced=True, prefix=None)


if __name__ == "__main__":
    main()
