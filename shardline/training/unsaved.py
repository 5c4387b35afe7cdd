"""What a rank says where its part of a shard set cannot be written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from shardline.base.errors import OutputError
from shardline.base.remedies import remedy

_CODE = re.compile(r"\(os error (\d+)\)")


@contextmanager
def explained(step: int, path: Path) -> Iterator[None]:
    """Turn what the system says, of `path` or of the file that it names, into an `OutputError` with what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = _of_the_system(error)
        raise OutputError(
            f"{said.filename or path}: shard set {step} cannot be saved: {said.strerror or error}; {remedy(said)}. "
            "The next try goes on from the newest complete shard set"
        ) from error


def _of_the_system(error: OSError | SafetensorError) -> OSError:
    """The error of the system; what writes .safetensors has its code in the text alone."""
    if isinstance(error, OSError):
        return error
    code = _CODE.search(str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(str(error))
