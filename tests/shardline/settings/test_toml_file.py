"""TOML files that people write, and the line of whatever is wrong in them."""

import pytest

from shardline.base.errors import ConfigError
from shardline.settings.toml_file import LARGEST, TomlFile

TEXT = '''# a comment
name = "x"

words = [
  "one",
  "two",
]
text = """
inner = 1
[no.table]
"""

[outer.inner]
"a key" = 1
dotted.key = 2

[[list]]
a = 1
[[list]]
a = 2
'''


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "file.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("name",), 2),
        (("words",), 4),
        (("words", 1), 4),
        (("text",), 8),
        (("outer",), 13),
        (("outer", "inner", "a key"), 14),
        (("outer", "inner", "dotted", "key"), 15),
        (("list", 0, "a"), 18),
        (("list", 1), 19),
        (("list", 1, "a"), 20),
        (("outer", "inner", "lacking"), 13),
        (("lacking",), 1),
        ((), 1),
    ],
)
def test_every_value_has_the_line_of_its_statement(written, place, line):
    file = TomlFile.read(written(TEXT))
    assert file.line(place) == line
    assert file.where(place) == f"{file.path}:{line}"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a = 1\nb\n", 2),
        ("a = 1\nb = [1,\n2\n", 3),
        ("a = 1\na = 2\nc = 3\n", 2),
        ("[a\n", 1),
        (b"a = 1\nb = '\xff'\n", 2),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(written, content, line):
    path = written(content)
    with pytest.raises(ConfigError, match=f"^{path}:{line}: "):
        TomlFile.read(path)


def test_files_that_cannot_be_read_are_named(written, tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}/none.toml cannot be read: No such file"):
        TomlFile.read(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="expected at most 262144 bytes, found more"):
        TomlFile.read(written(b"#" * (LARGEST + 1)))
    with pytest.raises(ConfigError, match="nested too deeply"):
        TomlFile.read(written("a = " + "[" * 50_000))
