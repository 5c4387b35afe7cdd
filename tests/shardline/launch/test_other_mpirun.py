"""An mpirun that misbehaves: a script in its place."""

import json
import sys

import pytest

VERSION = '[ "$1" = --version ] && { echo "mpirun (Open MPI) 5.0.11"; exit; }\n'
START_FOUR_RANKS = """
while [ "$1" != none ]; do shift; done  # --bind-to none, and perhaps --allow-run-as-root, come before the program
shift; [ "$1" = --allow-run-as-root ] && shift
for rank in 0 1 2 3; do OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=$rank "$@" & done
wait
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Put a shell script in the place of mpirun."""

    def script(text: str) -> None:
        path = tmp_path / "mpirun"
        path.write_text(f"#!/bin/bash\n{VERSION}{text}")
        path.chmod(0o755)
        monkeypatch.setenv("SHARDLINE_MPIRUN", str(path))

    return script


def test_one_that_does_not_leave_after_its_ranks_is_ended(script, start):
    script(f"{START_FOUR_RANKS}\nsleep 600")
    launch = start(PATIENCE='{"leave_grace_s": 0.5}')
    ended = launch.wait()
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["world_size"] == 4
    assert "all ranks finished, although mpirun ended with" in ended.stderr
    assert not launch.alive()


def test_one_that_starts_nothing_is_quoted(script, start, directory):
    script('echo "There are not enough slots available in the system" >&2; exit 1')
    ended = start().wait()
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-3:] == [
        "LaunchError: mpirun left with exit code 1, and ranks 0-3 didn't finish.",
        f"The last lines of mpirun's log, {directory.logs}/mpirun:",
        "  | There are not enough slots available in the system",
    ]


def test_one_that_reports_success_although_no_rank_ran_is_not_believed(script, start, directory):
    script("exit 0")
    ended = start().wait()
    assert ended.exit_code == 1
    assert "LaunchError: ranks 0-3 didn't finish, although mpirun reports success" in ended.stderr


def test_what_ranks_print_before_they_have_a_log_is_quoted(script, start):
    """As where the Python that runs the ranks is broken."""
    script(START_FOUR_RANKS.replace('"$@"', f"{sys.executable} -c 'import no_such_module'") + "exit 1")
    assert "  | ModuleNotFoundError: No module named 'no_such_module'" in start().wait().stderr.splitlines()
