"""Whether promoted versions are signed, and with which key: settings of the operator, never of a run.

SHARDLINE_SIGNING_KEY          the file of the private key, on the workers that promote; none: nothing is signed
SHARDLINE_SIGNING_PUBLIC_KEY   the file of the public one, which `shardline verify` checks versions with
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shardline.base.errors import ConfigError
from shardline.run.allowed_roots import ROOTS, AllowedRoots
from shardline.run.directory import Home
from shardline.store.key_files import private_key, public_key, thumbprint
from shardline.store.signature import check_installed, sign

PRIVATE, PUBLIC = "SHARDLINE_SIGNING_KEY", "SHARDLINE_SIGNING_PUBLIC_KEY"


@dataclass(frozen=True)
class SigningKey:
    """A private key that signs: its file, and the thumbprint of its public one."""

    file: Path
    thumbprint: str

    def sign(self, folder: Path, name: str) -> None:
        """Sign all files in `folder`, as those of `name`: MODEL/VERSION.

        `ConfigError` where the file is not that key's any more.
        """
        found = _thumbprint_of(self.file)
        if found != self.thumbprint:
            raise ConfigError(
                f"{PRIVATE}: {self.file}: expected the key that was there when this task began (SHA-256 "
                f"{self.thumbprint}), found another ({found}): it was replaced meanwhile; clear promote to sign with it"
            )
        sign(folder, name, self.file)


def signing_key(home: Home, environment: Mapping[str, str]) -> SigningKey | None:
    """The key that `environment` names, None where it names none.

    `ConfigError` where it cannot sign, where it is not the public key's, or where a run's parameters may lead to it.
    """
    if not (named := environment.get(PRIVATE)):
        return None
    file = Path(named)
    print_of_it = _thumbprint_of(file)
    if AllowedRoots.of(home, environment).allow(file.resolve()):
        raise ConfigError(
            f"{PRIVATE}: expected a file that no run may read, found {file}, which lies below SHARDLINE_HOME or "
            f"{ROOTS}: a run's parameters may lead there; move it, and make another key if others had this one"
        )
    _check_pair(print_of_it, environment)
    return SigningKey(file, print_of_it)


def _thumbprint_of(file: Path) -> str:
    """That of the private key in `file`; `ConfigError` where it cannot sign."""
    try:
        found = thumbprint(private_key(file).public_key())
        check_installed()
    except ConfigError as error:
        raise ConfigError(f"{PRIVATE}: {error}") from None
    return found


def _check_pair(signer: str, environment: Mapping[str, str]) -> None:
    if not (named := environment.get(PUBLIC)):
        return
    try:
        found = thumbprint(public_key(Path(named)))
    except ConfigError as error:
        raise ConfigError(f"{PUBLIC}: {error}") from None
    if found != signer:
        raise ConfigError(
            f"{PUBLIC}: expected the public key of {PRIVATE} (SHA-256 {signer}), found that of another ({found}); "
            "correct one of the two"
        )
