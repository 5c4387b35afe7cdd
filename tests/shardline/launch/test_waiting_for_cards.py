"""A launch waits until its cards are free, says for whom, and holds them as long as anything of it lives."""

import psutil
import pytest

from shardline.launch.card_leases import CardLedger
from shardline.run.directory import Home

from .conftest import wait_until

FOUR = (0, 1, 2, 3)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def ledger(home) -> CardLedger:
    return CardLedger.of_this_host(home, "CPU", FOUR)


@pytest.fixture
def start_on_four(start, home):
    """Start a launch that shares four cards with everybody else who has this home."""

    def start_here(scenario: str = "finish"):
        return start(scenario, SHARDLINE_HOME=str(home.path), SHARDLINE_CARDS="0,1,2,3")

    return start_here


def never(reason: str) -> None:
    raise AssertionError(f"expected no waiting, found: {reason}")


def test_it_waits_for_the_run_that_holds_them_and_says_so(start_on_four, ledger):
    with ledger.lease(1, "other", never):
        launch = start_on_four()
        assert launch.process.stderr.readline() == b"launch: waiting for 4 of 4 cards: other holds 0\n"
    assert launch.wait().exit_code == 0


def test_it_can_be_stopped_while_it_waits(start_on_four, ledger):
    with ledger.lease(4, "other", never):
        launch = start_on_four()
        launch.process.stderr.readline()
        launch.process.terminate()
        ended = launch.wait()
    assert ended.exit_code == 1
    assert "LaunchError: stopped while it waited: waiting for 4 of 4 cards: other holds 0, 1, 2, 3" in ended.stderr


def test_its_cards_are_free_only_when_its_mpirun_is_gone_too(start_on_four, ledger):
    launch = start_on_four("sleep 600")
    launch.wait_for_ranks()
    assert {holder.run for holder in ledger.holders().values()} == {launch.directory.path.name}
    mpirun = psutil.Process(launch.pid_of_mpirun())
    mpirun.suspend()
    launch.process.kill()
    launch.process.wait()
    assert set(ledger.holders()) == set(FOUR)
    mpirun.kill()
    launch.wait_until_nothing_is_left()
    wait_until(lambda: not ledger.holders(), "the cards are given back")
