import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardline.base.digest import file_digest
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint, write_checkpoint
from shardline.cli.merge_command import main
from shardline.cli.options import output_with_format, size
from tests.commands import run_here
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    """The tutorial's own output folder: several steps a rank, a graph beside them, no manifest."""
    save_shards(tmp_path / "shards", tensors(seed=1), name="checkpoint-1_100.ckpt")
    save_shards(tmp_path / "shards", tensors(), name="checkpoint-2_20.ckpt")
    for rank in range(8):
        (tmp_path / "shards" / f"rank_{rank}" / "checkpoint-graph.meta").write_bytes(b"graph")
    save_strategy(tmp_path / "strategy.ckpt")
    return tmp_path


def source_in(folder: Path) -> list[str]:
    return ["--shards", str(folder / "shards"), "--strategy", str(folder / "strategy.ckpt")]


def merge(folder: Path, *arguments: str, source: bool = True) -> subprocess.CompletedProcess[str]:
    return run_here(main, [*(source_in(folder) if source else []), *arguments], os.environ)


def merge_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as anyone starts it."""
    command = [sys.executable, "-m", "tasks.merge", *source_in(folder), *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_the_tutorials_folder_works_as_it_is(folder):
    done = merge_alone(folder, "--output", str(folder / "out" / "model.ckpt"))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["step"] == "2_20"
    assert result["digest"] == file_digest(folder / "out" / "model.ckpt")
    assert "proved: 48 slices of 6 tensors compared" in done.stdout
    assert "from 8 files, rank_0/checkpoint-2_20.ckpt to rank_7/checkpoint-2_20.ckpt" in done.stdout
    found = read_checkpoint(folder / "out" / "model.ckpt")
    assert all(np.array_equal(found[name], array) for name, array in tensors().items())


def test_of_several_trainings_one_is_chosen_by_its_prefix(folder):
    save_shards(folder / "shards", tensors(seed=1), name="other-9_9.ckpt")
    output = folder / "out" / "model.ckpt"
    refused = merge(folder, "--output", str(output))
    assert refused.returncode == 1
    for prefix, seed in (("checkpoint", 0), ("oth*", 1)):
        assert "--prefix checkpoint " in refused.stderr
        assert merge(folder, "--output", str(output), "--prefix", prefix).returncode == 0
        record = json.loads(next(output.parent.glob("*merge.json")).read_text())
        assert record["inputs"]["files"][3]["path"].startswith(f"rank_3/{prefix[:3]}")
        assert np.array_equal(read_checkpoint(output)["layer1.weight"], tensors(seed)["layer1.weight"])


@pytest.mark.parametrize("step", ["1_100", "100"])
def test_a_step_is_named_as_the_files_name_it(folder, step):
    assert merge(folder, "--output", str(folder / "out" / "model.ckpt"), "--step", step).returncode == 0
    found = read_checkpoint(folder / "out" / "model.ckpt")
    assert np.array_equal(found["layer1.bias"], tensors(seed=1)["layer1.bias"])


def test_options_select_cast_and_format(folder):
    options = ["--format", "safetensors", "--weights-only", "--exclude", "*.bias", "--dtype", "bfloat16", "--json"]
    done = merge(folder, "--output", str(folder / "out" / "model"), *options)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    found = read_checkpoint(folder / "out" / "model.safetensors")
    assert {(name, found.header(name).type.name) for name in found} == {
        ("layer1.weight", "BFloat16"),
        ("layer3.weight", "BFloat16"),
    }


def test_includes_are_globs(folder):
    merge(folder, "--output", str(folder / "out" / "model.ckpt"), "--include", "layer1.*", "learning_rate")
    assert list(read_checkpoint(folder / "out" / "model.ckpt")) == ["layer1.weight", "layer1.bias", "learning_rate"]


def test_a_dry_run_forecasts_and_changes_nothing(folder):
    done = merge_alone(folder, "--output", str(folder / "out" / "model.ckpt"), "--dry-run")  # its memory is forecast
    forecast = json.loads(done.stdout.splitlines()[-1])
    assert not (folder / "out").exists()
    assert (forecast["tensors"], forecast["ranks"], forecast["step"]) == (6, 8, "2_20")
    assert forecast["fits"] is True
    assert forecast["memory"] < 128e6
    merge(folder, "--output", str(folder / "out" / "model.ckpt"))
    assert forecast["bytes_written"] == (folder / "out" / "model.ckpt").stat().st_size


def test_a_second_merge_says_that_nothing_was_done(folder):
    merge(folder, "--output", str(folder / "out" / "model.ckpt"))
    done = merge(folder, "--output", str(folder / "out" / "model.ckpt"))
    assert "is up to date: nothing was done" in done.stdout


def test_several_files_are_published_under_one_index(folder):
    output = str(folder / "out" / "model.safetensors")
    done = merge(folder, "--output", output, "--max-file-size", "500B")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names[3:] == ["model.safetensors.index.json", "model.safetensors.merge.json", "param_name_map.json"]
    assert all(re.fullmatch(r"model-[0-9a-f]{8}-0000\d-of-00003.safetensors", name) for name in names[:3])
    assert merge(folder, "--verify", output, source=False).returncode == 0
    assert "up to date" in merge(folder, "--output", output, "--max-file-size", "500B").stdout
    merge(folder, "--output", output, "--max-file-size", "500B", "--step", "1_100")
    replaced = sorted(path.name for path in (folder / "out").iterdir())
    assert len(replaced) == len(names)
    assert not set(replaced) & set(names[:3])


def test_a_merged_file_is_verified_from_its_record_alone(folder, tmp_path):
    merge(folder, "--output", str(folder / "out" / "model.ckpt"))
    moved = tmp_path / "elsewhere"
    (folder / "out").rename(moved)
    done = merge(folder, "--verify", str(moved / "model.ckpt"), source=False)
    assert json.loads(done.stdout.splitlines()[-1])["tensors"] == 6
    content = bytearray((moved / "model.ckpt").read_bytes())
    content[-1] ^= 1
    (moved / "model.ckpt").write_bytes(content)
    failed = merge(folder, "--verify", str(moved / "model.ckpt"), source=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("ProofError: ")
    assert "damaged: learning_rate" in failed.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x.bin"], "ConfigError: x.bin: expected an output named"),
        (["--output", "x.ckpt", "--format", "safetensors"], "contradict each other"),
        (["--output", "x.ckpt", "--max-file-size", "1GB"], "ConfigError: --max-file-size is for .safetensors"),
        (["--output", "x.safetensors", "--crc"], "ConfigError: --crc is for .ckpt"),
        (["--output", "x.ckpt", "--step", "newest"], "MissingShard: "),
        ([], "ConfigError: --shards DIR and --output FILE go together"),
        (
            ["--output", "x.ckpt", "--run-directory", "y"],
            "--output, --shards, --strategy: the run's own parameters say",
        ),
        (["--output", "x.ckpt", "--max-file-size", "much"], "expected a size such as 60KB, 5GB"),
        (["--output", "x.ckpt", "--workers", "0"], "expected a number of at least 1"),
        (["--output", "x.ckpt", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_bad_options_are_one_message(folder, arguments, message):
    done = merge(folder, *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(PROJECT.glob("x.*"))


def test_resharding_by_hand(folder):
    command = [sys.executable, "-m", "tasks.reshard", "--shards", str(folder / "shards"), "--json"]
    strategy = str(folder / "strategy.ckpt")
    options = ["--strategy", strategy, "--to-strategy", strategy, "--output", str(folder / "again")]
    done = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["ranks"] == 8
    for rank in range(8):
        name = f"rank_{rank}/checkpoint-2_20.ckpt"
        assert (folder / "again" / name).read_bytes() == (folder / "shards" / name).read_bytes()


def test_a_merge_by_hand_imports_nothing_heavy():
    code = "import sys, tasks.merge; print(sorted({'mindspore', 'airflow', 'pydantic', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MERGE_AND_PRINT_PEAK = """
import re, sys
from pathlib import Path
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.request import MergeRequest
folder, workers = Path(sys.argv[1]), int(sys.argv[2])
merge(MergeRequest(folder, (), folder / "out" / "model.ckpt", integrated=True, workers=workers))
# What getrusage gives outlives exec and counts the parent's memory.
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize("workers", [2, 16])
def test_memory_grows_neither_with_the_model_nor_with_the_workers(tmp_path, workers):
    """Peak resident memory of a whole process, at 4 MB and at 256 MB of one tensor."""
    peaks = []
    for rows in (1 << 10, 1 << 16):
        (tmp_path / f"{rows}" / "rank_0").mkdir(parents=True)
        write_checkpoint({"w": np.zeros((rows, 1024), np.float32)}, tmp_path / f"{rows}" / "rank_0" / "x.ckpt")
        done = subprocess.run(
            [sys.executable, "-c", MERGE_AND_PRINT_PEAK, str(tmp_path / f"{rows}"), str(workers)],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) << 10)
    assert max(peaks) < 128e6
    assert peaks[1] - peaks[0] < 80e6


@pytest.mark.parametrize(
    ("text", "count"), [("5GB", 5_000_000_000), ("512MiB", 1 << 29), ("1.5k", 1500), ("100", 100), ("2TB", 2 * 10**12)]
)
def test_sizes_are_decimal_or_binary(text, count):
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "1XB", "1e9"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        size(text)


def test_a_format_gives_a_name_without_suffix_one():
    assert output_with_format(Path("a/model.v1"), "ckpt") == Path("a/model.v1.ckpt")
    assert output_with_format(Path("a/model.ckpt"), None) == Path("a/model.ckpt")


def run(*arguments: str | bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "shardline", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ((b"--exclude", b"v\xff*"), b"an option that selects: expected UTF-8, found 'v\\udcff*'"),
        ((b"--include", b"v\xff*"), b"an option that selects: expected UTF-8"),
        ((b"--prefix", b"v\xff"), b"expected UTF-8"),
    ],
)
def test_options_that_are_no_utf_8_are_refused(folder, given, problem):
    source = ("--shards", str(folder / "shards"), "--strategy", str(folder / "strategy.ckpt"))
    for command in ("merge", "reshard"):
        target = ("--to-strategy", str(folder / "strategy.ckpt")) if command == "reshard" else ()
        output = folder / ("new" if target else "model.ckpt")
        done = run(command, *source, *target, "--output", str(output), *given)
        assert (done.returncode, b"Traceback" in done.stderr, output.exists()) == (2, False, False)
    assert problem in done.stderr


def test_names_of_files_that_are_no_utf_8_are_refused_or_right(folder):
    source = ("--shards", str(folder / "shards"), "--strategy", str(folder / "strategy.ckpt"))
    strange = bytes(folder) + b"/o\xff"
    done = run("merge", *source, "--output", strange + b"/model.ckpt")
    assert done.returncode == 0, done.stderr
    assert b"o\\udcff/model.ckpt" in done.stdout
    done = run("merge", *source, "--output", strange + b"/m\xff.ckpt")
    assert (done.returncode, b"the output's name: expected UTF-8" in done.stderr) == (2, True)
    for rank in range(8):
        place = bytes(folder) + b"/shards/rank_%d/" % rank
        Path(os.fsdecode(place + b"checkpoint-2_20.ckpt")).rename(os.fsdecode(place + b"c\xff-2_20.ckpt"))
        Path(os.fsdecode(place + b"checkpoint-1_100.ckpt")).unlink()
    done = run("merge", *source, "--output", str(folder / "model.ckpt"))
    assert (done.returncode, b"a file of the slices: expected UTF-8" in done.stderr) == (2, True)
    assert not (folder / "model.ckpt").exists()
    renamed = (folder / "shards").rename(os.fsdecode(bytes(folder) + b"/s\xff"))
    done = run("merge-parts", "plan", "--shards", bytes(renamed), *source[2:], "--output", str(folder / "m.ckpt"))
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)
    assert b"expected UTF-8" in done.stderr
