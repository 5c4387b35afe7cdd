"""The virtual environment is made once, and again after an interruption.

`python3.11` is a stub that records what it and the interpreter it "installs" are asked for; nothing is downloaded.
"""

import os
import shutil
import subprocess

import pytest

from scripts.local_airflow import PROJECT

STUB = """#!/bin/sh
echo "$*" >> "{calls}"
case "$*" in
    *sys.version_info*) echo 3.11 ;;
    "-E -m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"uv pip install"*) [ ! -e fail ] ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder, a space in its name, with the installing scripts, a stub of Python and no virtual environment."""
    folder = tmp_path / "a checkout"
    shutil.copytree(PROJECT / "scripts", folder / "scripts")
    (folder / "bin").mkdir()
    stub = folder / "bin" / "python3.11"
    stub.write_text(STUB.format(calls=folder / "calls"))
    stub.chmod(0o755)
    (folder / "requirements-uv.txt").touch()
    return folder


def run(checkout):
    """Run the installation, to its end."""
    return subprocess.run(
        ["scripts/install.sh", "requirements.txt"],
        cwd=checkout,
        env={"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def install(checkout):
    """Run the installation; return its exit code and what Python was asked for."""
    (checkout / "calls").write_text("")
    return run(checkout).returncode, (checkout / "calls").read_text()


def test_how_much_is_fetched_is_said_where_the_environment_is_made(checkout):
    said = "Installing requirements.txt into .venv"
    assert run(checkout).stdout.endswith(f"{said} (about 1.2 GB to download, 3.1 GB on disk)\n")
    assert run(checkout).stdout == f"{said}\n"


def test_the_environment_is_made_once_with_every_hash_checked(checkout):
    code, calls = install(checkout)
    assert code == 0
    assert "-m venv .venv" in calls
    assert "pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt" in calls
    assert "uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.txt" in calls
    code, calls = install(checkout)
    assert code == 0
    assert "-m venv .venv" not in calls


def test_after_an_interruption_it_is_made_from_nothing(checkout):
    (checkout / "fail").touch()
    assert install(checkout)[0] != 0
    (checkout / ".venv" / "half-installed").touch()
    (checkout / "fail").unlink()
    code, calls = install(checkout)
    assert code == 0
    assert "-m venv .venv" in calls
    assert not (checkout / ".venv" / "half-installed").exists()
    assert not (checkout / ".venv" / ".installing").exists()
