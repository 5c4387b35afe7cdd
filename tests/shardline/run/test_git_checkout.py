"""The commit of a folder, against what git itself says; nothing of what a checkout's configuration names is run."""

import os
import subprocess
from pathlib import Path

import pytest

from shardline.run import git_checkout
from shardline.run.git_checkout import Checkout, checkout_around, checkout_at
from tests.patience import PATIENCE_S

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(folder: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", **IDENTITY}
    asked = subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return asked.stdout.strip()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(git_checkout, "TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "package").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "train.py").write_text("print(1)\n")
    (folder / "package" / "net.py").write_text("")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_commit_is_the_one_that_git_names(root):
    head = git(root, "rev-parse", "HEAD")
    assert checkout_around(root / "package") == Checkout(root, head, changed=False)
    git(root, "checkout", "-q", "--detach")
    assert checkout_at(root) == Checkout(root, head, changed=False)


def test_a_packed_branch_an_annotated_tag_beside_it_and_packed_objects(root):
    git(root, "tag", "-a", "-m", "one", "v1")
    git(root, "pack-refs", "--all")
    git(root, "gc", "-q")
    assert not (root / ".git" / "refs" / "heads" / "main").exists()
    assert checkout_at(root) == Checkout(root, git(root, "rev-parse", "HEAD"), changed=False)


def test_a_linked_worktree_has_its_own_commit_and_changes(root, tmp_path):
    git(root, "worktree", "add", "-q", "-b", "other", "../linked")
    linked = tmp_path / "linked"
    (linked / "train.py").write_text("print(2)\n")
    git(linked, "commit", "-q", "-a", "-m", "second")
    (linked / "train.py").write_text("print(3)\n")
    assert checkout_at(linked) == Checkout(linked, git(linked, "rev-parse", "HEAD"), changed=True)
    assert checkout_at(root) == Checkout(root, git(root, "rev-parse", "HEAD"), changed=False)


@pytest.mark.parametrize("words", [(), ("add", "train.py"), ("rm", "-q", "--cached", "train.py")])
def test_a_changed_file_is_a_change_in_the_tree_or_the_index(root, words):
    (root / "train.py").write_text("print(2)\n")
    if words:
        git(root, *words)
    assert checkout_at(root).changed is True


def test_a_file_that_was_only_touched_or_is_not_tracked_is_none(root):
    os.utime(root / "train.py", (1, 1))
    (root / "notes.txt").write_text("mine")
    assert checkout_at(root).changed is False
    before = (root / ".git" / "index").read_bytes()
    checkout_at(root)
    assert (root / ".git" / "index").read_bytes() == before


def test_a_program_that_git_does_not_track_is_a_change(root):
    (root / "own.py").write_text("")
    assert checkout_around(root, root / "train.py").changed is False
    assert checkout_around(root, root / "own.py").changed is True


def test_outside_a_checkout_and_before_the_first_commit_there_is_none(tmp_path):
    assert checkout_at(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert checkout_around(tmp_path) is None


@pytest.mark.parametrize(
    "head", ["", "ref: refs/heads/../../../x", "ref: /etc/passwd", "no commit", "ref: refs/heads/.invalid"]
)
def test_a_head_that_is_none_is_no_commit(root, head):
    (root / ".git" / "HEAD").write_text(head)
    assert checkout_at(root) is None


def test_branches_in_a_circle_and_a_pipe_are_no_commit(root):
    branch = root / ".git" / "refs" / "heads" / "main"
    branch.write_text("ref: refs/heads/main\n")
    assert checkout_at(root) is None
    branch.unlink()
    os.mkfifo(branch)  # which opening would wait for
    assert checkout_at(root) is None


def test_nothing_that_the_checkout_names_is_run(root, tmp_path):
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    program.chmod(0o755)
    git(root, "config", "filter.own.clean", str(program))
    git(root, "config", "core.fsmonitor", str(program))
    git(root, "config", "core.hooksPath", str(tmp_path / "hooks"))
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "post-index-change").symlink_to(program)
    (root / ".git" / "info" / "attributes").write_text("*.py filter=own\n")
    (root / "train.py").write_text("print(2)\n")
    git(root, "status")
    assert ran.exists()  # git by itself does
    ran.unlink()
    assert checkout_at(root).changed is True
    assert not ran.exists()


def test_without_git_or_an_answer_in_time_the_commit_is_known_and_changes_are_not(root, tmp_path, monkeypatch):
    head = git(root, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout_at(root) == Checkout(root, head, None)
    (tmp_path / "git").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setattr(git_checkout, "TIMEOUT_S", 0.2)
    assert checkout_at(root) == Checkout(root, head, None)


def test_a_damaged_index_leaves_changes_unknown(root):
    (root / ".git" / "index").write_bytes(b"damaged")
    assert checkout_at(root).changed is None
