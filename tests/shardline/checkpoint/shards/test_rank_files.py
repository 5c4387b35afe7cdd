"""What the names of rank files say, as MindSpore 2.10's sources and MindFormers 1.x write them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.checkpoint.shards.rank_files import (
    UNNUMBERED,
    Label,
    Lineage,
    Moment,
    Reading,
    by_reading,
    lineage,
    named_rank,
    readings,
)


@pytest.mark.parametrize(
    ("name", "label", "moment"),
    [
        ("CKP-1_10.ckpt", Label("CKP", ".ckpt"), (1, 10)),
        ("CKP_1-1_10.safetensors", Label("CKP_1", ".safetensors"), (1, 10)),
        ("CKP-1_7_breakpoint.ckpt", Label("CKP", ".ckpt", is_breakpoint=True), (1, 7)),
        ("qwen2.5-7b-0_5-1_10.ckpt", Label("qwen2.5-7b-0_5", ".ckpt"), (1, 10)),
        ("llama3_8b_rank_3-1_2.ckpt", Label("llama3_8b_rank_*", ".ckpt"), (1, 2)),
        ("llama3_8b_rank_3_1-1_2.ckpt", Label("llama3_8b_rank_*_1", ".ckpt"), (1, 2)),
        ("ttp_rank_3-4_2.ckpt", Label("ttp_rank_*", ".ckpt"), (4, 2)),
        ("llama3_8b_rank_3-network.ckpt", Label("llama3_8b_rank_*-network", ".ckpt"), None),
        ("llama3_8b_rank_3-network-1_2.ckpt", Label("llama3_8b_rank_*-network", ".ckpt"), (1, 2)),
        ("checkpoint_3.ckpt", Label("checkpoint_*", ".ckpt"), None),
        ("net3.safetensors", Label("net*", ".safetensors"), None),
        ("CKP-exception.ckpt", Label("CKP-exception", ".ckpt"), None),
        ("CKP-01_001.ckpt", Label("CKP", ".ckpt", is_padded=True), (1, 1)),
        ("my model (1)-1_1.ckpt", Label("my model (1)", ".ckpt"), (1, 1)),
        ("模型-1_1.ckpt", Label("模型", ".ckpt"), (1, 1)),
        ("frank_3-1_1.ckpt", Label("frank_*", ".ckpt"), (1, 1)),
    ],
)
def test_a_name_says_prefix_moment_and_rank(name, label, moment):
    assert next(readings(name, 3)) == Reading(label, Moment(*moment) if moment else UNNUMBERED)


def test_another_ranks_number_is_part_of_the_prefix():
    assert [reading.label.prefix for reading in readings("llama_rank_3-1_2.ckpt", 5)] == ["llama_rank_3"]
    assert [reading.label.prefix for reading in readings("exp_13-1_2.ckpt", 3)] == ["exp_13"]
    assert [reading.label.prefix for reading in readings("exp_rank_13-1_2.ckpt", 3)] == ["exp_rank_13"]


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("a_rank_12-1_2.ckpt", 12),
        ("rank_0.ckpt", 0),
        ("a-rank3.ckpt", 3),
        ("frank_3.ckpt", None),
        ("CKP-1_2.ckpt", None),
    ],
)
def test_a_flat_folders_names_name_the_rank(name, rank):
    assert named_rank(name) == rank


def test_the_reading_that_more_ranks_share_is_taken():
    """`net0` on every rank is one name; `net0`, `net1` and so on are one name with the rank in it."""
    same = {rank: [Path("net0.ckpt")] for rank in range(3)}
    assert list(by_reading(same)) == [Reading(Label("net0", ".ckpt"), UNNUMBERED)]
    own = {rank: [Path(f"net{rank}.ckpt")] for rank in range(3)}
    assert list(by_reading(own)) == [Reading(Label("net*", ".ckpt"), UNNUMBERED)]
    restarted = {rank: [Path("CKP_1-1_2.ckpt")] for rank in range(3)}
    assert list(by_reading(restarted)) == [Reading(Label("CKP_1", ".ckpt"), Moment(1, 2))]


@pytest.mark.parametrize(
    ("prefix", "others", "expected"),
    [
        ("CKP_1", {"CKP", "CKP_1"}, ("CKP", 1)),
        ("CKP", {"CKP", "CKP_1"}, ("CKP", 0)),
        ("gpt_13", {"gpt_7", "gpt_13"}, ("gpt_13", 0)),
        ("llama_rank_*_2", {"llama_rank_*_2"}, ("llama_rank_*", 2)),
        ("llama_rank_*_1-network", {"llama_rank_*-network"}, ("llama_rank_*-network", 1)),
        ("llama_rank_*-network", {"llama_rank_*-network"}, ("llama_rank_*-network", 0)),
    ],
)
def test_a_restart_is_known_by_its_number_beside_the_first(prefix, others, expected):
    assert lineage(prefix, frozenset(others)) == Lineage(*expected)


prefixes = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda prefix: not prefix.startswith(".")
)


@given(
    prefix=prefixes | st.sampled_from(["rank_3", "a_rank_1", "7b", "x-1_2", "rank", "é_0", "a\nb"]),
    tail=st.tuples(st.sampled_from(["", "_1", "_12"]), st.sampled_from(["", "-network", "-trainable_params"])),
    moment=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    suffix=st.sampled_from([".ckpt", ".safetensors"]),
    world_size=st.integers(1, 16),
)
def test_mindformers_names_read_alike_on_all_ranks(prefix, tail, moment, suffix, world_size):
    (epoch, step), (restart, part) = moment, tail
    names = {rank: f"{prefix}_rank_{rank}{restart}{part}-{epoch}_{step}{suffix}" for rank in range(world_size)}
    found = by_reading({rank: [Path(name)] for rank, name in names.items()})
    (reading,) = found
    assert reading == Reading(Label(f"{prefix}_rank_*{restart}{part}", suffix), Moment(epoch, step))
    assert {rank: path.name for rank, path in found[reading].items()} == names
    assert lineage(reading.label.prefix, frozenset()) == Lineage(f"{prefix}_rank_*{part}", int(restart[1:] or 0))


@given(
    prefix=prefixes,
    moment=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    world_size=st.integers(2, 16),
)
def test_one_name_on_all_ranks_is_one_name(prefix, moment, world_size):
    name = f"{prefix}-{moment[0]}_{moment[1]}.ckpt"
    (reading,) = by_reading({rank: [Path(name)] for rank in range(world_size)})
    assert reading == Reading(Label(prefix, ".ckpt"), Moment(*moment))
