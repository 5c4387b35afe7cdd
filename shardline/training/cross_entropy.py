"""The softmax cross entropy in few operators: `nn.CrossEntropyLoss` of MindSpore 2.10 is about 60 of them on the CPU.

Half of those are for label smoothing by 0, others are what autodiff makes of the logarithm of a sum. An operator that
is launched costs more there than it computes on logits of a small network; and beyond 100 operators MindSpore runs a
graph on several threads that spin while they wait for each other. MindSpore's fused kernels are fewer still, but their
exponential is good to six digits only (`LogSoftmaxGrad`), or they give infinity where a softmax is 0
(`SparseSoftmaxCrossEntropyWithLogits`).
"""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops
from mindspore import dtype as types

IGNORED = -100
"""Labels of this number don't count, as with `nn.CrossEntropyLoss`."""


class MeanCrossEntropy(nn.Cell):
    """Logits float32 [labels, classes] and labels int32 [labels] to the mean over those that count, a scalar."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.parts = _Parts()

    def construct(self, logits: Any, labels: Any) -> Any:
        return self.parts(logits, labels)[0]


class _Parts(nn.Cell):
    """The mean; and what its derivative by the logits, (softmax - one at the label) / number of labels, is made of."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.maximum, self.sum = ops.ReduceMax(keep_dims=True), ops.ReduceSum()
        self.sum_each = ops.ReduceSum(keep_dims=True)
        self.exp, self.log, self.reshape, self.equal = ops.Exp(), ops.Log(), ops.Reshape(), ops.Equal()
        self.fill, self.pick, self.one_hot, self.zeros = ops.MaskedFill(), ops.GatherD(), ops.OneHot(), ops.ZerosLike()
        self.ones = ops.Ones()
        self.ignored, self.first = Tensor(IGNORED, types.int32), Tensor(0, types.int32)
        self.one, self.zero = Tensor(1.0, types.float32), Tensor(0.0, types.float32)

    def construct(self, logits: Any, labels: Any) -> tuple[Any, ...]:
        shifted = logits - self.maximum(logits, -1)
        powers = self.exp(shifted)
        totals = self.sum_each(powers, -1)
        labels = self.reshape(labels, (-1, 1))
        is_ignored = self.equal(labels, self.ignored)
        classes = self.fill(labels, is_ignored, self.first)
        counted = self.fill(self.ones(labels.shape, types.float32), is_ignored, self.zero)
        likelihoods = self.pick(shifted - self.log(totals), -1, classes)
        number = self.sum(counted)
        mean = -self.sum(self.fill(likelihoods, is_ignored, self.zero)) / number
        return mean, powers, totals, classes, counted, number

    def bprop(self, logits: Any, labels: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        _, powers, totals, classes, counted, number = out
        is_label = self.one_hot(self.reshape(classes, (-1,)), logits.shape[-1], self.one, self.zero)
        return (powers / totals - is_label) * (counted * (dout[0] / number)), self.zeros(labels)
