"""The metric of a language model: how many tokens, equally likely, it is as good as choosing from, at each token."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shardline.networks.train_spec import Logits
from shardline.scoring.cross_entropy import cross_entropy_by_label
from shardline.scoring.generation import Sampling, generate
from shardline.scoring.plots import plot_loss_by_position
from shardline.settings.run_config import RunConfig

LOSS_BY_POSITION_FILE = "loss_by_position.png"

_WINDOWS = 64  # whose logits are in memory at once
_GREATEST_LOSS = 700.0  # whose exponential is a number


@dataclass(frozen=True)
class GeneratedText:
    """What the model wrote after `prompt`; bytes that are no UTF-8 are shown as �."""

    prompt: str
    text: str
    temperature: float
    seed: int


@dataclass(frozen=True)
class PerplexityScores:
    """Perplexity and mean cross entropy in nats, over all held-out tokens and by their position in the window.

    No model that ignores the context can do better on these tokens than `unigram_perplexity`.
    """

    samples: int
    tokens: int
    perplexity: float
    max_perplexity: float
    unigram_perplexity: float
    loss: float
    loss_by_position: tuple[float, ...]
    generated: GeneratedText

    @property
    def value(self) -> float:
        return self.perplexity

    @property
    def failures(self) -> list[str]:
        if self.perplexity <= self.max_perplexity:
            return []
        return [
            f"expected a perplexity of at most {self.max_perplexity:g}, found {self.perplexity:.2f} on {self.tokens} "
            "held-out tokens; train longer or on more text, or raise max_perplexity"
        ]

    def to_document(self) -> dict[str, Any]:
        return asdict(self)

    def to_markdown(self) -> list[str]:
        return [
            f"- Perplexity: **{self.perplexity:.3f}** on {self.tokens} held-out tokens (at most "
            f"{self.max_perplexity:g}); without context, {self.unigram_perplexity:.3f} is the best",
            "",
            f"What it writes (temperature {self.generated.temperature:g}, seed {self.generated.seed}):",
            "",
            *(f"    {line}" for line in (self.generated.prompt + self.generated.text).splitlines()),
            "",
            f"![Loss by position]({LOSS_BY_POSITION_FILE})",
        ]

    def plot(self, folder: Path) -> None:
        plot_loss_by_position(self.loss_by_position, np.log(self.unigram_perplexity), folder / LOSS_BY_POSITION_FILE)


@dataclass(frozen=True)
class Perplexity:
    """The `Metric` of a byte-level language model, whose perplexity must be at most `maximum`."""

    maximum: float
    prompt: str
    sampling: Sampling
    name: str = "perplexity"
    higher_is_better: bool = False

    @classmethod
    def of(cls, config: RunConfig) -> Perplexity:
        """As the run's parameters say."""
        sampling = Sampling(config.sample_length, config.sample_temperature, config.seed)
        return cls(config.max_perplexity, config.sample_prompt, sampling)

    def score(self, logits: Logits, samples: npt.NDArray[Any], labels: npt.NDArray[Any]) -> PerplexityScores:
        """Score the logits [N, sequence, 256] of samples [N, sequence] against labels [N, sequence]."""
        by_position = np.zeros(samples.shape[1])
        for start in range(0, len(samples), _WINDOWS):
            part = slice(start, start + _WINDOWS)
            by_position += cross_entropy_by_label(logits(samples[part]), labels[part]).sum(axis=0)
        by_position /= len(samples)
        loss = float(by_position.mean())
        return PerplexityScores(
            samples=len(samples),
            tokens=samples.size,
            perplexity=exp(min(loss, _GREATEST_LOSS)),
            max_perplexity=self.maximum,
            unigram_perplexity=unigram_perplexity(labels),
            loss=loss,
            loss_by_position=tuple(by_position.tolist()),
            generated=self._generated(logits, samples.shape[1]),
        )

    def _generated(self, logits: Logits, window: int) -> GeneratedText:
        prompt = self.prompt.encode()
        written = generate(logits, prompt, window, self.sampling)[len(prompt) :]
        text = written.decode(errors="replace")
        return GeneratedText(self.prompt, text, self.sampling.temperature, self.sampling.seed)


def unigram_perplexity(labels: npt.NDArray[Any]) -> float:
    """The perplexity, on `labels`, of a model that knows how often each token occurs there, and nothing else."""
    counts = np.unique(labels, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
