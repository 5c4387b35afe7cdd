"""The page of what the campaign tried says what its record does."""

import json
from pathlib import Path

from scripts.reliability import page
from tests.campaign.faults import ALL
from tests.campaign_record import record


def test_the_page_has_every_kind_with_its_tries_its_result_and_its_seeds(tmp_path: Path, monkeypatch):
    file = tmp_path / "record.jsonl"
    monkeypatch.setenv("CAMPAIGN_RECORD", str(file))
    record("faults", "a rank is killed", tries=1, failed=["Odd: a | b\nc"], seed=None)
    record("faults", "a rank is killed", tries=1, failed=[], seed=None)
    record("faults", "no space", tries=1, failed=["Odd: a | b\nc"], seed=None)
    record("disk", "sequences", tries=500, failed=[], seed=0)
    record("disk", "sequences", tries=500, failed=[], seed=1)
    made = page(file.read_text().splitlines(), ["no space", "a flood"])
    assert "not run to its end yet: a flood." in made
    assert "yet: no space" not in made
    before = "before that 1 try failed: Odd: a \\| b c"
    assert f"| a rank is killed | 2 | as promised; {before} | none: it comes at one place |" in made, "all are told"
    assert "| no space | 1 | failed: Odd: a \\| b c | none: it comes at one place |" in made
    assert "| sequences | 1,000 | as promised | 0, 1 |" in made
    assert "2 kinds, tried 3 times." in made
    assert made.count("Not tried.") == 1
    assert [json.loads(line)["kind"] for line in file.read_text().splitlines()][-1] == "sequences"


def test_the_page_is_what_the_kept_record_says():
    project = Path(__file__).parents[2]
    kept = (project / "tests" / "campaign" / "record.jsonl").read_text().splitlines()
    assert (project / "docs" / "reliability.md").read_text() == page(kept, [fault.kind for fault in ALL])


def test_numbers_in_a_row_are_the_first_and_the_last():
    def line(seed: object) -> str:
        return json.dumps({"part": "disk", "kind": "sequences", "tries": 1, "failed": [], "seed": seed})

    assert "| 0 to 3 |" in page(map(line, [3, 0, 1, 2]))
    assert "| 0, 1, 3 |" in page(map(line, [0, 1, 3]))
    assert "| room for 50%, room for 0% |" in page(map(line, ["room for 50%", "room for 0%"]))


def test_without_a_file_to_write_to_nothing_is_recorded(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("CAMPAIGN_RECORD", raising=False)
    monkeypatch.chdir(tmp_path)
    record("disk", "sequences", tries=1, failed=[], seed=0)
    assert not [*tmp_path.iterdir()]
