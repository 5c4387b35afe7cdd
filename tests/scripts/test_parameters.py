"""The page of parameters is the schema's, not somebody's memory of it."""

from pathlib import Path

from scripts.parameters import page

PROJECT = Path(__file__).parents[2]


def test_the_page_of_parameters_is_up_to_date():
    assert (PROJECT / "docs" / "parameters.md").read_text() == page(), "run `make docs`"
