"""What a run trains: a network, the data that it learns from, its loss, and how good it must become.

A network's module has a factory that gives this for a run's parameters (`shardline.networks.train_spec`); preparing,
training and validating know no network by name. Importing this module loads neither NumPy nor MindSpore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from shardline.base.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shardline.networks.backend import Backend
    from shardline.networks.operators import Operator, Splits
    from shardline.settings.run_config import RunConfig

Split = Literal["train", "test"]
Loss = Literal["cross_entropy"]
"""Softmax cross entropy of logits [..., classes] and labels int32 [...], the mean over all labels."""


class Network(Protocol):
    """The declaration of a network: operators and their strategies, from which each backend builds its cells."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch."""

    def operators(self, batch_size: int) -> Iterable[Operator]:
        """The operators that a strategy can split, in the order of computation."""

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of every trainable parameter."""

    def with_strategies(self, strategies: Mapping[str, Splits | None]) -> Network:
        """The same network, each operator with the strategy under its name, or without one."""

    def cell(self, batch_size: int, backend: Backend, seed: int) -> Any:
        """The `mindspore.nn.Cell` of one rank, which takes samples and gives logits, whole on every rank.

        It creates its slices of the parameters (`backend.region`), with values that `seed` alone decides, under the
        names that `parameters` has, and has `backend` place every operator that a strategy can split.
        """


class PreparedDataset(Protocol):
    """What `dataset.json` says: where the data is, the digest of all its content, and how many samples it has."""

    @property
    def digest(self) -> str: ...

    def count(self, split: Split) -> int:
        """The number of samples of a split, as `Dataset.load` gives them."""

    def to_json(self) -> str: ...


class Dataset(Protocol):
    """The data that a network learns from, and how a rank reads it."""

    def prepare(self, config: RunConfig, home_data: Path) -> PreparedDataset:
        """Bring the data that `config` names into the folder `home_data`, which all ranks see.

        `ConfigError` where `config` names data that is not of this kind, `DatasetError` where it cannot be had.
        """

    def load(self, dataset_file: Path, split: Split) -> tuple[NDArray[Any], NDArray[Any]]:
        """Samples [N, *sample_shape] and labels [N, ...] of one split of what `dataset.json` describes.

        Floating-point samples are float32; token ids and labels of any integer type become int32 by the batch. All
        ranks get the same, in the same order. `DatasetError` where the files are not those that were prepared.
        """


class Scores(Protocol):
    """How good a merged model is on the data that was held out."""

    @property
    def value(self) -> float:
        """The metric's value, which promotion records under the metric's name."""

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats."""

    @property
    def failures(self) -> Sequence[str]:
        """Why the model is not good enough: what was expected and found, and what to do; empty where it is."""

    def to_document(self) -> Mapping[str, Any]:
        """The keys that `report.json` has beside those that all networks have."""

    def to_markdown(self) -> Sequence[str]:
        """The lines of `report.md`: the metric first, then tables, pictures by file name, or samples."""

    def plot(self, folder: Path) -> None:
        """Draw the pictures that `to_markdown` names, into `folder`."""


Logits = Callable[["NDArray[Any]"], "NDArray[Any]"]
"""A network's logits float32 [N, ..., classes] of samples [N, *sample_shape]."""


class Metric(Protocol):
    """How a merged model is judged."""

    @property
    def name(self) -> str:
        """`accuracy`, `perplexity`…: the key in `report.json` and of the promoted version."""

    @property
    def higher_is_better(self) -> bool:
        """Whether, of two models, the one with the higher value is the better one."""

    def score(self, logits: Logits, samples: NDArray[Any], labels: NDArray[Any]) -> Scores:
        """Judge the network that `logits` computes, on the held-out samples; all logits are finite or an error."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything that is particular to what a run trains."""

    network: Network
    dataset: Dataset
    metric: Metric
    loss: Loss = "cross_entropy"

    def __post_init__(self) -> None:
        for field, protocol in (("network", Network), ("dataset", Dataset), ("metric", Metric)):
            promised = [name for name in vars(protocol) if not name.startswith("_")]
            missing = [name for name in promised if not hasattr(getattr(self, field), name)]
            if missing:
                raise ConfigError(
                    f"TrainSpec.{field}: expected {', '.join(promised)}, found {type(getattr(self, field)).__name__}, "
                    f"which lacks {', '.join(missing)}; see docs/networks.md"
                )
        if self.loss not in get_args(Loss):
            raise ConfigError(f"TrainSpec.loss: expected one of {', '.join(get_args(Loss))}, found {self.loss!r}")
