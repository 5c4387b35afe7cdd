"""Compare a merged checkpoint with the record beside it, from its digests alone; or a version of a model with its
description, or with its signature.

    shardline verify FILE
    shardline verify FOLDER [--public-key FILE]

FOLDER is a version's, of the model store or a copy of it. With a public key, or where SHARDLINE_SIGNING_PUBLIC_KEY
names its file, every file in it has to be as whoever has the private key signed it. The exit code is 3 where the
version is not signed, 4 where another key signed it, 5 where it was changed since.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shardline.base.errors import ConfigError
from shardline.base.termination import clean_up_when_terminated
from shardline.cli.merge_command import verified
from shardline.cli.options import positive
from shardline.run import command_line
from shardline.store.signature import check_signature
from shardline.store.version import DESCRIPTION, read_version

_PUBLIC_KEY = "SHARDLINE_SIGNING_PUBLIC_KEY"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="a merged file, the index of several, or a version")
    parser.add_argument("--public-key", type=Path, metavar="FILE", help="of whoever has to have signed the version")
    parser.add_argument("--workers", type=positive, help="threads")
    parser.add_argument("--json", action="store_true", help="print the result alone")
    with clean_up_when_terminated():
        parsed = parser.parse_args(arguments)
        return command_line.main(lambda: _verified(parsed))


def _verified(given: argparse.Namespace) -> Mapping[str, Any]:
    if given.public_key is None and not (given.file / DESCRIPTION).exists():
        return verified(given.file, given.workers, given.json)
    if given.file.exists() and not given.file.is_dir():
        raise ConfigError(
            f"--public-key: expected the folder of a version, which is what is signed, found the file {given.file}; "
            "give its folder, or leave --public-key out"
        )
    return _verified_version(given.file, given.public_key or os.environ.get(_PUBLIC_KEY), quiet=given.json)


def _verified_version(folder: Path, key: str | Path | None, *, quiet: bool) -> Mapping[str, Any]:
    """What is known of the version in `folder`; of a signature's key nothing where no `key` is given."""
    if key is not None:
        signed_as = check_signature(folder, Path(key))
        version = read_version(folder)
        compared = {"signature": "right", "signed_as": signed_as}
    else:
        version = read_version(folder)
        version.verify()
        compared = {"signature": "none" if version.signature is None else "not compared"}
        if version.signature is not None and not quiet:
            print(
                "note: the files are as version.json says; who signed them was not compared: give --public-key",
                file=sys.stderr,
            )
    return {"verified": str(folder), "version": version.version, "digest": version.digest, **compared}
