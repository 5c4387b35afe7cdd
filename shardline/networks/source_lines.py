"""Which line of the user's code an operator of a compiled graph comes from.

MindIR has no lines, but MindSpore's compiler has them. Told by its environment, MindSpore 2.10 writes a graph as text
too; there every operator is followed by its scope, as MindIR has it, and by the lines that led to it, outermost first:

    # Fullname with scope: (Default/norm-Norm/ReduceSum-op0)
    # In file /home/me/nets.py:31~33, 4~16/    def construct(self, x):/
    # In file /home/me/nets.py:32, 12~28/        y = self.norm(x)/
    # In file /home/me/norms.py:9, 15~30/        return x / total(x)/<~~This line of code can be shared by…
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

_STAGE = "validate"  # the compiler's last one before the graph is exported
_SCOPE = re.compile(r"\s*# Fullname with scope: \((?:Default/)?(?P<scope>.+)\)$")
_LINE = re.compile(r"\s*# In file (?P<file>.+?):(?P<line>\d+)(?:~\d+)?(?:, \d+~\d+)?/(?P<code>.*?)/(?:<~~.*)?$")
_TRACED = re.compile(r"^\s*# \d+ In file (.+?:\d+)", re.MULTILINE)


def written_to(folder: Path) -> dict[str, str]:
    """The environment in which MindSpore writes what it compiles as text, into `folder`."""
    return {
        "MS_DEV_SAVE_GRAPHS": "1",
        "MS_DEV_SAVE_GRAPHS_PATH": str(folder),
        "MS_DEV_DUMP_IR_PASSES": _STAGE,
    }


def source_lines(folder: Path) -> dict[str, str]:
    """The innermost line outside of MindSpore, `FILE:LINE: CODE`, by the scope of each operator of the graphs there."""
    return {
        scope: line
        for file in sorted(folder.glob(f"*_{_STAGE}_*.ir"))
        for scope, line in _lines_of(file.read_text("utf-8", "replace"))
    }


def innermost(errors: str) -> str | None:
    """Where MindSpore's compiler gave up, `FILE:LINE`: the innermost line of its traceback outside of itself."""
    lines = [found[1] for found in _TRACED.finditer(errors) if not found[1].startswith(_package())]
    return lines[-1] if lines else None


def _lines_of(text: str) -> Iterator[tuple[str, str]]:
    """A scope's lines follow one another; each replaces the one before it."""
    of_mindspore = _package()
    scope = None
    for written in text.splitlines():
        if named := _SCOPE.match(written):
            scope = named["scope"]
        elif (found := _LINE.match(written)) and scope is not None:
            if not found["file"].startswith(of_mindspore):
                yield scope, f"{found['file']}:{found['line']}: {found['code'].strip()}"
        else:
            scope = None


def _package() -> str:
    spec = importlib.util.find_spec("mindspore")
    assert spec is not None and spec.origin is not None, "MindSpore is among the project's requirements"  # noqa: PT018, S101
    return f"{Path(spec.origin).parent}/"
