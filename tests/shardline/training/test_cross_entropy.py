"""The cross entropy and its derivative, beside MindSpore's own and NumPy's float64."""

from typing import Any

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from shardline.training.cross_entropy import MeanCrossEntropy


@pytest.fixture(autouse=True)
def graph_mode():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")


def drawn(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels, one of which doesn't count."""
    generator = np.random.default_rng(2)
    labels = generator.integers(0, 10, 32).astype(np.int32)
    labels[5] = -100
    return (scale * generator.normal(size=(32, 10))).astype(np.float32), labels


def with_gradient(cell: nn.Cell, logits: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    return [part.asnumpy() for part in ops.value_and_grad(cell)(Tensor(logits), Tensor(labels))]


@pytest.mark.parametrize("scale", [1, 30, 300])
def test_it_is_mindspores_cross_entropy(scale: float):
    """Where a softmax is 0 in float32, too."""
    ours, theirs = (with_gradient(cell, *drawn(scale)) for cell in (MeanCrossEntropy(), nn.CrossEntropyLoss()))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6, atol=1e-8)


def test_gradients_are_those_of_float64():
    logits, labels = drawn(1)
    powers = np.exp(logits.astype(np.float64))
    expected = powers / powers.sum(1, keepdims=True) - (labels[:, None] == np.arange(10))
    expected[labels == -100] = 0
    found = with_gradient(MeanCrossEntropy(), logits, labels)[1]
    np.testing.assert_allclose(found, expected / 31, rtol=0, atol=2e-8)


class Scaled(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.loss = MeanCrossEntropy()

    def construct(self, logits: Any, labels: Any) -> Any:
        return 1024 * self.loss(logits, labels)


def test_the_derivative_follows_what_comes_back():
    once, scaled = (with_gradient(cell, *drawn(1))[1] for cell in (MeanCrossEntropy(), Scaled()))
    np.testing.assert_allclose(scaled, 1024 * once, rtol=1e-6)


def test_a_label_beyond_the_classes_is_an_error():
    logits, labels = drawn(1)
    labels[3] = 10
    with pytest.raises(Exception, match=r"(?i)index"):
        with_gradient(MeanCrossEntropy(), logits, labels)
