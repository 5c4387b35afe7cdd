"""A version copied to a storage: every digest checked there, `version.json` last, and nothing replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from shardline.base.digest import file_digest
from shardline.base.errors import UploadError
from shardline.store.signature import check_signature
from shardline.store.upload import Place, upload
from shardline.store.version import Candidate, Version, read_version, write_version
from tests.durability import recorded
from tests.shardline.store.keys import pair
from tests.shardline.store.test_signature import promoted, signer

FILES = ["config.json", "model.ckpt", "report.json", "version.json"]


def version_of(folder: Path, model: bytes = b"weights", number: int = 1) -> Version:
    """A version of the model store, in `folder`."""
    folder.mkdir(parents=True)
    merged = folder.parent / "model.ckpt"
    merged.write_bytes(model)
    documents = {"report.json": b"{}", "config.json": b"{}"}
    write_version(folder, number, Candidate("a run", merged, file_digest(merged), "accuracy", 0.9, 7, documents))
    return read_version(folder)


class Recording(MemoryFileSystem):
    """A storage in memory that says what was written to it, in order."""

    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012  of its own, not all memory file systems'
    written: list[str]

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode:
            self.written.append(path.rpartition("/")[2])
        return super().open(path, mode, **options)


class Damaging(Recording):
    """A storage that keeps other bytes than it was sent."""

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb" and path.endswith("model.ckpt"):
            self.store[path].seek(0)
            self.store[path].write(b"W")
        return super().open(path, mode, **options)


@pytest.fixture
def storage() -> Recording:
    storage = Recording()
    Recording.store, storage.written = {}, []
    return storage


def place(storage: Any, root: str = "/models") -> Place:
    return Place(storage, root, "digits", f"memory:/{root}")


def test_a_version_is_copied_whole_and_its_description_comes_last(tmp_path, storage):
    version = version_of(tmp_path / "1")
    result = upload(version, place(storage))
    size = sum((version.path / name).stat().st_size for name in FILES)
    assert result == {"uri": "memory://models/digits/1/", "files": 4, "files_sent": 4, "bytes_sent": size}
    assert storage.written == FILES
    for name in FILES:
        assert storage.cat(f"/models/digits/1/{name}") == (version.path / name).read_bytes()


def test_on_a_drive_a_file_is_never_there_in_part(tmp_path, monkeypatch):
    """It is written beside its place, not copied there from /tmp, which may be another drive."""
    version, root = version_of(tmp_path / "1"), tmp_path / "drive"
    root.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there is no such folder"))
    with recorded(root) as durability:
        upload(version, place(LocalFileSystem(), str(root)))
    for name in FILES:
        durability.check(root / "digits" / "1" / name)
        assert (root / "digits" / "1" / name).read_bytes() == (version.path / name).read_bytes()
    assert sorted(path.name for path in (root / "digits" / "1").iterdir()) == FILES


def test_a_signature_goes_along_before_the_description(tmp_path, storage):
    private, public = pair(tmp_path / "keys")
    version = promoted(tmp_path / "home", signer(private, tmp_path / "home"))
    assert upload(version, place(storage))["files"] == 5
    assert storage.written == ["config.json", "model.ckpt", "report.json", "model.sig", "version.json"]
    storage.get("/models/digits/1/", str(tmp_path / "downloaded"), recursive=True)
    assert check_signature(tmp_path / "downloaded", public) == "digits/1"


def test_what_is_there_already_is_not_sent_again(tmp_path, storage):
    version = version_of(tmp_path / "1")
    upload(version, place(storage))
    storage.rm("/models/digits/1/report.json")
    storage.written.clear()
    assert upload(version, place(storage))["files_sent"] == 1
    assert storage.written == ["report.json"]
    assert upload(version, place(storage))["bytes_sent"] == 0


def test_another_version_at_the_place_stays_as_it_is(tmp_path, storage):
    upload(version_of(tmp_path / "a" / "1", b"theirs"), place(storage))
    before = {path: file.getvalue() for path, file in storage.store.items()}
    storage.written.clear()
    with pytest.raises(
        UploadError, match=r"memory://models/digits/1/model.ckpt: expected the digest .* it stays as it"
    ):
        upload(version_of(tmp_path / "b" / "1", b"ours"), place(storage))
    assert storage.written == []
    assert {path: file.getvalue() for path, file in storage.store.items()} == before


def test_a_file_that_the_storage_damaged_is_named_and_the_version_is_not_whole(tmp_path):
    storage = Damaging()
    Damaging.store, storage.written = {}, []
    with pytest.raises(UploadError, match=r"model.ckpt: expected the digest .* that was sent, found .*; remove it"):
        upload(version_of(tmp_path / "1"), place(storage))
    assert not storage.exists("/models/digits/1/version.json")


def test_a_version_that_was_changed_since_its_promotion_is_not_sent(tmp_path, storage):
    version = version_of(tmp_path / "1")
    (version.path / "model.ckpt").chmod(0o644)
    (version.path / "model.ckpt").write_bytes(b"other weights")
    with pytest.raises(UploadError, match=r"of its promotion, found .*: it was changed since; restore it"):
        upload(version, place(storage))
    assert not storage.exists("/models/digits/1/model.ckpt")


def test_a_folder_of_another_file_system_is_a_place_too(tmp_path):
    version = version_of(tmp_path / "1")
    (tmp_path / "far").mkdir()
    there = place(LocalFileSystem(), str(tmp_path / "far"))
    assert upload(version, there)["files_sent"] == 4
    copy = read_version(tmp_path / "far" / "digits" / "1")
    copy.verify()
    assert json.loads((copy.path / "version.json").read_bytes())["digest"] == version.digest
    assert upload(version, there)["files_sent"] == 0


def test_the_folder_to_upload_to_has_to_be_there(tmp_path):
    with pytest.raises(UploadError, match="there is no such bucket or folder"):
        upload(version_of(tmp_path / "1"), place(LocalFileSystem(), str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()
