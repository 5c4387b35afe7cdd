"""Runs of described trainings: prepared, and where their slices lie."""

import json
import os

import pytest

from shardline.base.errors import ConfigError
from shardline.run.described_run import prepare_training, slices_of, strategies_of
from shardline.run.directory import Home, RunDirectory
from shardline.settings.housekeeping_config import HousekeepingConfig
from shardline.store.awaited import awaited
from shardline.store.retention import cleanup_of, free

FILE = """
name = "mine"
command = ["{python}", "train.py", "--data", "{data}"]
ranks = 2
[parameters.data]
type = "folder"
default = "DATA"
[parameters.rate]
type = "number"
default = 0.5
maximum = 1
[slices]
files = "ckpt/rank_*/*.ckpt"
strategies = "strategy/*.ckpt"
"""


@pytest.fixture
def prepare(tmp_path):
    """Prepare a run of a description, FILE as `change` leaves it."""
    trainings, data = tmp_path / "trainings", tmp_path / "home" / "data" / "mine"
    trainings.mkdir()
    data.mkdir(parents=True)
    (trainings / "train.py").write_text("")

    def prepared(change=lambda text: text, number=1, **parameters: object) -> RunDirectory:
        file = trainings / "mine.toml"
        file.write_text(change(FILE.replace("DATA", str(data))))
        home = Home(tmp_path / "home")
        run = RunDirectory(home.run("mine", f"run{number}"))
        run.path.mkdir(parents=True, exist_ok=True)
        prepare_training(run, home, file, json.dumps(parameters), {"PATH": os.environ["PATH"]})
        return run

    return prepared


def test_the_configuration_has_the_description_and_what_was_chosen(prepare, tmp_path):
    config = prepare(rate=0.25, checkpoint_step=7).read_any_config()
    assert config.values == {"data": str(tmp_path / "home/data/mine"), "rate": 0.25}
    assert (config.world_size, config.checkpoint_step, config.model_name) == (2, 7, "mine")
    assert config.training.command[-1] == "{data}"


def test_shard_sets_are_found_where_all_others_look_for_them(prepare):
    run = prepare()
    assert run.checkpoints.samefile(run.path / "ckpt")
    prepare()  # cleared and run again
    assert run.checkpoints.samefile(run.path / "ckpt")
    prepare(lambda text: text.replace("ckpt/rank_", "other/rank_"))
    assert run.checkpoints.samefile(run.path / "other")


def test_a_folder_that_takes_their_place_is_refused(prepare):
    run = prepare(lambda text: text.replace("ckpt/rank_", "src_checkpoints/rank_"))
    assert not run.checkpoints.is_symlink()
    with pytest.raises(ConfigError, match=r"slices\.files: .*src_checkpoints is where shard sets lie"):
        prepare()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train.py", "trian.py", "mine.toml: command: there is no .*/trainings/trian.py; give its full path"),
        ("{python}", "pyhton", "command: there is no program 'pyhton' on PATH or in .*/trainings"),
        ("{python}", "./run.sh", "command: there is no program './run.sh' on PATH or in"),
        ("ranks = 2", 'ranks = 2\nworking_directory = "/no/such"', "working_directory: expected .*, found /no/such"),
        ("ranks = 2", 'ranks = 2\nworking_directory = "here"', "working_directory: expected an absolute path of a fol"),
        (
            "[slices]",
            '[validate]\ncommand = ["nothing"]\nmetric = "a"\n[slices]',
            "validate.command: there is no progr",
        ),
    ],
)
def test_a_command_that_cannot_be_started_is_refused(prepare, old, new, message):
    with pytest.raises(ConfigError, match=message):
        prepare(lambda text: text.replace(old, new))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rate": 2}, "rate: Input should be less than or equal to 1"),
        ({"rate": "$(id)"}, "rate: Input should be a valid number"),
        ({"command": ["id"]}, "command: unknown parameter; known are data, rate, checkpoint_step"),
        ({"data": "/etc"}, "data: expected a path below .*, found /etc"),
        ({"data": "data"}, "data: expected an absolute path"),
        ({"champion_margin": 0}, "champion_margin compares metrics, and .*mine.toml has no command in validate"),
        ({"hugging_face_export": "built-in"}, "hugging_face_export 'built-in' is for network 'gpt'"),
        ({"upload_to": "s3://bucket"}, "upload_to s3://bucket: expected one of the connections"),
    ],
)
def test_parameters_outside_of_what_is_declared_are_refused(prepare, parameters, message):
    with pytest.raises(ConfigError, match=message):
        prepare(**parameters)


def test_a_link_does_not_lead_out_of_the_allowed_folders(prepare, tmp_path):
    (tmp_path / "home/data/link").symlink_to("/etc")
    with pytest.raises(ConfigError, match="which is /etc"):
        prepare(data=str(tmp_path / "home/data/link"))


def test_a_program_and_a_script_in_the_run_are_not_looked_for_too_early(prepare):
    prepare(lambda text: text.replace('"train.py"', '"{run_directory}/../{data}"'))
    prepare(lambda text: text.replace('"train.py"', '"{resume_from}"'))


def test_strategies_are_those_of_the_patterns_within_the_run(prepare, tmp_path):
    run = prepare()
    assert strategies_of(run, run.read_any_config()) == ()
    (run.path / "strategy").mkdir()
    for name in ("b.ckpt", "a.ckpt", "other.txt"):
        (run.path / "strategy" / name).write_text("")
    (tmp_path / "outside.ckpt").write_text("")
    (run.path / "strategy" / "link.ckpt").symlink_to(tmp_path / "outside.ckpt")
    assert [path.name for path in strategies_of(run, run.read_any_config())] == ["a.ckpt", "b.ckpt"]


def _save(run: RunDirectory, *files: str) -> None:
    for file in files:
        (run.path / file).parent.mkdir(parents=True, exist_ok=True)
        (run.path / file).write_bytes(b"x" * 100)


def test_housekeeping_frees_slices_wherever_they_lie_and_nothing_else(prepare, tmp_path):
    beside = prepare(lambda text: text.replace("ckpt/rank_", "rank_"), number=1)
    _save(beside, "rank_0/a.ckpt", "rank_1/a.ckpt", "merged/model.ckpt", "log_output/1/rank.0/stdout")
    nested = prepare(lambda text: text.replace("ckpt/rank_", "out/ckpt/rank_"), number=2)
    _save(nested, "out/ckpt/rank_0/a.ckpt", "out/other")
    assert slices_of(beside) == (beside.path / "rank_0", beside.path / "rank_1")
    assert slices_of(nested) == (nested.path / "out" / "ckpt",)
    cleanup = cleanup_of(Home(tmp_path / "home"), HousekeepingConfig(keep_runs=0))
    assert cleanup.size == 300
    free(cleanup)
    for run, left in ((beside, ["log_output/1/rank.0/stdout", "merged/model.ckpt"]), (nested, ["out/other"])):
        assert all((run.path / file).exists() for file in left)
        assert not [path for path in run.path.rglob("*.ckpt") if "merged" not in path.parts]


def test_a_run_whose_path_was_chosen_is_kept_for_it(prepare, tmp_path):
    source = prepare(number=1)
    _save(source, "ckpt/rank_0/a.ckpt")
    reader = prepare(number=2, data=str(source.path / "ckpt"))
    assert awaited(Home(tmp_path / "home"))[source.path] == f"{reader.path} is yet to read from it"


def test_a_damaged_configuration_is_said(prepare):
    run = prepare()
    document = json.loads(run.config_file.read_text())
    run.config_file.write_text(json.dumps(document | {"world_size": 0}))
    with pytest.raises(ConfigError, match="world_size: Input should be greater than or equal to 1"):
        run.read_any_config()
