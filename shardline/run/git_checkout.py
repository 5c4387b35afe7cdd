"""Which commit a folder's files are of, where the folder lies in a git checkout.

The checkout's configuration may name programs that git would run: an fsmonitor, hooks, filters, another git for missing
objects. It is never read. The commit is read from git's own files; whether files differ from it, git is asked with an
empty configuration, and gets no more than a few seconds for its answer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shardline.base.pinned import pin

TIMEOUT_S = 5.0
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REFERENCE = re.compile(r"refs(/[^/\s.][^/\s]*)+")
_LARGEST = 4096
_MOST_REFERENCES = 16 << 20
"""Bytes of `packed-refs` that are read: 200,000 references."""
_MOST_STEPS = 5


@dataclass(frozen=True)
class Checkout:
    """A checkout's folder, its commit in hex, and whether files that git tracks differ from it: `None` if unknown."""

    root: Path
    commit: str
    changed: bool | None


def checkout_around(folder: Path, file: Path | None = None) -> Checkout | None:
    """The checkout that `folder` lies in; `None` where it lies in none, or that has no commit.

    A `file` in it that git does not track makes it a changed one.
    """
    for place in (folder, *folder.parents):
        if (place / ".git").exists():
            return checkout_at(place, file)
    return None


def checkout_at(root: Path, file: Path | None = None) -> Checkout | None:
    """The checkout whose top is `root`; `None` where it is none, or has no commit."""
    git_folder = _git_folder(root)
    if git_folder is None:
        return None
    common = _common_folder(git_folder)
    commit = _commit_of("HEAD", git_folder, common)
    return None if commit is None else Checkout(root, commit, _is_changed(root, git_folder, common, commit, file))


def _git_folder(root: Path) -> Path | None:
    """Git's own folder of a checkout: `.git`, or what a file of that name says, in a linked worktree or a submodule."""
    entry = root / ".git"
    if entry.is_dir():
        return entry
    text = _line(entry)
    return root / text.removeprefix("gitdir: ") if text and text.startswith("gitdir: ") else None


def _common_folder(git_folder: Path) -> Path:
    """Where objects and branches lie: of a linked worktree, in the folder of the checkout that it is linked to."""
    text = _line(git_folder / "commondir")
    return git_folder / text if text else git_folder


def _commit_of(reference: str, git_folder: Path, common: Path) -> str | None:
    """The commit that `reference` leads to; of a branch without a commit yet, or in another storage of git's: None."""
    for _ in range(_MOST_STEPS):
        text = _line(git_folder / reference) or _line(common / reference) or _packed(reference, common)
        if text is None or _COMMIT.fullmatch(text):
            return text
        reference = text.removeprefix("ref: ")
        if not _REFERENCE.fullmatch(reference):
            return None
    return None


def _packed(reference: str, common: Path) -> str | None:
    for line in _content(common / "packed-refs", _MOST_REFERENCES).splitlines():
        commit, _, name = line.partition(" ")
        if name == reference and _COMMIT.fullmatch(commit):
            return commit
    return None


def _line(file: Path) -> str | None:
    """The first line of a small file; `None` where there is none."""
    return _content(file, _LARGEST).partition("\n")[0].strip() or None


def _content(file: Path, most: int) -> str:
    """The beginning of a regular file; empty where there is none that can be read."""
    try:
        with pin(file) as found:
            if not found.is_file:
                return ""
            with found.open() as content:
                return content.read(most).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def _is_changed(root: Path, git_folder: Path, common: Path, commit: str, file: Path | None) -> bool | None:
    """Whether tracked files, or git's index of them, differ from `commit`; `None` where git does not say."""
    if shutil.which("git") is None or not (git_folder / "index").is_file():
        return None
    with tempfile.TemporaryDirectory(prefix="shardline-git-") as folder:
        Path(folder, "refs").mkdir()
        Path(folder, "HEAD").write_text(f"{commit}\n")
        git = {
            "GIT_DIR": folder,
            "GIT_WORK_TREE": str(root),
            "GIT_OBJECT_DIRECTORY": str(common / "objects"),
            "GIT_INDEX_FILE": str(git_folder / "index"),
        }
        differing = _answer(root, git, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        if differing is None or differing or file is None:
            return None if differing is None else bool(differing)
        tracked = _answer(root, git, "ls-files", "--", str(file))
        return None if tracked is None else not tracked


def _answer(root: Path, variables: Mapping[str, str], *question: str) -> bytes | None:
    """What git says; `None` where it fails, or takes too long."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": variables["GIT_DIR"],
        "LC_ALL": "C",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **variables,
    }
    try:
        asked = subprocess.run(
            ["git", *question], cwd=root, env=environment, timeout=TIMEOUT_S, capture_output=True, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if asked.returncode else asked.stdout
