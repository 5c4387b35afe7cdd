"""`shardline verify` of a version: what is right, and by name and exit code what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shardline.cli.verify_command import main
from tests.shardline.store.keys import pair
from tests.shardline.store.test_signature import promoted, signer

PUBLIC = "SHARDLINE_SIGNING_PUBLIC_KEY"


@pytest.fixture(autouse=True)
def _no_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(PUBLIC, raising=False)
    monkeypatch.setenv("SHARDLINE_HOME", str(tmp_path / "home"))


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """A writable copy of a signed version, as a storage has it, and the public key of who signed it."""
    private, public = pair(tmp_path / "keys")
    version = promoted(tmp_path / "home", signer(private, tmp_path / "home"))
    copied = tmp_path / "downloaded"
    shutil.copytree(version.path, copied)
    for file in copied.iterdir():
        file.chmod(0o644)
    return copied, public


def last_line(text: str) -> str:
    return text.splitlines()[-1]


def test_a_version_that_is_signed_and_right(signed, capsys, monkeypatch) -> None:
    folder, public = signed
    digest = json.loads((folder / "version.json").read_bytes())["digest"]
    expected = {"verified": str(folder), "version": 1, "digest": digest, "signature": "right", "signed_as": "digits/1"}
    assert main([str(folder), "--public-key", str(public)]) == 0
    assert json.loads(last_line(capsys.readouterr().out)) == expected
    monkeypatch.setenv(PUBLIC, str(public))
    assert main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_the_current_version_is_verified_by_its_link(signed, tmp_path, capsys) -> None:
    assert main([str(tmp_path / "home" / "models" / "digits" / "current"), "--public-key", str(signed[1])]) == 0
    assert json.loads(last_line(capsys.readouterr().out))["signed_as"] == "digits/1"


def test_what_is_not_signed_so_has_a_name_and_an_exit_code(signed, tmp_path, capsys) -> None:
    folder, public = signed
    _, other = pair(tmp_path / "keys", name="other")
    assert main([str(folder), "--public-key", str(other)]) == 4
    assert last_line(capsys.readouterr().err).startswith(f"SignedByAnother: {folder / 'model.sig'}: expected")
    (folder / "model.ckpt").write_bytes(b"others")
    assert main([str(folder), "--public-key", str(public)]) == 5
    assert last_line(capsys.readouterr().err).startswith(f"ChangedSinceSigning: {folder}: expected what was signed")
    (folder / "model.sig").unlink()
    assert main([str(folder), "--public-key", str(public)]) == 3
    assert last_line(capsys.readouterr().err).startswith(f"NotSigned: {folder}: expected it to be signed")


def test_a_description_made_to_fit_changed_files_is_not_what_was_signed(signed, capsys) -> None:
    """Without a key the version looks right: that is what signatures are for."""
    folder, public = signed
    description = json.loads((folder / "version.json").read_bytes())
    (folder / "config.json").write_bytes(b"{ }")
    from shardline.base.digest import file_digest

    description["files"]["config.json"] = file_digest(folder / "config.json")
    (folder / "version.json").write_text(json.dumps(description))
    assert main([str(folder)]) == 0
    said = capsys.readouterr()
    assert json.loads(last_line(said.out))["signature"] == "not compared"
    assert "who signed them was not compared: give --public-key" in said.err
    assert main([str(folder), "--public-key", str(public)]) == 5
    assert "config.json changed, version.json changed" in capsys.readouterr().err


def test_a_version_without_a_signature_is_compared_with_its_description(tmp_path, capsys) -> None:
    folder = promoted(tmp_path / "home", None).path
    assert main([str(folder)]) == 0
    assert json.loads(last_line(capsys.readouterr().out))["signature"] == "none"
    (folder / "model.ckpt").chmod(0o644)
    (folder / "model.ckpt").write_bytes(b"others")
    assert main([str(folder)]) == 1
    assert "PromotionError: " in capsys.readouterr().err


def test_a_key_that_is_none_is_a_wrong_parameter(signed, tmp_path, capsys) -> None:
    folder, public = signed
    assert main([str(folder), "--public-key", str(public.with_suffix(".pem"))]) == 2
    assert "found a private key" in capsys.readouterr().err
    assert main([str(folder / "model.ckpt"), "--public-key", str(public)]) == 2
    assert "--public-key: expected the folder of a version" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere"), "--public-key", str(public)]) == 3
