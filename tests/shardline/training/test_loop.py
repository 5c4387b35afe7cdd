"""At which steps the loop measures, saves and ends."""

from contextlib import nullcontext
from math import nan
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor

from shardline.base.errors import TrainingError
from shardline.training.batches import Batches
from shardline.training.health import Health
from shardline.training.loop import Loop


class Step:
    """A step whose gradients' norm is 1 where it is measured, 0 where not, or NaN from step `spoilt_at` on."""

    def __init__(self, spoilt_at: float) -> None:
        self.taken, self.spoilt_at, self.is_measured = 0, spoilt_at, True

    def measure_norm(self, wanted: bool) -> bool:
        self.is_measured = wanted
        return wanted

    def __call__(self, samples: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        self.taken += 1
        loss = nan if self.taken > self.spoilt_at else 1.0  # the update of a spoilt step spoils the next one's loss
        norm = nan if self.taken >= self.spoilt_at else 1.0
        return tuple(Tensor(value) for value in (loss, 0.1, norm if self.is_measured else 0.0))


@pytest.fixture
def trained():
    """A function: what a loop of ten steps, five an epoch, saved and recorded, where ranks ask each other at step 4."""

    def train(save_every: int, spoilt_at: float = np.inf):
        saved, records = [], []
        loop = Loop(
            cell=Step(spoilt_at),
            batches=Batches(np.zeros((10, 1), np.float32), np.zeros(10, np.int32), 2, seed=1),
            saver=SimpleNamespace(save=lambda step, *_: saved.append(step), finish=lambda: None),
            metrics=SimpleNamespace(step=lambda record, **_: records.append(record), epoch=lambda _: None),
            health=Health([], 0, None),
            status=SimpleNamespace(update=lambda _: None),
            stopping=SimpleNamespace(is_due=lambda step: step == 4, agreed=lambda _: False),
            phases=SimpleNamespace(measure=lambda _: nullcontext()),
        )
        try:
            loop.run(0, 10, save_every)
        except TrainingError as error:
            return saved, records, str(error)
        return saved, records, None

    return train


def test_the_gradients_norm_is_measured_where_ranks_meet_and_of_what_is_saved(trained):
    saved, records, _ = trained(save_every=3)
    assert saved == [3, 6, 9, 10]
    norms = {record.step: record.gradient_norm for record in records}
    assert {step for step, norm in norms.items() if norm == 1.0} == {3, 4, 5, 6, 9, 10}  # 5: the end of an epoch
    assert {step for step, norm in norms.items() if norm is None} == {1, 2, 7, 8}


@pytest.mark.parametrize(("spoilt_at", "found_at"), [(4, "step 4: the gradient's norm"), (7, "step 3: the loss")])
def test_a_spoilt_step_is_found_before_anything_of_it_is_saved(trained, spoilt_at, found_at):
    """One whose gradients are not measured, by the next step's loss: step 3 of the second epoch is the eighth."""
    saved, records, error = trained(save_every=3, spoilt_at=spoilt_at)
    assert found_at in error
    assert max(saved) < spoilt_at
    assert len(records) < 8
