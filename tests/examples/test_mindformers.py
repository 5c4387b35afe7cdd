"""The description of MindFormers' own launcher: its lines of log, its options, and its folders. It is not run here."""

import re

import pytest

from shardline.settings.training_file import read_training

from .conftest import EXAMPLES

LINES = {
    "{ Epoch:[  1/  2], step:[   12/  100], loss: 10.638, per_step_time: 3022ms, lr: 2.4e-07, overflow cond: False, "
    "loss_scale: 65536.0, global_norm: [1.5]": {"loss": "10.638", "learning_rate": "2.4e-07"},
    "{ Epoch:[  1/  2], step:[   12/  100], loss:[10.638/10.701], per_step_time: 3022ms, overflow cond: False, "
    "loss_scale: 1.0": {"loss": "10.638"},
}
"""As MFLossMonitor of MindFormers 1.x prints them (mindformers/core/callback/callback.py), in sink mode and not."""


@pytest.mark.parametrize("line", LINES)
def test_a_step_is_read_from_mindformers_line(line):
    patterns = read_training(EXAMPLES / "mindformers.toml").log.patterns
    found: dict[str, str] = {}
    for pattern in patterns:
        if match := re.search(pattern, f"2025-01-01 00:00:00,000 - mindformers[callback.py:400] - INFO - {line}"):
            found |= match.groupdict()
    assert found == {"epoch": "1", "step": "12", "steps_per_epoch": "100", **LINES[line]}


def test_the_examples_describe_trainings_of_different_names():
    names = [read_training(path).name for path in sorted(EXAMPLES.glob("*.toml"))]
    assert names == ["checkpoint2", "mindformers", "mindformers_shaped", "plain", "tutorial"]
