"""Files of keys that sign: elliptic curves P-256, P-384 and P-521, as PEM, which OpenSSF Model Signing takes.

No message quotes what is in a file, nor where that may be the key itself, the setting that should name one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardline.base.errors import ConfigError
from shardline.base.pinned import pin

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

_MOST_BYTES = 64 << 10
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_MAKING = (
    "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 makes a private key, openssl pkey -pubout its "
    "public one"
)


def private_key(file: Path) -> EllipticCurvePrivateKey:
    """The private key in `file`; `ConfigError` where there is none that signs without a passphrase."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _content(file, "private")
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise ConfigError(
            f"{file}: expected a private key without a passphrase, found an encrypted one: nobody is there to type it; "
            "`openssl pkey -in FILE -out NEW` takes the passphrase off. Have the file's rights protect it"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{file}: expected a private key as PEM, found {_found(content)}; {_MAKING}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _of_another_kind(file, key)
    _check_curve(file, key.curve.name)
    return key


def public_key(file: Path) -> EllipticCurvePublicKey:
    """The public key in `file`; `ConfigError` where there is none that signatures can be checked with."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _content(file, "public")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{file}: expected a public key as PEM, found {_found(content)}; {_MAKING}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _of_another_kind(file, key)
    _check_curve(file, key.curve.name)
    return key


def thumbprint(key: EllipticCurvePublicKey) -> str:
    """What signatures call the key: the SHA-256 of its PEM form."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _content(file: Path, kind: str) -> bytes:
    try:
        with pin(file) as found:
            if not found.is_file:
                raise ConfigError(f"expected the path of a {kind} key's file, found that of something else")
            with found.open() as reader:
                content = reader.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no path"
        raise ConfigError(f"expected the path of a {kind} key's file, found none that can be read: {reason}") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{file}: expected a {kind} key, found more than {_MOST_BYTES} bytes")
    return content


def _found(content: bytes) -> str:
    """What a file holds that is not the key that it should hold, without any of it."""
    for label, what in ((b"PUBLIC KEY", "a public key"), (b"CERTIFICATE", "a certificate")):
        if b"-----BEGIN " + label + b"-----" in content:
            return what if b"PRIVATE KEY-----" not in content else "more than one key"
    if b"OPENSSH PRIVATE KEY-----" in content:
        return "one in OpenSSH's own format (ssh-keygen -p -m PKCS8 -f FILE converts it)"
    if b"PRIVATE KEY-----" in content:
        return "a private key, or a damaged one"
    return "no PEM"


def _of_another_kind(file: Path, key: Any) -> ConfigError:
    kind = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey").strip("_")
    return ConfigError(f"{file}: expected a key of an elliptic curve ({_curves()}), found one of {kind}; {_MAKING}")


def _check_curve(file: Path, curve: str) -> None:
    if curve not in _CURVES:
        raise ConfigError(f"{file}: expected a key of one of the curves {_curves()}, found {curve}; {_MAKING}")


def _curves() -> str:
    return ", ".join(_CURVES.values())
