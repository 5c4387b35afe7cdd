"""Checkpoints that MindSpore itself writes."""

from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor


def saved_by_mindspore(path: Path, arrays: dict, **options: object) -> bytes:
    save_list = [{"name": name, "data": Tensor(np.array(array))} for name, array in arrays.items()]
    mindspore.save_checkpoint(save_list, str(path), **options)
    return path.read_bytes()
