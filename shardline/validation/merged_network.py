"""The merged checkpoint in the unsharded network, on one device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shardline.base.counts import counted
from shardline.base.errors import ValidationError
from shardline.networks.train_spec import Network
from shardline.parallel.backends import backend_of
from shardline.run.merged_model import MergedModel
from shardline.settings.run_config import RunConfig
from shardline.training.batches import as_taken

Logits = npt.NDArray[np.float32]


class MergedNetwork:
    """The network that a run trained, whole, with the weights of its merged checkpoint."""

    def __init__(self, merged: MergedModel, network: Network, config: RunConfig) -> None:
        """Build and load it; `ValidationError` unless the checkpoint has every parameter, in its shape and type."""

        unsharded = config.model_copy(update={"world_size": 1})
        network = network.with_strategies({})
        backend = backend_of(unsharded, network, rank=0)
        backend.start()
        self._batch_size = config.batch_size
        self._cell = network.cell(self._batch_size, backend, config.seed)
        self._cell.set_train(False)
        _load(merged.file, self._cell)

    def logits(self, samples: npt.NDArray[Any]) -> Logits:
        """The logits float32 [N, ..., classes] of samples [N, ...]; `ValidationError` unless all are finite."""
        from mindspore import Tensor

        batches = []
        for start in range(0, len(samples), self._batch_size):
            batch = as_taken(samples[start : start + self._batch_size])
            # One shape for every call: the network is compiled once. The last batch is filled up, and cut again.
            filled = np.zeros((self._batch_size, *batch.shape[1:]), batch.dtype)
            filled[: len(batch)] = batch
            batches.append(self._cell(Tensor(filled)).asnumpy()[: len(batch)])
        return _finite(np.concatenate(batches))


def _finite(logits: Logits) -> Logits:
    wrong = int((~np.isfinite(logits)).any(axis=tuple(range(1, logits.ndim))).sum())
    if wrong:
        raise ValidationError(
            f"expected finite logits, found NaN or infinity for {wrong} of {counted(len(logits), 'sample')}: training "
            "diverged; see the losses in metrics.jsonl, and lower the learning rate"
        )
    return logits


def _load(file: Path, cell: Any) -> None:
    from mindspore import load_checkpoint, load_param_into_net

    names = {parameter.name for parameter in cell.get_parameters()}
    make_room(file)
    try:
        parameters = load_checkpoint(str(file), choice_func=names.__contains__, format=file.suffix[1:])
        missing, _ = load_param_into_net(cell, parameters, strict_load=True)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValidationError(f"{file}: MindSpore cannot load it into the network: {error}") from error
    if missing:
        raise ValidationError(
            f"{file}: expected every parameter of the network, found none of {', '.join(sorted(missing))}; "
            "was it merged from another network?"
        )


def make_room(file: Path) -> None:
    """See to it that MindSpore will agree to read a .ckpt file; `ValidationError` where memory is really short.

    MindSpore 2.10 refuses a .ckpt file that is larger than the machine's *free* memory, of which the page cache leaves
    little, above all for a file that was just written. The kernel is asked to drop the file's own pages.
    """
    size = file.stat().st_size
    if file.suffix != ".ckpt" or size <= free_memory():
        return
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    free = free_memory()
    if size > free:
        raise ValidationError(
            f"{file}: MindSpore reads a .ckpt file only into free memory: it has {size / 1e9:.2f} GB, and "
            f"{free / 1e9:.2f} GB are free (the page cache doesn't count); merge to safetensors (merged_format), end "
            "other programs, or drop the machine's page cache"
        )


def free_memory() -> int:
    """Bytes of memory that nothing uses, not even the page cache: what MindSpore compares a file's size with."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
