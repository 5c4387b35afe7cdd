import json
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shardline.base.errors import (
    ConfigError,
    CorruptShard,
    MissingShard,
    OutputError,
    ProofError,
    ReplicaMismatch,
)
from shardline.checkpoint.formats.checkpoint_file import read_checkpoint
from shardline.checkpoint.merging.merge import merge
from shardline.checkpoint.merging.parts import Part, commit_parts, plan_parts, write_part
from shardline.checkpoint.merging.publish import parts_folder
from shardline.checkpoint.merging.record_file import record_path
from shardline.checkpoint.merging.request import MergeRequest, prepare
from shardline.checkpoint.merging.verify import verify
from tests.shardline.checkpoint.sharding import save_shards, save_strategy, tensors

PROJECT = Path(__file__).parents[4]


@pytest.fixture
def request_(tmp_path):
    save_shards(tmp_path / "shards", tensors())
    strategy = save_strategy(tmp_path / "strategy.ckpt")
    return MergeRequest(tmp_path / "shards", (strategy,), tmp_path / "out" / "model.ckpt")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def in_one_process(request: MergeRequest) -> dict[str, bytes]:
    whole = MergeRequest(**{**vars(request), "output": request.output.parent.with_name("whole") / request.output.name})
    merge(whole)
    return contents(whole.output.parent)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_parts_in_any_order_give_the_bytes_of_one_process(request_, count, name):
    request = MergeRequest(**{**vars(request_), "output": request_.output.with_name(name)})
    plan_parts(request)
    for number in random.Random(count).sample(range(1, count + 1), count):
        write_part(request.output, Part(number, count))
    commit_parts(request.output)
    assert contents(request.output.parent) == in_one_process(request)


@pytest.mark.parametrize("options", [{"max_file_size": 500}, {"crc": True}])
def test_several_files_and_checksums_come_out_the_same(request_, options):
    name = "model.ckpt" if "crc" in options else "model.safetensors"
    request = MergeRequest(**{**vars(request_), **options, "output": request_.output.with_name(name)})
    plan_parts(request)
    for number in (2, 1):
        write_part(request.output, Part(number, 2))
    commit_parts(request.output)
    assert contents(request.output.parent) == in_one_process(request)


def test_a_part_can_be_written_twice_and_at_the_same_time(request_):
    plan_parts(request_)
    command = [sys.executable, "-m", "tasks.merge_parts", "write", "--output", str(request_.output), "--part"]
    processes = [subprocess.Popen([*command, part], cwd=PROJECT) for part in ("1/2", "2/2", "1/2", "2/2")]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    commit_parts(request_.output)
    assert contents(request_.output.parent) == in_one_process(request_)


def test_the_parts_divide_the_bytes_about_equally(request_):
    planned = prepare(request_).plan.tensors
    parts = [Part(number, 3).tensors_of(planned) for number in (1, 2, 3)]
    assert [tensor for part in parts for tensor in part] == list(planned)


def test_commit_refuses_while_parts_are_missing(request_):
    merge(request_)
    before = request_.output.read_bytes()
    plan_parts(request_)
    write_part(request_.output, Part(2, 3))
    with pytest.raises(OutputError, match=r"tensors are not proved .* done are \['part-2-of-3.json'\]"):
        commit_parts(request_.output)
    assert request_.output.read_bytes() == before


def test_an_equal_plan_keeps_the_parts_that_are_done(request_):
    plan_parts(request_)
    write_part(request_.output, Part(1, 2))
    plan_parts(request_)
    write_part(request_.output, Part(2, 2))
    commit_parts(request_.output)


def test_a_plan_whose_files_are_gone_is_made_again(request_):
    plan_parts(request_)
    (parts_folder(request_.output) / "model.ckpt").unlink()
    plan_parts(request_)
    write_part(request_.output, Part(1, 1))
    commit_parts(request_.output)


def test_another_plan_discards_the_parts_of_the_old_one(request_):
    plan_parts(request_)
    write_part(request_.output, Part(1, 1))
    plan_parts(MergeRequest(**{**vars(request_), "crc": True}))
    with pytest.raises(OutputError, match="done are no parts"):
        commit_parts(request_.output)


def test_inputs_that_changed_after_planning_are_refused(request_):
    plan_parts(request_)
    save_shards(request_.shards, {**tensors(), "more": np.zeros(3, np.float32)})
    with pytest.raises(CorruptShard, match="not those that were planned; plan again"):
        write_part(request_.output, Part(1, 1))


def test_slices_replaced_by_others_of_the_same_shapes_are_refused(request_):
    """Or one part would be of the old ones and another of the new."""
    plan_parts(request_)
    write_part(request_.output, Part(1, 2))
    save_shards(request_.shards, tensors(1))
    for step in (lambda: write_part(request_.output, Part(2, 2)), lambda: commit_parts(request_.output)):
        with pytest.raises(CorruptShard, match="not those that were planned; plan again"):
            step()


def test_replicas_that_differ_are_refused_by_the_part_that_has_them(request_):
    file = request_.shards / "rank_5" / "checkpoint-1_20.ckpt"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    plan_parts(request_)
    with pytest.raises(ReplicaMismatch, match="rank 5"):
        write_part(request_.output, Part(1, 2))
    write_part(request_.output, Part(2, 2))
    with pytest.raises(OutputError, match="not proved"):
        commit_parts(request_.output)


def test_the_folder_can_be_moved_between_steps(request_, tmp_path):
    plan_parts(request_)
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    try:
        write_part(moved / "out" / "model.ckpt", Part(1, 1))
        commit_parts(moved / "out" / "model.ckpt")
        found = read_checkpoint(moved / "out" / "model.ckpt")
        assert np.array_equal(found["layer1.weight"], tensors()["layer1.weight"])
    finally:
        shutil.move(moved, tmp_path)


def test_without_a_plan_there_is_nothing_to_write(request_):
    with pytest.raises(MissingShard, match="run the plan step first"):
        write_part(request_.output, Part(1, 1))


def test_a_part_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="part 3/2"):
        Part(3, 2)


def test_processes_that_are_killed_can_be_run_again(request_):
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "tasks.merge_parts", *arguments]

    output = ["--output", str(request_.output)]
    plan = ["plan", "--shards", str(request_.shards), "--strategy", str(request_.strategies[0]), *output]
    subprocess.run(command(*plan), cwd=PROJECT, check=True, capture_output=True)
    killed = subprocess.Popen(command("write", *output, "--part", "1/2"), cwd=PROJECT, stderr=subprocess.DEVNULL)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    refused = subprocess.run(command("commit", *output), cwd=PROJECT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("OutputError: ")
    for part in ("2/2", "1/2"):
        subprocess.run(command("write", *output, "--part", part), cwd=PROJECT, check=True, capture_output=True)
    done = subprocess.run(command("commit", *output), cwd=PROJECT, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["merged_file"] == str(request_.output)
    assert not parts_folder(request_.output).exists()
    assert contents(request_.output.parent) == in_one_process(request_)


@pytest.mark.parametrize("planned", ["model.ckpt", "model.safetensors"])
def test_what_was_reserved_in_a_run_goes_with_its_merge_whoever_makes_it(request_, planned):
    of_run = replace(request_, owns_folder=True)
    plan_parts(replace(of_run, output=request_.output.with_name(planned)))
    merge(of_run)
    assert sorted(contents(request_.output.parent)) == ["model.ckpt", "model.ckpt.merge.json"]


def test_a_merge_into_a_folder_of_anybodys_leaves_what_is_planned_there(request_):
    plan_parts(request_)
    merge(request_)
    for number in (1, 2):
        write_part(request_.output, Part(number, 2))
    assert commit_parts(request_.output).digest


@pytest.fixture
def written(request_):
    """Both parts of two are written; nothing is published yet."""
    plan_parts(request_)
    for number in (1, 2):
        write_part(request_.output, Part(number, 2))
    return request_


def published(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def staged(request: MergeRequest, name: str = "model.ckpt") -> Path:
    return parts_folder(request.output) / name


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def place_of(request: MergeRequest, tensor: str) -> tuple[Path, int]:
    """The staged file that holds `tensor`, and where its bytes begin there."""
    for layout in prepare(request).files:
        if tensor in layout.extents:
            return parts_folder(request.output) / layout.name, layout.extents[tensor][0].offset
    raise AssertionError(tensor)


@pytest.mark.parametrize("options", [{}, {"crc": True}, {"max_file_size": 500}])
def test_bytes_that_change_between_a_part_s_proof_and_the_commit_are_not_published(request_, options):
    """As a page of another host that was lost; the part that proved them is named, and written again."""
    name = "model.safetensors" if "max_file_size" in options else "model.ckpt"
    request = MergeRequest(**{**vars(request_), **options, "output": request_.output.with_name(name)})
    merge(request)
    before = published(request.output.parent)
    save_shards(request.shards, tensors(1))
    plan_parts(request)
    for number in (1, 2):
        write_part(request.output, Part(number, 2))
    file, offset = place_of(request, "layer3.weight")
    damage(file, offset + 5)
    with pytest.raises(ProofError, match=r"the bytes of layer3\.weight are not those that part-2-of-2\.json compared"):
        commit_parts(request.output)
    assert published(request.output.parent) == before
    write_part(request.output, Part(2, 2))
    commit_parts(request.output)
    assert contents(request.output.parent) == in_one_process(request)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: damage(path, 0),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
    ],
)
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_headers_and_sizes_that_change_before_the_commit_are_not_published(request_, change, name):
    request = MergeRequest(**{**vars(request_), "output": request_.output.with_name(name)})
    plan_parts(request)
    write_part(request.output, Part(1, 1))
    change(staged(request, name))
    with pytest.raises(ProofError, match="with the headers that were written"):
        commit_parts(request.output)
    assert not request.output.exists()


def test_the_commit_reads_what_was_written_once(written, monkeypatch):
    """The digests of the tensors come from the reading that gives the file's."""
    genuine, opened = Path.open, []

    def count(path: Path, *arguments: object, **options: object) -> object:
        opened.append(path)
        return genuine(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", count)
    commit_parts(written.output)
    assert opened.count(staged(written)) == 1


def test_verify_holds_the_tensors_against_what_was_compared(written):
    """A record whose file's digest is right, as the commit once made it of damaged bytes."""
    commit_parts(written.output)
    record = json.loads(record_path(written.output).read_bytes())
    record["tensors"][0]["digest"] = record["tensors"][1]["digest"]
    record_path(written.output).write_text(json.dumps(record))
    with pytest.raises(ProofError, match=r"as it was published, but layer1\.weight is not what the merge had compared"):
        verify(written.output)


PART_DOCUMENTS = [
    b"",
    b"{",
    b"{}",
    b"[]",
    b"null",
    b'{"plan": 1, "inputs": {}, "proven": {}}',
    b'{"plan": "x", "inputs": [], "proven": {}}',
    b'{"plan": "x", "inputs": {"one": "y"}, "proven": {}}',
    b'{"plan": "x", "inputs": {"0": 1}, "proven": {}}',
    b'{"plan": "x", "inputs": {}, "proven": {"w": {}}}',
    b'{"plan": "x", "inputs": {}, "proven": {"w": {"digest": 1, "slices": 1, "bytes_compared": 1}}}',
    b'{"plan": "x", "inputs": {}, "proven": {"w": {"digest": "", "slices": "1", "bytes_compared": 1}}}',
    b'{"plan": "x", "plan": "x", "inputs": {}, "proven": {}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", PART_DOCUMENTS, ids=range(len(PART_DOCUMENTS)))
def test_a_part_s_document_that_is_none_is_one_clear_error(written, content):
    path = parts_folder(written.output) / "part-1-of-2.json"
    kept = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(
        CorruptShard, match=r"part-1-of-2\.json: this is not what a part leaves .* write that part again"
    ):
        commit_parts(written.output)
    path.write_bytes(kept)
    commit_parts(written.output)


@pytest.mark.parametrize(
    "change", [{"inputs": {"8": "x"}}, {"inputs": {"-1": "x"}}, {"proven": {"no such tensor": None}}]
)
def test_a_part_of_what_is_not_in_the_plan_is_refused(written, change):
    path = parts_folder(written.output) / "part-1-of-2.json"
    document = json.loads(path.read_bytes())
    proven = next(iter(document["proven"].values()))
    document |= {key: {name: found or proven for name, found in value.items()} for key, value in change.items()}
    path.write_text(json.dumps(document))
    with pytest.raises(CorruptShard, match=r"part-1-of-2\.json: it names tensors or ranks that the plan hasn't"):
        commit_parts(written.output)


def test_a_part_of_another_plan_counts_for_nothing(written):
    path = parts_folder(written.output) / "part-1-of-2.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"plan": "another"}))
    with pytest.raises(OutputError, match=r"done are \['part-2-of-2\.json'\]"):
        commit_parts(written.output)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"request": {}, "digest": "x"}', '{"request": 1, "digest": "x"}'])
def test_a_plan_that_is_none_is_one_clear_error(written, content):
    (parts_folder(written.output) / "plan.json").write_text(content)
    for step in (lambda: write_part(written.output, Part(1, 1)), lambda: commit_parts(written.output)):
        with pytest.raises(CorruptShard, match=r"plan\.json"):
            step()
    plan_parts(written)
    write_part(written.output, Part(1, 1))
    commit_parts(written.output)


@pytest.mark.parametrize("name", ["shards", "strategies", "step", "prefix", "integrated", "selection", "max_file_size",
                                  "crc", "allow_non_finite", "owns_folder"])  # fmt: skip
@pytest.mark.parametrize("value", [[3], {"x": 1}, 7, True, "text", None])
def test_a_plan_that_asks_for_nonsense_is_one_error_of_ours(written, name, value):
    path = parts_folder(written.output) / "plan.json"
    document = json.loads(path.read_bytes())
    was = document["request"][name]
    document["request"][name] = value
    path.write_text(json.dumps(document))
    if value == was:
        return
    with pytest.raises(CorruptShard, match=r"plan\.json: this is no plan of a merge in parts: it was changed"):
        commit_parts(written.output)


def test_a_commit_that_was_stopped_after_it_had_published_says_so(written):
    folder = parts_folder(written.output)
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"}
    first = commit_parts(written.output)
    folder.mkdir()
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    again = commit_parts(written.output)
    assert (again.digest, again.was_up_to_date) == (first.digest, True)
    assert not folder.exists()
