"""A mapping held against a checkpoint: what does not go together is refused by name."""

import pytest

from shardline.base.errors import ConfigError
from shardline.checkpoint.formats.file_index import TensorHeader
from shardline.checkpoint.formats.tensor_types import BFLOAT16, BY_CODE, FLOAT32
from shardline.export.mapping import NameMapping, Rule
from shardline.export.targets import targets_of


def headers(**shapes: tuple[int, ...]) -> list[TensorHeader]:
    return [TensorHeader(name, FLOAT32, shape) for name, shape in shapes.items()]


def targets(rules, given, leave_out=()):
    made = [Rule(**{"where": f"m:{number}"} | rule) for number, rule in enumerate(rules, 1)]
    return targets_of(NameMapping(name="m", rules=tuple(made), leave_out=leave_out), given)


def test_all_tensors_come_with_names_types_and_shapes():
    found = targets(
        [
            {"sources": ("q{i}", "k{i}"), "join": 1, "transpose": True, "targets": ("h.{i}.qk",)},
            {"sources": ("w",), "split": 0, "sizes": (1, 3), "targets": ("w1", "w2")},
        ],
        [*headers(q1=(2, 3), k1=(2, 5), w=(4, 6)), TensorHeader("m.w", FLOAT32, (4,))],
        leave_out=("m.*",),
    )
    assert [(target.header.name, target.header.shape, target.starts) for target in found.tensors] == [
        ("h.1.qk", (8, 2), (0, 0)),
        ("w1", (1, 6), (0, 0)),
        ("w2", (3, 6), (1, 0)),
    ]
    assert found.left_out == ("m.w",)


AS_IT_IS = {"sources": ("a",), "targets": ("b",)}


@pytest.mark.parametrize(
    ("rules", "given", "message"),
    [
        ([AS_IT_IS], headers(a=(1,), c=(1,)), "m: expected a rule for every parameter, found none for c; add one"),
        (
            [AS_IT_IS, {"sources": ("x{i}",), "targets": ("y{i}",)}],
            headers(a=(1,)),
            r"m:2: expected a parameter x\{i\}",
        ),
        (
            [{"sources": ("q{i}", "k{i}"), "join": 0, "targets": ("c{i}",)}],
            headers(q1=(1,), k1=(1,), q2=(1,)),
            "m:1: expected k2 beside q2, to join them, found none",
        ),
        ([AS_IT_IS, {"sources": ("a",), "targets": ("c",)}], headers(a=(1,)), "m:2: .* found 'a', which m:1 takes"),
        (
            [AS_IT_IS, {"sources": ("c",), "targets": ("b",)}],
            headers(a=(1,), c=(1,)),
            r"m:2: two tensors of the export would be named 'b' \(the other is of m:1\)",
        ),
        (
            [{"sources": ("a{i}_{j}",), "targets": ("b{i}{j}",)}],
            headers(a1_11=(1,), a11_1=(1,)),
            "m:1: two tensors of the export would be named 'b111'",
        ),
        ([{"sources": ("a",), "targets": ("../b",)}], headers(a=(1,)), "m:1: expected a parameter's name in `to`"),
        ([{"sources": ("a",), "targets": ("__metadata__",)}], headers(a=(1,)), "expected a parameter's name in `to`"),
        (
            [{"sources": ("a",), "targets": ("b",), "shape": (3, 2)}],
            headers(a=(2, 3)),
            r"m:1: expected 'b' to have the shape \[3, 2\], found \[2, 3\] made of a \[2, 3\]",
        ),
        (
            [{"sources": ("a", "c"), "join": 0, "targets": ("b",)}],
            headers(a=(2, 3), c=(2, 4)),
            r"m:1: expected shapes that differ along axis 0 alone, to join them, found a \[2, 3\], c \[2, 4\]",
        ),
        (
            [{"sources": ("a", "c"), "join": 0, "targets": ("b",)}],
            headers(a=(2, 3), c=(2,)),
            "shapes that differ along axis 0 alone",
        ),
        ([{"sources": ("a", "c"), "join": 2, "targets": ("b",)}], headers(a=(2, 3), c=(2, 3)), "no axis 2 in a"),
        (
            [{"sources": ("a", "c"), "join": 0, "targets": ("b",)}],
            [TensorHeader("a", FLOAT32, (1,)), TensorHeader("c", BFLOAT16, (1,))],
            "m:1: expected one element type, to join them, found Float32 of a and BFloat16 of c",
        ),
        ([{"sources": ("a",), "axes": (1, 0), "targets": ("b",)}], headers(a=(2,)), "the order of 1 axis, found"),
        ([{"sources": ("a",), "split": 1, "targets": ("b", "c")}], headers(a=(2,)), r"no axis 1 in \[2\], a \[2\]"),
        (
            [{"sources": ("a",), "split": 0, "targets": ("b", "c")}],
            headers(a=(3, 2)),
            r"m:1: split: expected 2 equal parts of the 3 along axis 0 of a \[3, 2\], found \[1, 1\]",
        ),
        (
            [{"sources": ("a",), "split": 0, "sizes": (1, 1), "targets": ("b", "c")}],
            headers(a=(3, 2)),
            r"expected sizes that sum up to the 3 along axis 0 of a",
        ),
        (
            [{"sources": ("a",), "transpose": True, "targets": ("b",)}],
            [TensorHeader("a", BY_CODE["F4"], (2, 2))],
            "'a' is Float4E2M1, of which several numbers share a byte",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(rules, given, message):
    with pytest.raises(ConfigError, match=message):
        targets(rules, given)
