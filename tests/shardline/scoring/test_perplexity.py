from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shardline.scoring.generation import Sampling, generate
from shardline.scoring.perplexity import LOSS_BY_POSITION_FILE, Perplexity, unigram_perplexity
from shardline.settings.run_config import RunConfig

PERPLEXITY = Perplexity(maximum=20, prompt="ab", sampling=Sampling(length=5, temperature=0.5, seed=3))


def successor(samples: np.ndarray) -> np.ndarray:
    """Logits of a model that expects each byte to be followed by the next one, with probability nearly 1."""
    return (50 * np.eye(256, dtype=np.float32))[(np.asarray(samples) + 1) % 256]


def uniform(samples: np.ndarray) -> np.ndarray:
    return np.zeros((*samples.shape, 256), np.float32)


def windows(count: int, length: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Counting up by `step`: samples and labels uint8 [count, length]."""
    tokens = np.arange(count * length + 1) * step % 256
    return tokens[:-1].reshape(count, length).astype(np.uint8), tokens[1:].reshape(count, length).astype(np.uint8)


def test_no_knowledge_has_the_perplexity_of_the_vocabulary():
    scores = PERPLEXITY.score(uniform, *windows(100, 8, 1))
    assert scores.perplexity == pytest.approx(256)
    assert scores.loss == pytest.approx(np.log(256))
    assert (scores.samples, scores.tokens, scores.value) == (100, 800, scores.perplexity)
    assert scores.failures == [
        "expected a perplexity of at most 20, found 256.00 on 800 held-out tokens; train longer or on more text, or "
        "raise max_perplexity"
    ]


def test_certainty_that_is_right_has_perplexity_one():
    scores = PERPLEXITY.score(successor, *windows(3, 8, 1))
    assert scores.perplexity == pytest.approx(1)
    assert scores.failures == []


def test_certainty_that_is_wrong_is_still_a_number():
    scores = PERPLEXITY.score(lambda samples: 1e30 * successor(samples), *windows(3, 8, 2))
    assert np.isfinite(scores.perplexity)
    assert len(scores.failures) == 1


def test_the_loss_is_told_by_position():
    samples, labels = windows(70, 4, 1)
    labels[:, 2] = 0
    samples[:, 2] = 7
    losses = PERPLEXITY.score(successor, samples, labels).loss_by_position
    assert losses == pytest.approx((0, 0, 50, 0), abs=1e-6)


def test_every_held_out_token_counts_once():
    """100 windows are more than are scored at once, and not a multiple of those."""
    samples, labels = windows(100, 4, 1)
    labels[99] = 0
    samples[99] = 7
    assert PERPLEXITY.score(successor, samples, labels).loss == pytest.approx(0.5)


def test_the_unigram_model_knows_frequencies_alone():
    assert unigram_perplexity(np.arange(256)) == pytest.approx(256)
    assert unigram_perplexity(np.array([[7, 7], [9, 9]], np.uint8)) == pytest.approx(2)
    assert unigram_perplexity(np.zeros((2, 2))) == 1


def test_the_report_shows_what_the_model_writes(tmp_path: Path):
    scores = PERPLEXITY.score(successor, *windows(3, 8, 1))
    assert scores.generated.text == "cdefg"
    lines = scores.to_markdown()
    assert "- Perplexity: **1.000** on 24 held-out tokens (at most 20)" in lines[0]
    assert "    abcdefg" in lines
    scores.plot(tmp_path)
    assert (tmp_path / LOSS_BY_POSITION_FILE).read_bytes().startswith(b"\x89PNG")
    assert scores.to_document()["generated"] == {"prompt": "ab", "text": "cdefg", "temperature": 0.5, "seed": 3}


def test_bytes_that_are_no_text_are_shown_all_the_same():
    metric = Perplexity(20, "ý", Sampling(3, 0, 0))  # it ends in 0xbd, and no character begins with what comes next
    assert metric.score(successor, *windows(1, 8, 1)).generated.text == "\ufffd" * 3


def test_generation_sees_the_last_tokens_of_its_window():
    seen = []

    def logits(samples: np.ndarray) -> np.ndarray:
        seen.append(samples.tolist())
        return successor(samples)

    assert generate(logits, b"\x01\x02", 3, Sampling(4, 0, seed=1)) == bytes([1, 2, 3, 4, 5, 6])
    assert seen == [[[1, 2, 0]], [[1, 2, 3]], [[2, 3, 4]], [[3, 4, 5]]]


def test_the_seed_decides_what_is_drawn():
    texts = [generate(uniform, b"x", 8, Sampling(20, 1.0, seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_low_temperature_prefers_the_likeliest():
    def logits(samples: np.ndarray) -> np.ndarray:
        return np.log(np.array([0.6, 0.4] + [1e-9] * 254, np.float32)) + np.zeros((*samples.shape, 256), np.float32)

    shares = [
        generate(logits, b"x", 4, Sampling(400, temperature, 5)).count(b"\x00") / 400 for temperature in (0, 0.2, 1)
    ]
    assert shares[0] == 1
    assert shares[1] == pytest.approx(0.884, abs=0.05)
    assert shares[2] == pytest.approx(0.6, abs=0.06)


def test_the_run_s_parameters_are_taken():
    config = RunConfig(max_perplexity=3.5, sample_prompt="x", sample_length=7, sample_temperature=0.1, seed=9)
    assert Perplexity.of(config) == Perplexity(3.5, "x", Sampling(7, 0.1, 9))
