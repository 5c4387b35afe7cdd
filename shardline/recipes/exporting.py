"""Exporting a cell of the user's own to MindIR: in a process of its own, which alone loads MindSpore for it.

python -m shardline.recipes.exporting OUTPUT < CONFIG.json
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardline.base import atomic
from shardline.base.errors import ConfigError
from shardline.networks.cell_network import CellNetwork, built
from shardline.networks.source_lines import innermost, source_lines, written_to
from shardline.recipes.factories import declared
from shardline.settings.run_config import RunConfig

if TYPE_CHECKING:
    from shardline.networks.mindir import MindIr

_MOST_BYTES = 2**31 - 2**24
"""Of a graph with its parameters: one message of protocol buffers, of which MindSpore writes no larger one."""
_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")
_COMPILED = "compiled"
"""The folder beside the graph in which the compiler writes it as text."""


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
            env=_environment() | written_to(Path(folder) / _COMPILED),
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
    place = innermost(errors)
    return f"network {config.network!r}: its cell can't be exported{f' ({place})' if place else ''}:\n  " + "\n  ".join(
        _cause(lines)
    )


def _cause(lines: list[str]) -> list[str]:
    """Of a traceback and MindSpore's own, which follows it: the error's own words."""
    starts = [number for number, line in enumerate(lines) if _ERROR.match(line)]
    if not starts:
        return lines[-12:]
    return list(takewhile(lambda line: not line.startswith("-----"), filter(None, lines[starts[-1] :])))


def write(config: RunConfig, output: Path) -> None:
    """What the process of its own does, there: `export` to an absolute path, where MindSpore may be loaded."""
    import mindspore
    import numpy as np
    from mindspore import Tensor

    from shardline.networks.cell_graph import operators_in
    from shardline.networks.mindir import read_mindir

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
    graph = read_mindir(output)
    _check_all_are_used(cell, graph, network.name)
    try:
        operators_in(graph, source_lines(output.parent / _COMPILED))  # here, where the lines of code are known
    except ConfigError as error:
        raise ConfigError(f"network {network.name}: {error}") from error


def _check_all_are_used(cell: Any, graph: MindIr, network: str) -> None:
    used = {name for name, _ in graph.parameters.values()}
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
