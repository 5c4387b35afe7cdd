"""Leases of cards: exclusive, in order, and given back in whatever way a process ends."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardline.base.errors import ConfigError, LaunchError
from shardline.launch.card_leases import CardLedger, cards_of
from shardline.run.directory import Home
from shardline.run.environment import PROJECT
from shardline.run.held_cards import Holder

EIGHT = tuple(range(8))


@pytest.fixture
def ledger(tmp_path: Path) -> CardLedger:
    return CardLedger(tmp_path, EIGHT)


def never(reason: str) -> None:
    raise AssertionError(f"expected no waiting, found: {reason}")


def test_two_runs_at_once_hold_different_cards(ledger: CardLedger):
    with ledger.lease(4, "a", never) as first, ledger.lease(3, "b", never) as second:
        assert (first.cards, second.cards) == ((0, 1, 2, 3), (4, 5, 6))
        assert first.environment == {"SHARDLINE_CARDS": "0,1,2,3"}
        holders = ledger.holders()
    assert holders == {card: Holder("a" if card < 4 else "b", os.getpid()) for card in range(7)}
    assert ledger.holders() == {}


def test_a_run_that_asks_for_more_than_there_are_takes_all(ledger: CardLedger):
    with ledger.lease(64, "a", never) as lease:
        assert lease.cards == EIGHT


def test_who_waits_is_told_for_whom_and_may_give_up(ledger: CardLedger):
    told: list[str] = []
    with (
        ledger.lease(6, "runs/x", never),
        pytest.raises(LaunchError, match="stopped while it waited: waiting for 3 of 8"),
        ledger.lease(3, "runs/y", told.append, give_up=lambda: True),
    ):
        raise AssertionError("there are only two cards left")
    assert told == ["waiting for 3 of 8 cards: runs/x holds 0, 1, 2, 3, 4, 5"]
    with ledger.lease(8, "runs/z", never):
        pass  # whoever gave up left no ticket


WAIT = """
import sys, time
from pathlib import Path
from shardline.launch.card_leases import CardLedger
folder, count, name = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with CardLedger(folder, range(8)).lease(count, name, lambda reason: print(reason, flush=True)) as lease:
    with (folder / "order").open("a") as order:
        order.write(f"{name} {','.join(map(str, lease.cards))}\\n")
    print("held", flush=True)
    sys.stdin.read()
"""


def start(folder: Path, count: int, name: str) -> subprocess.Popen[str]:
    """A process that leases, says so, and holds until its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", WAIT, str(folder), str(count), name],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.stdin.close()
    assert process.wait() == 0


def test_first_come_first_served_so_that_a_large_run_is_not_overtaken(tmp_path: Path):
    holder = start(tmp_path, 5, "holder")
    assert holder.stdout.readline() == "held\n"
    large = start(tmp_path, 8, "large")
    assert large.stdout.readline() == "waiting for 8 of 8 cards: holder holds 0, 1, 2, 3, 4\n"
    small = start(tmp_path, 1, "small")
    assert small.stdout.readline() == "waiting for 1 of 8 cards, behind 1 other: holder holds 0, 1, 2, 3, 4\n"
    end(holder)
    assert large.stdout.readline() == "held\n"
    end(large)
    end(small)
    assert (tmp_path / "order").read_text().splitlines() == ["holder 0,1,2,3,4", "large 0,1,2,3,4,5,6,7", "small 0"]


def test_a_killed_process_gives_back_its_cards_and_its_place(tmp_path: Path):
    holder = start(tmp_path, 8, "holder")
    assert holder.stdout.readline() == "held\n"
    waiting = start(tmp_path, 8, "waiting")
    assert waiting.stdout.readline().startswith("waiting")
    waiting.kill()
    holder.kill()
    waiting.wait()
    holder.wait()
    with CardLedger(tmp_path, EIGHT).lease(8, "next", never) as lease:
        assert lease.cards == EIGHT


def test_cards_stay_held_while_a_process_that_uses_them_lives(ledger: CardLedger):
    """mpirun outlives a killed launcher by a moment: its cards are not free meanwhile."""
    with ledger.lease(8, "a", never) as lease:
        user = subprocess.Popen(["sleep", "600"], pass_fds=lease.descriptors)
    assert set(ledger.holders()) == set(EIGHT)
    user.kill()
    user.wait()
    assert ledger.holders() == {}


def test_twenty_at_once_never_share_a_card(tmp_path: Path):
    processes = [start(tmp_path, 1 + number % 5, f"run{number}") for number in range(20)]
    seen: dict[str, tuple[int, ...]] = {}
    holding: list[subprocess.Popen[str]] = list(processes)
    ledger = CardLedger(tmp_path, EIGHT)
    while holding:
        order = (tmp_path / "order").read_text().splitlines() if (tmp_path / "order").exists() else []
        for line in order[len(seen) :]:
            name, cards = line.split()
            seen[name] = tuple(map(int, cards.split(",")))
            assert all(ledger.holders()[card].run == name for card in seen[name])
            process = processes[int(name.removeprefix("run"))]
            end(process)
            holding.remove(process)
        time.sleep(0.02)
    assert {name: len(cards) for name, cards in seen.items()} == {f"run{n}": 1 + n % 5 for n in range(20)}


def test_the_cards_of_a_worker_are_set_by_its_environment():
    assert cards_of({}) == EIGHT
    assert cards_of({"SHARDLINE_DEVICE_SLOTS": "2"}) == (0, 1)
    assert cards_of({"SHARDLINE_DEVICE_SLOTS": "2", "SHARDLINE_CARDS": "5,3"}) == (5, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHARDLINE_CARDS", "0,0"),
        ("SHARDLINE_CARDS", "0-3"),
        ("SHARDLINE_DEVICE_SLOTS", "0"),
        ("SHARDLINE_DEVICE_SLOTS", "eight"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str):
    with pytest.raises(ConfigError, match=f"{name}: expected .* found '{value}'"):
        cards_of({name: value})


def test_the_command_shows_who_holds_what(tmp_path: Path):
    ledger = CardLedger.of_this_host(Home(tmp_path), "CPU", EIGHT)
    with ledger.lease(2, "runs/x", never):
        shown = subprocess.run(
            [sys.executable, "-m", "tasks.cards"],
            cwd=PROJECT,
            env=os.environ | {"SHARDLINE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
    assert json.loads(shown.stdout) == {"CPU": {"runs/x": [0, 1]}}
