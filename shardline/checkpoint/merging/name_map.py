"""`param_name_map.json` beside the index of several files, from which MindSpore's `load_distributed_checkpoint` reads.

The index says the same in a form that MindSpore takes (`weight_map`), so that the map is a symbolic link to it: of the
same files at every instant, also while they are being replaced. There is one in a folder, whatever else lies there.
Read in mindspore/parallel/transform_safetensors.py, 2.10.0.
"""

from __future__ import annotations

from pathlib import Path

from shardline.base import atomic
from shardline.checkpoint.formats.file_set import NAME_MAP


def link_name_map(index: Path) -> tuple[str, ...]:
    """Let the map beside `index` be that index; where there is no index any more, remove the link to it.

    Returns what to say where the map stays another model's.
    """
    path = index.with_name(NAME_MAP)
    try:
        if path.is_symlink() and not path.exists():
            _remove(path)
        if not index.exists():
            return ()
        if not path.exists():
            path.symlink_to(index.name)
            atomic.sync_directory(path.parent)
        if path.samefile(index):
            return ()
        reason = "it is another model's, and stays"
    except OSError as error:
        reason = f"it cannot be made: {error.strerror}"
    return (f"{path}: {reason}; MindSpore's load_distributed_checkpoint takes this model from a folder of its own",)


def unlink_name_map(index: Path) -> None:
    """Remove the link to `index`, which is about to go."""
    path = index.with_name(NAME_MAP)
    if path.is_symlink() and path.readlink() == Path(index.name):
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    atomic.sync_directory(path.parent)
