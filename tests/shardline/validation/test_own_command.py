"""The command by which a described training judges a merged model."""

import json
import sys

import pytest

from shardline.base.errors import ValidationError
from shardline.run.directory import Home, RunDirectory
from shardline.run.merged_model import MergedModel
from shardline.settings.training import Training
from shardline.settings.training_config import TrainingConfig
from shardline.store.version import Version
from shardline.validation import described as validation_described
from shardline.validation.described import _champion, _misnamed, _worse_than_asked
from shardline.validation.own_command import metrics_of


def described(command, **validate: object) -> TrainingConfig:
    training = {
        "name": "mine",
        "command": ["true"],
        "working_directory": "{run_directory}",
        "environment": {"CHOSEN": "{text}"},
        "parameters": {"text": {"type": "text", "default": "x"}},
        "slices": {"files": "*.ckpt"},
        "validate": {"command": command, "metric": "accuracy", **validate},
    }
    return TrainingConfig(
        training=Training.model_validate_json(json.dumps(training)),
        training_file="/trainings/mine.toml",
        values={"text": "$(id) {step} \"'"},
        world_size=2,
        device_target="CPU",
        model_name="mine",
        termination_grace=1,
    )


@pytest.fixture
def judge(tmp_path):
    def run(program, *arguments: str, **validate: object):
        config = described(["{python}", "-c", program.replace("{", "{{").replace("}", "}}"), *arguments], **validate)
        return metrics_of(RunDirectory(tmp_path), config, MergedModel(tmp_path / "model.ckpt", "0" * 64, 7))

    return run


def test_metrics_are_the_numbers_of_the_last_line(judge, capsys):
    program = 'print(\'{"accuracy": 0.1}\'); print(\'hello\'); print(\'{"accuracy": 0.9, "n": 3, "who": "x"}\\n\\n\')'
    assert judge(program) == {"accuracy": 0.9, "n": 3.0}
    assert "  hello" in capsys.readouterr().out


def test_what_was_chosen_reaches_the_command_as_it_was_typed(judge, tmp_path):
    program = (
        "import json, os, sys; json.dump([sys.argv[1:], os.environ['CHOSEN'], os.getcwd()], open('given', 'w'));"
        "print(json.dumps({'accuracy': 1}))"
    )
    judge(program, "{merged_file}", "{step}", "{text}")
    chosen = "$(id) {step} \"'"
    arguments, in_environment, folder = json.loads((tmp_path / "given").read_text())
    assert arguments == [str(tmp_path / "model.ckpt"), "7", chosen]
    assert (in_environment, folder) == (chosen, str(tmp_path))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("", "expected a JSON object of metrics on its last line, .* found 'nothing'"),
        ("print('done')", "expected a JSON object of metrics on its last line, .* found 'done'"),
        ("print([1])", "expected a JSON object of metrics on its last line"),
        ("print('{\"accuracy\": NaN}')", "expected finite metrics, found accuracy = nan"),
        ("print('{\"accuracy\": 1}'); raise SystemExit(3)", 'left with exit code 3; it printed last: {"accuracy": 1}'),
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9; it printed last: \\(nothing\\)"),
        ("import time; time.sleep(60)", "took longer than its timeout, 1 s, and was ended"),
        ("print('x' * 3_000_000)", "expected a JSON object of metrics on its last line"),
    ],
)
def test_a_command_that_does_not_judge_is_refused(judge, program, message):
    with pytest.raises(ValidationError, match=message):
        judge(program, timeout=1 if "sleep" in program else 60)


def test_a_command_that_is_not_there_is_refused(tmp_path):
    config = described(["/no/such/judge"])
    with pytest.raises(ValidationError, match="cannot be started: /no/such/judge: No such file"):
        metrics_of(RunDirectory(tmp_path), config, MergedModel(tmp_path, "", None))


def test_children_that_keep_the_output_open_are_not_waited_for(judge):
    program = "import os, time; os.fork() or (os.setsid(), time.sleep(30)); print('{\"accuracy\": 1}')"
    assert judge(program)["accuracy"] == 1


@pytest.mark.parametrize(
    ("metrics", "failures"),
    [
        ({"accuracy": 0.9, "loss": 1}, []),
        ({"accuracy": 0.7, "loss": 1}, ["expected accuracy to be at least 0.8, found 0.7"]),
        ({"accuracy": 0.9, "loss": 3}, ["expected loss to be at most 2, found 3"]),
        ({"acuracy": 0.9, "loss": 1}, ["expected the metric accuracy, found acuracy, loss"]),
    ],
)
def test_every_limit_is_held(metrics, failures):
    config = described([sys.executable], minimum={"accuracy": 0.8}, maximum={"loss": 2})
    assert _worse_than_asked(config, metrics) == failures


@pytest.mark.parametrize(("margin", "expected"), [(0.1, 0.5), (None, None)])
def test_the_current_version_is_judged_by_the_same_command(tmp_path, monkeypatch, margin, expected):
    program = "import sys; print(open(sys.argv[1]).read())"
    config = described(["{python}", "-c", program, "{merged_file}"]).model_copy(update={"champion_margin": margin})
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "model.ckpt").write_text('{"accuracy": 0.5}')
    version = Version(4, "0" * 64, "accuracy", 0.9, 7, "run", "model.ckpt", {}, tmp_path / "version")
    monkeypatch.setattr(validation_described, "current", lambda home, name: version)
    champion = _champion(RunDirectory(tmp_path), Home(tmp_path), config)
    assert (champion and (champion.version, champion.value)) == (expected and (4, expected))


def test_a_metric_does_not_take_the_place_of_the_verdict():
    assert _misnamed({"passed": 1.0}) == ["the metric passed has the name of something else in a report; rename it"]
