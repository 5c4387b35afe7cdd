"""A lock that others hold is told from one that nobody can hold."""

import errno
import fcntl

import pytest

from shardline.base.errors import RunDirectoryError
from shardline.base.file_lock import LocksUnsupported, lock
from shardline.run.directory import RunDirectory
from shardline.run.readers import reading, without_readers


def test_readers_share_it_and_a_writer_has_it_alone(tmp_path):
    with (tmp_path / "lock").open("a") as one, (tmp_path / "lock").open("a") as two:
        assert lock(one, shared=True)
        assert lock(two, shared=True)
        assert not lock(two)
    with (tmp_path / "lock").open("a") as one, (tmp_path / "lock").open("a") as two:
        assert lock(one)
        assert not lock(two, shared=True)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_not_called_in_use(tmp_path, monkeypatch, code):
    def refuse(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "lock").open("a") as file, pytest.raises(LocksUnsupported, match="the file system has no locks"):
        lock(file)
    for held in (RunDirectory(tmp_path).lock(), reading(tmp_path), without_readers(tmp_path)):
        with pytest.raises(RunDirectoryError, match="no locks here; the file system has no locks"), held:
            pass
