"""The folders below which tasks read what a user names.

HOME/runs, HOME/models and the folders of SHARDLINE_MERGE_ROOTS (separated by `:`), symbolic links resolved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.run.directory import Home

ROOTS = "SHARDLINE_MERGE_ROOTS"


@dataclass(frozen=True)
class AllowedRoots:
    """The folders below which tasks read."""

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, home: Home, environment: Mapping[str, str]) -> AllowedRoots:
        """The shared folder's runs and models, and what SHARDLINE_MERGE_ROOTS adds."""
        added = [Path(root) for root in environment.get(ROOTS, "").split(os.pathsep) if root]
        return cls(tuple(path.resolve() for path in (home.path / "runs", home.models, *added)))

    def check(self, path: Path, parameter: str) -> Path:
        """`path` with all symbolic links resolved; `ConfigError` unless that is there and below a root."""
        resolved = path.resolve()
        if not any(resolved.is_relative_to(root) for root in self.paths):
            raise ConfigError(
                f"{parameter}: expected a path below {', '.join(map(str, self.paths))}, found {path}"
                f"{f', which is {resolved}' if resolved != path else ''}; "
                f"add its folder to {ROOTS} in the worker's environment, if it may be read"
            )
        if not resolved.exists():
            raise ConfigError(f"{parameter}: there is no {path}")
        return resolved
