"""The page on Ascend, GPU and several hosts names what there is."""

import importlib.util
import re
import subprocess
from pathlib import Path

from shardline.launch import mpirun, visible_cards
from shardline.launch.hosts import Host, hosts_of
from shardline.settings.run_config import RunConfig

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "devices.md").read_text()
SOURCES = "".join(file.read_text() for file in PROJECT.glob("shardline/**/*.py"))


def named(pattern: str) -> set[str]:
    return set(re.findall(pattern, PAGE))


def test_its_parameters_are_parameters():
    mentioned = named(r"`([a-z]+_[a-z_]+|hostfile|epochs)`")
    assert mentioned >= {"device_target", "world_size", "hostfile", "batch_size"}
    assert mentioned <= RunConfig.model_fields.keys() | {"hccn_tool"}


def test_its_variables_of_ours_are_read_by_the_code():
    ours = named(r"\bSHARDLINE_[A-Z]+[A-Z_]*[A-Z]\b")
    assert len(ours) >= 5
    assert not {variable for variable in ours if variable not in SOURCES}


def test_what_it_says_is_passed_on_is_passed_on_and_the_choice_of_cards_is_not():
    libraries = named(r"`((?:HCCL|NCCL|ASCEND_GLOBAL)_[A-Z_]+)\b")
    assert len(libraries) >= 8
    assert set(mpirun.passed_on(dict.fromkeys(libraries, "1"))) == libraries
    prefixes = named(r"`([A-Z]+_)`")
    assert set(mpirun.passed_on({f"{prefix}X": "1" for prefix in prefixes})) == {f"{prefix}X" for prefix in prefixes}
    chosen = {kind.variable for kind in visible_cards.KINDS.values()} | {"SHARDLINE_CARDS", "SHARDLINE_DEVICE_SLOTS"}
    assert all(variable in PAGE for variable in chosen)
    assert mpirun.passed_on(dict.fromkeys(chosen, "1")) == []


def test_its_modules_exist_and_its_make_targets_too():
    for module in named(r"\b((?:tasks|shardline)(?:\.[a-z_]+)+)\b"):
        assert importlib.util.find_spec(module), module
    for target in named(r"`?make ([a-z]+)"):
        subprocess.run(["make", "-n", target], cwd=PROJECT, capture_output=True, check=True)


def test_its_hostfile_is_one(tmp_path):
    (tmp_path / "hostfile").write_text(re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1])
    allowed = {"SHARDLINE_ALLOWED_ROOTS": str(tmp_path)}
    assert hosts_of(str(tmp_path / "hostfile"), 16, allowed) == (
        Host("10.0.0.1", 8),
        Host("10.0.0.2", 8),
    )
