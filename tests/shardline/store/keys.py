"""Keys for tests, each made once: of the curves that sign, and of kinds that do not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo
KINDS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "DSA": lambda: dsa.generate_private_key(1024),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


@cache
def key(kind: str, name: str = "") -> tuple[bytes, bytes]:
    """The private and the public key of that `kind` and `name`, as PEM."""
    made = KINDS[kind]()
    private = made.private_bytes(PEM, PKCS8, serialization.NoEncryption())
    return private, made.public_key().public_bytes(PEM, PUBLIC)


def encrypted(private: bytes) -> bytes:
    made = serialization.load_pem_private_key(private, None)
    return made.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"a passphrase"))


def pair(folder: Path, kind: str = "P-256", name: str = "team") -> tuple[Path, Path]:
    """The files of a private and its public key."""
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{name}.pem", folder / f"{name}.pub"
    for file, content in zip(files, key(kind, name), strict=True):
        file.write_bytes(content)
    return files
