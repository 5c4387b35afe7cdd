"""Copies of what is saved."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from shardline.training.snapshot import Snapshot


class Two(nn.Cell):
    """A matrix, and a scalar as optimizers have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.ones((2, 3), np.float32)), name="weight")
        self.rate = Parameter(Tensor(np.float32(0.5)), name="rate")
        self.steps = Parameter(Tensor(np.array([7], np.int32)), name="steps")


@pytest.mark.parametrize("is_list", [False, True])
def test_copies_keep_what_was_there(is_list):
    cell = Two()
    content = [{"name": each.name, "data": each} for each in cell.get_parameters()] if is_list else cell
    snapshot = Snapshot(content)
    cell.weight.set_data(Tensor(np.full((2, 3), 2, np.float32)))
    copies = snapshot.take(content)
    cell.weight.set_data(Tensor(np.full((2, 3), 3, np.float32)))
    cell.steps.set_data(Tensor(np.array([8], np.int32)))
    assert [copy.name for copy in copies] == ["weight", "rate", "steps"]
    expected = (np.full((2, 3), 2, np.float32), np.float32(0.5), np.array([7], np.int32))
    for copy, value in zip(copies, expected, strict=True):
        found = copy.asnumpy()
        assert (found.dtype, found.shape, found.tobytes()) == (value.dtype, value.shape, value.tobytes())
