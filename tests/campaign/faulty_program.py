"""A program with the fault in it, where there is one: `python -m tests.campaign.faulty_program FILE [ARGUMENT…]`."""

from __future__ import annotations

import json
import os
import runpy
import sys

from tests.campaign.faulty import Injection

RANK = ("OMPI_COMM_WORLD_RANK", "RANK_ID")
"""Where mpirun and msrun say it."""


def main() -> None:
    """Run the program as Python would, whose first argument this is."""
    fault = json.loads(os.environ.get("FAULT", "null"))
    if fault and fault["rank"] == int(next(os.environ[name] for name in RANK if name in os.environ)):
        Injection(fault).install()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
