"""Which keys sign, and that what is none is refused by what it is, without a byte of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shardline.base.errors import ConfigError
from shardline.store.key_files import private_key, public_key, thumbprint
from tests.permissions import open_to_all, unprivileged  # noqa: F401 - a fixture
from tests.shardline.store.keys import encrypted, key, pair

OPENSSH = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_a_private_key_has_the_thumbprint_of_its_public_one(tmp_path: Path, kind: str) -> None:
    private, public = pair(tmp_path, kind)
    assert thumbprint(private_key(private).public_key()) == thumbprint(public_key(public))


def test_the_thumbprint_is_that_of_what_openssl_writes(tmp_path: Path) -> None:
    (tmp_path / "fixed.pub").write_text(
        "-----BEGIN PUBLIC KEY-----\n"
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n"
        "6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n"
        "-----END PUBLIC KEY-----\n"
    )
    expected = "0bcc8908c3cc5f2c08c1e1963e1b674e76aa2dfb7cd91c437b4081b25b7f9e03"
    assert thumbprint(public_key(tmp_path / "fixed.pub")) == expected, "openssl pkey -pubin -pubout | sha256sum"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: encrypted(key("P-256")[0]), "found an encrypted one.*openssl pkey -in"),
        (lambda: key("P-256")[1], "expected a private key as PEM, found a public key"),
        (lambda: key("RSA")[0], r"expected a key of an elliptic curve \(P-256, P-384, P-521\), found one of RSA"),
        (lambda: key("Ed25519")[0], "found one of Ed25519"),
        (lambda: key("DSA")[0], "found one of DSA"),
        (lambda: key("secp256k1")[0], "curves P-256, P-384, P-521, found secp256k1"),
        (lambda: key("P-256")[0][:-60], "found a private key, or a damaged one"),
        (lambda: b"", "found no PEM"),
        (lambda: os.urandom(500), "found no PEM"),
        (lambda: b"A" * 100_000, "found more than 65536 bytes"),
    ],
)
def test_what_is_no_key_that_signs_is_refused_by_what_it_is(tmp_path: Path, content, message: str) -> None:
    (file := tmp_path / "key.pem").write_bytes(given := content())
    with pytest.raises(ConfigError, match=message) as refused:
        private_key(file)
    said = f"{refused.value}{refused.value.__cause__}"
    assert str(file) in said
    assert not any(line in said for line in given.decode(errors="replace").split() if len(line) > 20)


def test_a_key_of_openssh_is_taken_for_what_it_is(tmp_path: Path) -> None:
    """cryptography reads OpenSSH's format by another function."""
    (file := tmp_path / "key").write_bytes(OPENSSH)
    with pytest.raises(ConfigError, match="OpenSSH's own format"):
        private_key(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: key("P-256")[0], "expected a public key as PEM, found a private key"),
        (lambda: key("RSA")[1], "found one of RSA"),
        (lambda: key("Ed25519")[1], "found one of Ed25519"),
        (lambda: key("secp256k1")[1], "found secp256k1"),
        (lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "found a certificate"),
        (lambda: b"ssh-rsa AAAA", "found no PEM"),
    ],
)
def test_what_is_no_public_key_to_check_with_is_refused(tmp_path: Path, content, message: str) -> None:
    (file := tmp_path / "key.pub").write_bytes(content())
    with pytest.raises(ConfigError, match=message):
        public_key(file)


def test_what_is_no_file_is_not_repeated_for_it_may_be_the_key_itself(tmp_path: Path) -> None:
    secret = key("P-256")[0].decode()
    os.mkfifo(tmp_path / "pipe")
    for given in (secret, secret.replace("\n", "\\n"), secret.splitlines()[1], "a\0b", str(tmp_path / "none.pem")):
        with pytest.raises(ConfigError, match=r"^expected the path of a private key's file, found none") as refused:
            private_key(Path(given))
        assert given not in str(refused.value)
    for given in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="found that of something else"):
            private_key(given)


def test_a_key_that_may_not_be_read_is_said_to_be_so(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    private, _ = pair(tmp_path)
    open_to_all(tmp_path)
    private.chmod(0)
    request.getfixturevalue("unprivileged")
    with pytest.raises(ConfigError, match=re.escape("found none that can be read: Permission denied")):
        private_key(private)
