"""One way of merging, in a process of its own: `python -m benchmarks.merge.contenders NAME SHARDS STRATEGY OUTPUT`.

Prints how many seconds the merge took without the interpreter's start and the imports. Every contender leaves its
output flushed to disk.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path


def ours(shards: Path, strategy: Path, output: Path, proof: bool, suffix: str) -> float:
    from shardline.checkpoint.merging.merge import merge
    from shardline.checkpoint.merging.request import MergeRequest

    started = time.perf_counter()
    merge(MergeRequest(shards, (strategy,), output / f"model{suffix}", proof=proof))
    return time.perf_counter() - started


def ours_of_checkpoint2(shards: Path, strategy: Path, output: Path, proof: bool) -> float:
    """Without a strategy: the metadata has the layouts."""
    from shardline.checkpoint.merging.merge import merge
    from shardline.checkpoint.merging.request import MergeRequest

    started = time.perf_counter()
    merge(MergeRequest(shards, (), output / "model.safetensors", proof=proof))
    return time.perf_counter() - started


def copy(shards: Path, strategy: Path, output: Path) -> float:
    """`cp` and fsync of a file of the merged size."""
    output.mkdir()
    started = time.perf_counter()
    status = os.spawnlp(os.P_WAIT, "cp", "cp", str(shards.parent / "merged.bytes"), str(output / "copy"))
    flush(output)
    if status:
        raise SystemExit(status)
    return time.perf_counter() - started


def transform_checkpoints(shards: Path, strategy: Path, output: Path) -> float:
    import mindspore

    started = time.perf_counter()
    mindspore.transform_checkpoints(str(shards), str(output), "merged", str(strategy))
    flush(output)
    return time.perf_counter() - started


def transform_safetensors(shards: Path, strategy: Path, output: Path) -> float:
    import mindspore

    started = time.perf_counter()
    mindspore.transform_checkpoints(
        str(shards), str(output), "merged", str(strategy), output_format="safetensors", process_num=2
    )
    flush(output)
    return time.perf_counter() - started


def unified_safetensors(shards: Path, strategy: Path, output: Path) -> float:
    import mindspore

    started = time.perf_counter()
    mindspore.parallel.unified_safetensors(str(shards), str(strategy), str(output), max_process_num=2)
    flush(output)
    return time.perf_counter() - started


def load_distributed_checkpoint(shards: Path, strategy: Path, output: Path) -> float:
    import mindspore
    import numpy as np
    from mindspore import Parameter, Tensor, nn

    from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
    from shardline.checkpoint.strategy.strategy_file import read_strategy

    files = sorted(shards.glob("rank_*/*.ckpt"), key=lambda path: int(path.parent.name.removeprefix("rank_")))
    layouts, first = read_strategy(strategy).layouts, read_checkpoint(files[0])
    network = nn.Cell()
    for number, name in enumerate(first):
        header = first.header(name)
        dtype = mindspore.bfloat16 if header.type.name == "BFloat16" else mindspore.float32
        zeros = Tensor(np.zeros(layouts[name].full_shape(header.shape), np.float32)).astype(dtype)
        network.insert_param_to_cell(f"p{number}", Parameter(zeros, name=name))
    output.mkdir()
    started = time.perf_counter()
    mindspore.load_distributed_checkpoint(network, [str(file) for file in files], None, str(strategy))
    mindspore.save_checkpoint(network, str(output / "merged.ckpt"))
    flush(output)
    return time.perf_counter() - started


def torch_dcp(shards: Path, strategy: Path, output: Path) -> float:
    """PyTorch's `dcp_to_torch_save` of a distributed checkpoint with the same number of bytes."""
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    size = (shards.parent / "merged.bytes").stat().st_size
    count = max(1, size // (64 << 20))
    tensors = {f"p{n}": torch.rand(size // count // 4) for n in range(count)}
    dcp.save(tensors, checkpoint_id=str(output / "dcp"), no_dist=True)
    del tensors
    started = time.perf_counter()
    dcp_to_torch_save(str(output / "dcp"), str(output / "merged.pt"))
    flush(output)
    return time.perf_counter() - started


def flush(directory: Path) -> None:
    """Flush every file under `directory` to disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


CONTENDERS: dict[str, tuple[str, Callable[[Path, Path, Path], float]]] = {
    "cp + fsync": (".ckpt", copy),
    "shardline, no proof": (".ckpt", lambda *paths: ours(*paths, proof=False, suffix=".ckpt")),
    "shardline": (".ckpt", lambda *paths: ours(*paths, proof=True, suffix=".ckpt")),
    "transform_checkpoints": (".ckpt", transform_checkpoints),
    "load_distributed_checkpoint + save": (".ckpt", load_distributed_checkpoint),
    "shardline, no proof, safetensors": (
        ".safetensors",
        lambda *paths: ours(*paths, proof=False, suffix=".safetensors"),
    ),
    "shardline, safetensors": (".safetensors", lambda *paths: ours(*paths, proof=True, suffix=".safetensors")),
    "transform_checkpoints, safetensors": (".safetensors", transform_safetensors),
    "unified_safetensors": (".safetensors", unified_safetensors),
    "torch dcp_to_torch_save": (".ckpt", torch_dcp),
    "shardline, no proof, MindFormers 1.x": (
        "mindformers",
        lambda *paths: ours(*paths, proof=False, suffix=".safetensors"),
    ),
    "shardline, MindFormers 1.x": ("mindformers", lambda *paths: ours(*paths, proof=True, suffix=".safetensors")),
    "shardline, no proof, Checkpoint 2.0": ("checkpoint2", lambda *paths: ours_of_checkpoint2(*paths, proof=False)),
    "shardline, Checkpoint 2.0": ("checkpoint2", lambda *paths: ours_of_checkpoint2(*paths, proof=True)),
}
"""Name → how the slices were saved, and the work."""


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    destination = Path(arguments[-1])
    shutil.rmtree(destination, ignore_errors=True)
    print(CONTENDERS[name][1](*(Path(argument) for argument in arguments)))
