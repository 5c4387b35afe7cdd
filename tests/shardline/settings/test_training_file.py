"""Descriptions of trainings: what they say, and what is said of a wrong one."""

import pytest

from shardline.base.errors import ConfigError
from shardline.settings.training_file import read_training

WHOLE = """
name = "tutorial"
description = "The tutorial's network"
command = ["python", "train.py", "--rate", "{learning_rate}", "--out", "{run_directory}", "--json", '{{"a": 1}}']
launcher = "msrun"
ranks = "{cards}"
device = "Ascend"
working_directory = "{run_directory}"
model_name = "digits"

[environment]
GLOG_v = "3"
DATA = "{data}"

[parameters.learning_rate]
type = "number"
default = 1
minimum = 0
maximum = 1
title = "Learning rate"
section = "Optimizer"

[parameters.cards]
type = "integer"
default = 8
choices = [4, 8]

[parameters.data]
type = "folder"
default = "/data/mnist"

[parameters.mode]
type = "text"
default = "fast"
choices = ["fast", "slow"]

[parameters.debug]
type = "boolean"
default = false

[slices]
files = "checkpoint/rank_*/*.ckpt"
strategies = ["strategy/*.ckpt", "src_strategy.ckpt"]

[log]
patterns = ["epoch: (?P<epoch>\\\\d+) step: (?P<step>\\\\d+), loss is (?P<loss>\\\\S+)"]
rank = -1

[resume]
arguments = ["--resume", "{resume_from}"]

[stop]
signal = "SIGUSR1"
grace = 60
hang_timeout = 600

[validate]
command = ["python", "judge.py", "{merged_file}"]
minimum = { accuracy = 0.9 }
"""
LEAST = 'name = "a"\ncommand = ["true"]\n[slices]\nfiles = "*.ckpt"\n'


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / "a.toml"
        path.write_text(text)
        return read_training(path)

    return read_text


@pytest.fixture
def refusal(read, tmp_path):
    def message(text):
        with pytest.raises(ConfigError) as error:
            read(text)
        return str(error.value).replace(f"{tmp_path}/", "")

    return message


def test_a_whole_description(read):
    training = read(WHOLE)
    assert training.command[-1] == '{{"a": 1}}'
    assert training.world_size({"cards": 4}) == 4
    assert training.slices.strategies == ("strategy/*.ckpt", "src_strategy.ckpt")
    assert training.slices.folder == "checkpoint"
    assert training.model == "digits"
    assert training.validation.chosen_metric == "accuracy"
    assert training.validation.higher_is_better


def test_the_least_description(read):
    training = read(LEAST)
    assert (training.launcher, training.ranks, training.device, training.model) == ("mpirun", 1, "CPU", "a")
    assert training.slices.folder == "."
    assert training.validation.chosen_metric is None


@pytest.mark.parametrize(
    ("globs", "folder"),
    [
        ('"out/ckpt/rank_*/x.ckpt"', "out/ckpt"),
        ('["a/b/*.ckpt", "a/c/*.ckpt"]', "a"),
        ('["a/*.ckpt", "b/*.ckpt"]', "."),
        ('"a/b/one.ckpt"', "a/b"),
        ('"**/*.ckpt"', "."),
    ],
)
def test_manifests_lie_in_the_innermost_folder_of_all_slices(read, globs, folder):
    assert read(LEAST.replace('"*.ckpt"', globs)).slices.folder == folder


def changed(old, new):
    assert WHOLE.count(old) >= 1
    return WHOLE.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\n', "a.toml:1: command: is missing\na.toml:1: slices: is missing"),
        (changed('"msrun"', '"srun"'), "a.toml:5: launcher: Input should be 'mpirun', 'msrun' or 'none'"),
        (changed("[stop]", "[halt]"), "a.toml:52: halt: is no key that is known here"),
        (changed("grace = 60", 'grace = "60"'), "a.toml:54: stop.grace: Input should be a valid integer (found '60')"),
        (changed("{learning_rate}", "{rate}"), "a.toml:4: command[3]: {rate} is no placeholder here; there are"),
        (changed("{{", "{"), "a.toml:4: command[7]: the { at character 1 of"),
        (changed("{data}", "{step}"), "a.toml:13: environment.DATA: {step} is no placeholder here"),
        (changed("GLOG_v", "SHARDLINE_HOME"), "a.toml:12: environment.SHARDLINE_HOME: is a variable that the launch"),
        (changed('"number"', '"float"'), "a.toml:16: parameters.learning_rate.type: expected type = 'integer'"),
        (changed("default = 1\n", ""), "a.toml:15: parameters.learning_rate.default: is missing"),
        (changed("default = 1\n", "default = 2\n"), "a.toml:15: parameters.learning_rate: the default 2.0 is not"),
        (changed("default = 8", "default = 2"), "a.toml:23: parameters.cards: the default 2 is none of the choices"),
        (changed("choices = [4, 8]", ""), "a.toml:23: parameters.cards: says how many ranks there are: limit it"),
        (changed("[4, 8]", "[0, 8]"), "a.toml:23: parameters.cards: says how many ranks there are: limit it"),
        (changed('"{cards}"', '"{debug}"'), "a.toml:6: ranks: expected a number, or {NAME} of a parameter of type"),
        (
            changed("[slices]", "[slices]\nsteps_per_epoch = 0"),
            "a.toml:42: slices.steps_per_epoch: expected a number of at least 1, or {NAME} of a parameter",
        ),
        (changed("[slices]", "[slices]\nsteps_per_epoch = '{mode}'"), "a.toml:42: slices.steps_per_epoch: expected a"),
        (
            changed("[slices]", "[slices]\nsteps_per_epoch = '{cards}'").replace("[4, 8]", "[0, 8]", 1),
            "a.toml:23: parameters.cards: says how many ranks there are: limit it to 1 to 4096",
        ),
        (changed('"{cards}"', "0"), "a.toml:6: ranks: expected 1 to 4096, found 0"),
        (changed("cards]", "ranks]"), "a.toml:15: parameters: ranks is the name of something else already"),
        (changed('"/data/mnist"', '"data"'), "a.toml:30: parameters.data.default: expected an absolute path"),
        (changed('"fast"', '"quick"'), "a.toml:32: parameters.mode: the default 'quick' is none of the"),
        (changed('"checkpoint/rank', '"/tmp/rank'), "a.toml:42: slices.files: expected a path or a pattern"),
        (changed("(?P<loss>", "(?P<los>"), "a.toml:46: log.patterns: 'epoch: "),
        (changed("(?P<loss>", "(?P<loss"), "a.toml:46: log.patterns: is no regular expression: "),
        (changed("rank = -1", 'rank = -1\nkeys = { loss = "l" }'), "a.toml:45: log: keys are for format 'json'"),
        (changed("{resume_from}", "{resume}"), "a.toml:50: resume.arguments[1]: {resume} is no placeholder here"),
        (changed('"judge.py", ', '"judge.py", "{rank}", '), "a.toml:58: validate.command[2]: {rank} is no place"),
        (changed('command = ["python", "judge.py", "{merged_file}"]', ""), "a.toml:57: validate: minimum, maximum and"),
        (changed("minimum = { accuracy = 0.9 }", ""), "a.toml:57: validate: give a minimum or a maximum"),
        (changed('"digits"', "2020-01-01"), "a.toml:9: model_name: expected no date or time, found 2020"),
        (changed('name = "tutorial"', 'name = "a b"'), "a.toml:2: name: expected letters, digits"),
    ],
)  # fmt: skip
def test_every_mistake_is_said_with_its_line(refusal, text, message):
    found = refusal(text)
    assert found.startswith(message), found


def test_several_mistakes_are_said_at_once(refusal):
    found = refusal(changed('"msrun"', '"srun"').replace("grace = 60", "grace = -1")).splitlines()
    assert [line.split(" ")[0] for line in found] == ["a.toml:5:", "a.toml:54:"]


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ('type = "text"\ndefault = "-x"', "does not begin with -"),
        ('type = "text"\ndefault = "a\\u0000b"', "without NUL"),
        ('type = "text"\ndefault = "b"\npattern = "a+"', "that a\\+ describes as a whole"),
        ('type = "text"\ndefault = "b"\npattern = "(a"', "is no regular expression"),
        ('type = "text"\ndefault = "b"\npattern = "b"\nchoices = ["b"]', "keep one"),
        ('type = "integer"\ndefault = 1\nminimum = 3\nmaximum = 2', "a minimum of at most the maximum"),
        ('type = "integer"\ndefault = 1\nminimum = 3\nchoices = [1]', "keep one kind of limit"),
        ('type = "integer"\ndefault = 1.5', "valid integer"),
        ('type = "number"\ndefault = nan', "finite"),
        ('type = "number"\ndefault = inf', "finite"),
        ('type = "boolean"\ndefault = "yes"', "valid boolean"),
    ],
)
def test_parameters_whose_declaration_contradicts_itself(read, parameter, problem):
    with pytest.raises(ConfigError, match=problem):
        read(f"{LEAST}\n[parameters.p]\n{parameter}\n")


def test_the_steps_of_an_epoch_may_be_a_parameter(read):
    training = read(changed("[slices]", "[slices]\nsteps_per_epoch = '{cards}'"))
    assert training.steps_per_epoch({"cards": 8}) == 8
    assert read(changed("[slices]", "[slices]\nsteps_per_epoch = 5")).steps_per_epoch({}) == 5
    assert read(WHOLE).steps_per_epoch({}) is None
