import json

import pytest

from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.cli.reshard_command import main, rank_list
from tests.shardline.checkpoint.mindformers import FIXTURES
from tests.shardline.checkpoint.sharding import LAYOUTS, save_shards, save_strategy, tensors


@pytest.fixture
def source(tmp_path):
    """The options that name eight ranks' slices, and the folder to work in."""
    save_shards(tmp_path / "shards", tensors())
    strategy = save_strategy(tmp_path / "8.ckpt", LAYOUTS)
    return ["--shards", str(tmp_path / "shards"), "--strategy", str(strategy)], tmp_path


@pytest.mark.parametrize(
    ("text", "ranks"), [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("0-2,16", (0, 1, 2, 16)), ("5, 1-2,2", (1, 2, 5))]
)
def test_ranks_are_numbers_and_ranges(text, ranks):
    assert rank_list(text) == ranks


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "0-999999999", "1,,2", "٣", "1" * 5000])
def test_other_ranks_are_refused(source, text, capsys):
    options, folder = source
    with pytest.raises(SystemExit) as ended:
        main([*options, "--unsharded", f"--ranks={text}", "--output", str(folder / "out")])
    assert ended.value.code == 2
    assert "expected ranks such as 0-7,16" in capsys.readouterr().err


def test_to_checkpoint2_and_back_by_two_commands(source, capsys):
    options, folder = source
    checkpoint, strategy = str(folder / "checkpoint"), str(folder / "8.ckpt")
    to_it = ["--to-strategy", strategy, "--format", "checkpoint2", "--name", "run", "--json", "--output", checkpoint]
    assert main([*options, *to_it]) == 0
    assert json.loads(capsys.readouterr().out)["ranks"] == 8
    assert next((folder / "checkpoint").glob("iteration_00000020/run-model-0000000-*.safetensors")).is_file()
    back = ["--to-strategy", strategy, "--ranks", "6-7", "--output", str(folder / "back")]
    assert main(["--shards", checkpoint, *back]) == 0
    for rank in (6, 7):
        found = read_checkpoint(folder / "back" / f"rank_{rank}" / "checkpoint-1_20.ckpt")
        expected = read_checkpoint(folder / "shards" / f"rank_{rank}" / "checkpoint-1_20.ckpt")
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: array.tobytes() for name, array in expected.items()
        }
    assert not (folder / "back" / "rank_0").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "reshard to what?"),
        (["--unsharded", "--to-strategy", "x"], "reshard to what?"),
        (["--unsharded", "--strategy", "x"], "whose metadata.json says how it is sharded"),
        (["--unsharded", "--step", "8"], "expected an iteration 8, found [7]"),
        (["--unsharded", "--format", "checkpoint2", "--ranks", "0"], "is one checkpoint of all ranks"),
        (["--unsharded", "--iteration", "3"], "--iteration is of --format checkpoint2"),
        (["--unsharded", "--from", "x"], "reshard from what?"),
    ],
)
def test_options_that_clash_are_named(tmp_path, capsys, options, message):
    assert main(["--shards", str(FIXTURES / "balanced"), *options, "--output", str(tmp_path / "out")]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_notices_are_printed(tmp_path, capsys):
    command = [
        "--shards",
        str(FIXTURES / "balanced"),
        "--unsharded",
        "--weights-only",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    assert "note: weights only: 3 tensors that the optimizer's files hold were left out" in capsys.readouterr().err
