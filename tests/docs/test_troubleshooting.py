"""docs/troubleshooting.md speaks of messages that exist, and of every kind of error."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
PAGE = (PROJECT / "docs" / "troubleshooting.md").read_text()
ROWS = re.findall(r"^\| (\w+) \| `([^`]+)` \|", PAGE, re.MULTILINE)


def text_of(node: ast.expr) -> str:
    """A message as the code has it, with ‹ for every value put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return "‹"


@pytest.fixture(scope="module")
def messages():
    """All texts in the code of library and tasks."""
    trees = [
        ast.parse(path.read_text())
        for folder in ("shardline", "tasks")
        for path in sorted((PROJECT / folder).rglob("*.py"))
    ]
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant))
    return "\n".join(text_of(node) for node in nodes)


@pytest.mark.parametrize(("kind", "message"), ROWS)
def test_every_message_on_the_page_is_one_that_the_code_has(kind, message, messages):
    assert message in messages


def test_every_kind_of_error_is_on_the_page():
    tree = ast.parse((PROJECT / "shardline" / "base" / "errors.py").read_text())
    kinds = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert kinds - set(re.findall(r"\w+", PAGE)) == set()
    assert {kind for kind, _ in ROWS} <= kinds
