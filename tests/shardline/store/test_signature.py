"""A version's signature: right for what was signed, by who signed it, and for nothing else."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardline.base.digest import file_digest
from shardline.base.errors import ChangedSinceSigning, ConfigError, NotSigned, SignatureError, SignedByAnother
from shardline.run.directory import Home
from shardline.store.model_store import ModelStore
from shardline.store.signature import check_signature
from shardline.store.signing_key import SigningKey, signing_key
from shardline.store.version import Candidate, Version
from tests.shardline.store.keys import pair


def promoted(folder: Path, key: SigningKey | None, model: bytes = b"weights") -> Version:
    """A version of the model `digits` in a store in `folder`."""
    merged = folder / "model.ckpt"
    folder.mkdir(exist_ok=True)
    merged.write_bytes(model)
    documents = {"report.json": b"{}", "config.json": b"{}"}
    candidate = Candidate("a run", merged, file_digest(merged), "accuracy", 0.9, 7, documents)
    return ModelStore(Home(folder), "digits").add(candidate, key=key)


def signer(private: Path, home: Path) -> SigningKey:
    key = signing_key(Home(home), {"SHARDLINE_SIGNING_KEY": str(private)})
    assert key is not None
    return key


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A signed version's folder, and the public key of who signed it."""
    folder = tmp_path_factory.mktemp("signed")
    private, public = pair(folder / "keys")
    return promoted(folder / "home", signer(private, folder / "home")).path, public


@pytest.fixture
def copied(signed: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the signed version, which may be written to."""
    shutil.copytree(signed[0], tmp_path / "copy")
    for file in (tmp_path / "copy").iterdir():
        file.chmod(0o644)
    return tmp_path / "copy"


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_a_version_is_signed_as_what_it_is(tmp_path: Path, kind: str) -> None:
    private, public = pair(tmp_path / "keys", kind)
    for number, model in enumerate((b"weights", b"others"), start=1):
        version = promoted(tmp_path / "home", signer(private, tmp_path / "home"), model)
        assert check_signature(version.path, public) == f"digits/{number}"
        assert version.signature == version.path / "model.sig"
        assert "model.sig" not in version.files
        assert stat.S_IMODE(version.signature.stat().st_mode) == 0o444


def test_the_library_itself_verifies_the_folder(signed: tuple[Path, Path], copied: Path) -> None:
    folder, public = signed
    verify = [sys.executable, "-m", "model_signing", "verify", "key", "--public_key", str(public), "--signature"]
    right = subprocess.run([*verify, folder / "model.sig", folder], capture_output=True, text=True, check=False)
    assert (right.returncode, right.stdout) == (0, "Verification succeeded\n"), right.stderr
    (copied / "model.ckpt").write_bytes(b"WEIGHTS")
    wrong = subprocess.run([*verify, copied / "model.sig", copied], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "Hash mismatch" in wrong.stderr


def test_what_the_library_signs_is_right_here_too(tmp_path: Path) -> None:
    private, public = pair(tmp_path / "keys")
    folder = promoted(tmp_path / "home", None).path
    folder.chmod(0o755)
    command = ["sign", "key", "--private_key", private, "--signature", folder / "model.sig", folder]
    subprocess.run([sys.executable, "-m", "model_signing", *command], check=True)
    assert check_signature(folder, public) == "1", "the folder's name, by default"


def test_what_is_signed_is_what_the_format_says(signed: tuple[Path, Path]) -> None:
    folder, _ = signed
    bundle = json.loads((folder / "model.sig").read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://model_signing/signature/v1.0",
    )
    names = [resource["name"] for resource in statement["predicate"]["resources"]]
    assert names == ["config.json", "model.ckpt", "report.json", "version.json"]
    assert statement["subject"][0]["name"] == "digits/1"


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    version = promoted(tmp_path / "home", None)
    assert version.signature is None
    with pytest.raises(NotSigned, match=r"versions/1: expected it to be signed, found no model\.sig in it"):
        check_signature(version.path, pair(tmp_path / "keys")[1])


def test_another_key_is_said_to_be_another(signed: tuple[Path, Path], tmp_path: Path) -> None:
    _, other = pair(tmp_path, name="other")
    with pytest.raises(
        SignedByAnother, match=r"expected a signature by the key of .*other\.pub .*found one by another \("
    ):
        check_signature(signed[0], other)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the signature's own document."""
    document = json.loads((folder / "model.sig").read_bytes())
    change(document)
    (folder / "model.sig").write_text(json.dumps(document))


def resigned(folder: Path) -> None:
    """The statement is changed to what the changed files are, which the key's holder has not signed."""
    (folder / "model.ckpt").write_bytes(b"weight5")

    def change(document: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        for resource in statement["predicate"]["resources"]:
            resource["digest"] = "00" * 32
        document["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    edit(folder, change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "model.ckpt").write_bytes(b"weight5"),
            r"found otherwise: model\.ckpt changed; restore",
        ),
        (
            lambda folder: (folder / "version.json").write_bytes(b"{}"),
            r"found otherwise: version\.json changed; restore",
        ),
        (lambda folder: (folder / "report.json").unlink(), "Missing files in model .*report.json"),
        (lambda folder: (folder / "added.py").write_text("1"), r"Extra files found in model .*added\.py"),
        (lambda folder: (folder / ".gitattributes").write_text("1"), r"found otherwise: \.gitattributes was added"),
        (lambda folder: (folder / ".git").mkdir() or (folder / ".git" / "hook").touch(), r"\.git/hook was added"),
        (lambda folder: (folder / "link").symlink_to("model.ckpt"), "symlink"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe"),
        (resigned, r"model\.sig changed"),
        (
            lambda folder: (folder / "model.sig").write_bytes(b""),
            "expected a signature as OpenSSF Model Signing has it",
        ),
        (lambda folder: (folder / "model.sig").write_bytes(b"[" * 100_000), "expected a signature as"),
        (lambda folder: (folder / "model.sig").write_bytes(b"\xff"), "expected a signature as"),
        (lambda folder: edit(folder, lambda document: document.pop("dsseEnvelope")), r"model\.sig changed"),
        (lambda folder: edit(folder, lambda document: document.update(mediaType="x")), r"model\.sig changed"),
        (
            lambda folder: edit(folder, lambda document: document["dsseEnvelope"].update(signatures=[])),
            r"model\.sig changed",
        ),
    ],
)
def test_what_was_changed_since_is_said(signed: tuple[Path, Path], copied: Path, change, message: str) -> None:
    assert check_signature(copied, signed[1]) == "digits/1", "a copy is as good"
    change(copied)
    with pytest.raises(ChangedSinceSigning, match=message):
        check_signature(copied, signed[1])


def test_a_signature_that_names_no_key_is_by_no_such_key(signed: tuple[Path, Path], copied: Path) -> None:
    for change in (
        lambda document: document["verificationMaterial"]["publicKey"].pop("hint"),
        lambda document: document.update(verificationMaterial={"certificate": {"rawBytes": "AAAA"}}),
        lambda document: document.update(verificationMaterial=[]),
    ):
        edit(copied, change)
        with pytest.raises(SignedByAnother, match="found one by no such key"):
            check_signature(copied, signed[1])


def test_a_pipe_or_a_folder_for_a_signature_is_not_waited_for(signed: tuple[Path, Path], copied: Path) -> None:
    for make in (os.mkfifo, os.mkdir):
        (copied / "model.sig").unlink()
        make(copied / "model.sig")
        with pytest.raises(ChangedSinceSigning, match="no regular file"):
            check_signature(copied, signed[1])
        copied.joinpath("model.sig").rmdir() if make is os.mkdir else None


def test_any_byte_of_any_file_is_signed(signed: tuple[Path, Path], copied: Path) -> None:
    for file in sorted(copied.iterdir()):
        content = file.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1}:
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(SignatureError):
                check_signature(copied, signed[1])
        file.write_bytes(content)
    assert check_signature(copied, signed[1]) == "digits/1"


def test_without_the_library_it_is_said_what_to_install(signed: tuple[Path, Path], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    private = signed[1].with_suffix(".pem")
    for ask in (lambda: check_signature(*signed), lambda: signer(private, Path("/nowhere"))):
        with pytest.raises(ConfigError, match=r"signatures need the package model-signing.*requirements-signing\.txt"):
            ask()
