"""Which Python the virtual environment is made with, and what is said where none will do."""

import subprocess

import pytest

from scripts.local_airflow import PROJECT


@pytest.fixture
def machine(tmp_path):
    """A machine that has only the Pythons given: their names, versions, and whether they have ensurepip."""

    def build(**pythons: tuple[str, bool]):
        for name, (version, complete) in pythons.items():
            stub = tmp_path / name.replace("_", ".")
            answer = f'case "$3" in *ensurepip*) exit {0 if complete else 1};; *) echo {version};; esac'
            stub.write_text(f"#!/bin/sh\n{answer}\n")
            stub.chmod(0o755)
        return tmp_path

    return build


def find(folder, *arguments: str):
    return subprocess.run(
        ["/bin/sh", PROJECT / "scripts" / "find_python.sh", *arguments],
        env={"PATH": f"{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_preferred_version_is_taken(machine):
    folder = machine(python3=("3.12", True), python3_12=("3.12", True), python3_11=("3.11", True))
    assert find(folder).stdout.strip() == f"{folder}/python3.11"


def test_one_without_ensurepip_is_passed_over(machine):
    folder = machine(python3_11=("3.11", False), python3_10=("3.10", True))
    assert find(folder).stdout.strip() == f"{folder}/python3.10"


def test_what_is_wrong_with_each_is_said(machine):
    folder = machine(python3_11=("3.11", False), python3=("3.13", True))
    finished = find(folder)
    assert finished.returncode == 1
    assert f"{folder}/python3.11 lacks venv or ensurepip (Debian, Ubuntu: apt-get install python3.11-venv)" in (
        finished.stderr
    )
    assert f"{folder}/python3 is Python 3.13" in finished.stderr
    assert "Shardline needs Python 3.10, 3.11 or 3.12" in finished.stderr


def test_only_the_named_one_is_considered(machine):
    folder = machine(python3_11=("3.11", True), python3_13=("3.13", True))
    assert find(folder, "python3.13").returncode == 1
    assert find(folder, "python3.14").stderr.splitlines()[1] == "Found: none of python3.14"
