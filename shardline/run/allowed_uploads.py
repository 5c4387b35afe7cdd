"""Where a run's parameter `upload_to` may have a model copied to.

Airflow's workers may use every connection that Airflow has, and write where their user may; who triggers a run chooses
among what is meant for models alone: the connections that SHARDLINE_UPLOAD_CONNECTIONS lists (separated by `,`), and
folders below SHARDLINE_ALLOWED_ROOTS, but not those that all runs share.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.run.allowed_roots import ROOTS, AllowedRoots, real_path
from shardline.run.directory import Home

CONNECTIONS = "SHARDLINE_UPLOAD_CONNECTIONS"
_FOLDERS = ("file", "local")
"""Schemes of the worker's own files, as fsspec has them."""


def check_upload(address: str, home: Home, environment: Mapping[str, str]) -> None:
    """`ConfigError` unless a model may be copied to `address`, which `RunConfig` has found to be one."""
    scheme, _, rest = address.partition("://")
    if scheme in _FOLDERS:
        check_upload_folder(Path(rest), home, environment)
        return
    allowed = [name.strip() for name in environment.get(CONNECTIONS, "").split(",") if name.strip()]
    connection = rest.partition("/")[0].rpartition("@")[0]
    if connection not in allowed:
        raise ConfigError(
            f"upload_to {address}: expected one of the connections that {CONNECTIONS} allows "
            f"({', '.join(allowed) or 'none yet'}), found {connection or 'none'}; choose one of these, or add it "
            "in the worker's environment"
        )


def check_upload_folder(folder: Path, home: Home, environment: Mapping[str, str]) -> None:
    """The same for a folder of the worker's own file system, wherever links lead."""
    shared, *added = AllowedRoots.of(home, environment).paths
    real = real_path(folder, "upload_to") if folder.is_absolute() else None
    if real is None or real.is_relative_to(shared) or not AllowedRoots(tuple(added)).allow(real):
        raise ConfigError(
            f"upload_to: expected an absolute folder below one of {ROOTS} ({', '.join(map(str, added)) or 'none yet'}) "
            f"and outside {shared}, found {folder}{f', which is {real}' if real not in (folder, None) else ''}; add "
            "one in the worker's environment, if models may be copied there"
        )
