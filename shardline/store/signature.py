"""A version's signature: `model.sig` beside its files, as OpenSSF Model Signing has it, by a key of the team's own.

A Sigstore bundle (media type v0.3) whose DSSE envelope holds an in-toto statement of the SHA-256 of every other file in
the folder, `version.json` included: https://github.com/sigstore/model-transparency. `model_signing verify key` checks
it as well. Nothing is sent anywhere, and no transparency log is asked.

The package `model-signing` is needed by nothing else: it is imported where something is signed or checked.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from shardline.base.errors import ChangedSinceSigning, ConfigError, NotSigned, SignedByAnother
from shardline.base.pinned import pin
from shardline.store.key_files import public_key, thumbprint
from shardline.store.version import SIGNATURE

if TYPE_CHECKING:
    from model_signing import hashing, manifest

_MOST_BYTES = 16 << 20


def check_installed() -> None:
    """Raise `ConfigError` where what signs is not installed."""
    with _installed():
        import model_signing.signing  # noqa: F401


def sign(folder: Path, name: str, key: Path) -> None:
    """Sign all files in `folder`, which is to be called `name`, with the private key in the file `key`."""
    with _installed():
        from model_signing import signing
    signer = signing.Config().use_elliptic_key_signer(private_key=key)
    signer.set_hashing_config(_hashing(name)).sign(folder, folder / SIGNATURE)


def _hashing(name: str) -> hashing.Config:
    """Every file in a folder but its signature, said to be those of `name` instead of the folder's own."""
    from model_signing import hashing, manifest

    class Named(hashing.Config):
        def hash(self, model_path: Any, **options: Any) -> manifest.Manifest:
            found = super().hash(model_path, **options)
            items = [
                manifest.FileManifestItem(path=PurePosixPath(each.identifier), digest=each.digest)
                for each in found.resource_descriptors()
            ]
            return manifest.Manifest(name, items, manifest.SerializationType.from_args(found.serialization_type))

    return Named().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def key_named_in(folder: Path) -> str | None:
    """The thumbprint of the key that the signature in `folder` says it is by, which is not to be relied on.

    `NotSigned` where there is none, `ChangedSinceSigning` where it is no signature; None where it names no key.
    """
    return _key_named_in(_bundle(folder / SIGNATURE))


def _key_named_in(bundle: Any) -> str | None:
    found = _at(bundle, "verificationMaterial", "publicKey", "hint")
    return str(found)[:64] if found else None


def check_signature(folder: Path, key: Path) -> str:
    """What the files in `folder` were signed as, MODEL/VERSION, by who has the private key of the public one in `key`.

    `NotSigned`, `SignedByAnother` or `ChangedSinceSigning` where they were not; the last names the files that changed.
    """
    with _installed():
        from model_signing import verifying
    folder, expected = folder.resolve(), thumbprint(public_key(key))
    bundle = _bundle(folder / SIGNATURE)
    found = _key_named_in(bundle)
    if found != expected:
        raise SignedByAnother(
            f"{folder / SIGNATURE}: expected a signature by the key of {key} (SHA-256 {expected}), found one by "
            f"{f'another ({found})' if found else 'no such key'}: give the public key of who signed it, if you "
            "trust that one"
        )
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=key).verify(folder, folder / SIGNATURE)
        statement = json.loads(base64.b64decode(_at(bundle, "dsseEnvelope", "payload")))
        if added := _not_signed(folder, statement["predicate"]):
            raise ValueError(f"{', '.join(added)} was added")
        return str(statement["subject"][0]["name"])
    except OSError:
        raise
    except Exception as error:
        raise ChangedSinceSigning(
            f"{folder}: expected what was signed, found otherwise: {_difference(error)}; restore it, or take another "
            "version"
        ) from error


def _not_signed(folder: Path, predicate: dict[str, Any]) -> list[str]:
    """The files that are neither signed nor left out on purpose: the library overlooks Git's, whatever was signed."""
    shard = re.compile(r":\d+:\d+$")  # of a file that was signed in parts
    signed = {shard.sub("", resource["name"]) for resource in predicate["resources"]}
    left_out = {folder / path for path in predicate["serialization"].get("ignore_paths", ())}
    others = (file for file in sorted(folder.rglob("*")) if file.is_file() and not left_out & {file, *file.parents})
    return [name for name in (str(file.relative_to(folder)) for file in others) if name not in signed]


def _difference(error: Exception) -> str:
    """What the library found: the files, without the bytes of their digests, which it quotes."""
    if type(error) is not ValueError:  # neither the library's own words nor ours
        return f"{SIGNATURE} changed ({type(error).__name__})"
    text = " ".join(str(error).split())
    changed = re.findall(r"Hash mismatch for [\\']*(.*?)[\\']*: Expected", text)
    others = re.findall(r"((?:Extra|Missing) files .*?: .*?)[\\'\"]", text)
    named = [*(f"{name} changed" for name in changed), *others]
    return ", ".join(named) or text[:1000]


def _bundle(file: Path) -> Any:
    """The document in `file`, whoever made it."""
    try:
        with pin(file) as found:
            if not found.is_file:
                raise ValueError("it is no regular file")
            with found.open() as reader:
                return json.loads(reader.read(_MOST_BYTES))
    except FileNotFoundError:
        raise NotSigned(f"{file.parent}: expected it to be signed, found no {SIGNATURE} in it") from None
    except (ValueError, RecursionError) as error:
        raise ChangedSinceSigning(
            f"{file}: expected a signature as OpenSSF Model Signing has it, found none ({error!r:.200}); restore it"
        ) from error


def _at(document: Any, *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, dict) else None
    return document


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"signatures need the package model-signing ({error}); install it: scripts/install.sh "
            "requirements-signing.txt in the checkout, or pip install 'shardline[signing]'"
        ) from error
