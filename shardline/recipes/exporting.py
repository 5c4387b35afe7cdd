"""Exporting a cell of the user's own to MindIR: in a process of its own, which alone loads MindSpore for it.

python -m shardline.recipes.exporting OUTPUT < CONFIG.json
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from shardline.base import atomic
from shardline.base.errors import ConfigError
from shardline.networks.cell_network import CellNetwork, built
from shardline.recipes.factories import declared
from shardline.settings.run_config import RunConfig

_MOST_BYTES = 2**31 - 2**24
"""Of a graph with its parameters: one message of protocol buffers, of which MindSpore writes no larger one."""


def export(config: RunConfig, file: Path) -> None:
    """Write to `file` the graph, with its parameters' first values, of the cell that `config.network` names.

    `ConfigError` says what kept MindSpore from compiling it.
    """
    with tempfile.TemporaryDirectory(prefix="export-") as folder:  # MindSpore leaves files where it fails
        output = Path(folder) / "network.mindir"
        finished = subprocess.run(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__, str(output)],
            input=config.to_json(),
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode or not output.is_file():
            raise ConfigError(_message(finished.stderr, config))
        atomic.write_bytes(file, output.read_bytes())


def _environment() -> dict[str, str]:
    """This process's own paths, by which the module of the network was found, and not those of a rank."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "PRTE_"))}
    paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
    return kept | {"PYTHONPATH": paths, "GLOG_v": "4"}


def _message(errors: str, config: RunConfig) -> str:
    kind = f"{ConfigError.__name__}: "
    lines = errors.strip().splitlines() or ["it ended without a word"]
    for number, line in enumerate(lines):
        if line.startswith(kind):
            return "\n".join(lines[number:]).removeprefix(kind)
    return f"network {config.network!r}: its cell can't be exported:\n  " + "\n  ".join(lines[-12:])


def write(config: RunConfig, output: Path) -> None:
    """What the process of its own does, there: `export` to an absolute path, where MindSpore may be loaded."""
    import mindspore
    import numpy as np
    from mindspore import Tensor

    network: Any = declared(config).network
    assert isinstance(network, CellNetwork)  # noqa: S101
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device("CPU")
    cell = built(network, config.seed).set_train()
    size = 4 * sum(parameter.size for parameter in cell.get_parameters())
    if size > _MOST_BYTES:
        raise ConfigError(
            f"network {network.name}: its parameters have {size} bytes; a graph of at most {_MOST_BYTES} can be read"
        )
    samples = np.zeros((config.micro_batch_size, *network.sample_shape), network.sample_type)
    os.chdir(output.parent)  # MindSpore refuses a path in which there is a space or a plus sign
    mindspore.export(cell, Tensor(samples), file_name=output.stem, file_format="MINDIR")
    _check_all_are_used(cell, output, network.name)


def _check_all_are_used(cell: Any, output: Path, network: str) -> None:
    from shardline.networks.mindir import read_mindir

    used = {name for name, _ in read_mindir(output).parameters.values()}
    unused = sorted({parameter.name for parameter in cell.get_parameters()} - used)
    if unused:
        raise ConfigError(
            f"network {network}: expected construct to take every parameter, but it doesn't {', '.join(unused)}; take "
            "them out of the cell"
        )


def main() -> int:
    """The command line of the process of its own."""
    try:
        write(RunConfig.from_json(sys.stdin.read()), Path(sys.argv[1]).absolute())
    except ConfigError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
