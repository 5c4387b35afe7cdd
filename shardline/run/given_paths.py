"""The paths among a run's parameters: looked up below the allowed roots, before anything reads them.

| parameter | relative to | is |
|---|---|---|
| `data_directory`, `text_file` | the task's working directory | a folder; a file |
| `start_file` | the run directory | a file, or the index or folder of several |
| `strategy_load_file` | the run directory | a file |
| `resume_from` | a run's id, or an absolute path | a run directory |
| `hostfile` | the task's working directory | a file: `shardline.launch.hosts` |
"""

from __future__ import annotations

from pathlib import Path

from shardline.checkpoint.formats.file_set import is_index
from shardline.checkpoint.shards.shard_set import ShardSet
from shardline.run.allowed_roots import AllowedRoots
from shardline.run.directory import RunDirectory
from shardline.settings.run_config import RunConfig

_DEPTH_OF_DATA = 1
_DEPTH_OF_A_RUN = 3
"""Of what is read of another run: `src_checkpoints/rank_N/FILE`, `src_checkpoints/provenance/FILE`."""


def with_real_data(config: RunConfig, roots: AllowedRoots) -> RunConfig:
    """`config` with the path of its data absolute and without links; `ConfigError` where that is not allowed, or leads
    to nothing that is meant.
    """
    if config.data_source == "directory":
        folder = Path(config.data_directory or "").absolute()
        if _is_there(roots.check(folder, "data_directory")):
            folder = roots.folder(folder, "data_directory", _DEPTH_OF_DATA)
        return config.model_copy(update={"data_directory": str(folder)})
    if config.data_source == "text":
        file = Path(config.text_file or "").absolute()
        if _is_there(roots.check(file, "text_file")):
            file = roots.file(file, "text_file")
        return config.model_copy(update={"text_file": str(file)})
    return config


def _is_there(real: Path) -> bool:
    """Whether data is there: who reads it says that it is not, which a drive that is mounted again may change."""
    try:
        real.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def with_real_start(config: RunConfig, run: RunDirectory, roots: AllowedRoots) -> RunConfig:
    """The same for what training begins with: weights, another run, a strategy.

    Where it began matters no more once the run has a shard set of its own: that may be gone by then.
    """
    if ShardSet.steps(run.checkpoints):
        config = config.model_copy(update={"start_file": None, "resume_from": None})
    found, with_own = {}, roots.and_below(run.path.resolve())
    if config.strategy_load_file is not None:
        found["strategy_load_file"] = str(with_own.file(run.path / config.strategy_load_file, "strategy_load_file"))
    if config.start_file is not None:
        found["start_file"] = str(_integrated_checkpoint(run.path / config.start_file, with_own))
    if config.resume_from is not None:
        found["resume_from"] = str(_run_directory(config.resume_from, run, roots))
    return config.model_copy(update=found)


def _integrated_checkpoint(path: Path, roots: AllowedRoots) -> Path:
    """One file, or the index or folder of several, which lie beside each other."""
    real = roots.check(path, "start_file")
    if real.is_dir():
        return roots.folder(path, "start_file", depth=1)
    if is_index(real):
        roots.folder(real.parent, "start_file", depth=1)
    return roots.file(path, "start_file")


def _run_directory(name: str, run: RunDirectory, roots: AllowedRoots) -> Path:
    """A run of the same DAG, which lies beside this one; one by its path has to lie below the roots."""
    given = run.sibling(name).path
    if not Path(name).is_absolute():
        roots = roots.and_below(run.path.parent.resolve() / given.name)
    return roots.folder(given, "resume_from", _DEPTH_OF_A_RUN)
