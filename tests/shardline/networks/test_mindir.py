"""MindIR read without MindSpore: messages built from its own schema, field by field."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from mindspore.train import mind_ir_pb2

from shardline.base.errors import ConfigError
from shardline.networks.mindir import Monad, TensorType, Unreadable, read_mindir
from shardline.run.environment import PROJECT

KINDS = mind_ir_pb2.AttributeProto.AttributeType


def attribute(kind: str, name: str = "value", **fields: Any) -> Any:
    return mind_ir_pb2.AttributeProto(name=name, type=KINDS.Value(kind), **fields)


def tensor(array, name=""):
    kind = {"float32": 1, "int32": 6, "bfloat16": 16}[str(array.dtype)]
    return mind_ir_pb2.TensorProto(name=name, dims=array.shape, data_type=kind, raw_data=array.tobytes())


@pytest.fixture
def read(tmp_path):
    """A function: what is read of a model whose graph has these constants, by number."""

    def constants(*attributes: Any) -> list[Any]:
        model = mind_ir_pb2.ModelProto()
        for number, given in enumerate(attributes):
            model.graph.node.add(op_type="Constant", output=[str(number)]).attribute.append(given)
        (tmp_path / "graph.mindir").write_bytes(model.SerializeToString())
        found = read_mindir(tmp_path / "graph.mindir").constants
        return [found[str(number)] for number in range(len(attributes))]

    return constants


def test_numbers_stand_in_other_fields_alone_than_in_a_tuple(read):
    within = (attribute("INT64", ints=[3]), attribute("FLOAT", floats=[0.5]), attribute("STRING", strings=[b"NCHW"]))
    assert read(
        attribute("INT64", i=-1),
        attribute("FLOAT", f=0.25),
        attribute("BOOL", i=1),
        attribute("STRING", s=b"same"),
        attribute("TUPLE", values=within),
        attribute("TUPLE", values=[attribute("TUPLE", values=[attribute("INT64", ints=[2])])]),
        attribute("TUPLE"),
    ) == [-1, 0.25, True, "same", (3, 0.5, "NCHW"), ((2,),), ()]


def test_a_tensor_is_an_array_and_what_has_no_value_says_what_it_is(read):
    array, none, monad, closure = read(
        attribute("TENSORS", tensors=[tensor(np.array([[1, 2]], np.int32))]),
        attribute("NONE"),
        attribute("UMONAD"),
        attribute("FUNCGRAPHCLOSURE", s=b"branch"),
    )
    assert (array.dtype, array.tolist()) == (np.int32, [[1, 2]])
    assert (none, monad, closure) == (None, Monad(), Unreadable("funcgraphclosure"))


def test_a_node_has_its_primitives_attributes_and_the_types_of_what_it_gives(tmp_path):
    model = mind_ir_pb2.ModelProto()
    node = model.graph.node.add(
        op_type="REF::MatMul:6", input=["x", "w"], output=["y"], domain="Default/layer1-Dense/MatMul-op0"
    )
    node.attribute.append(attribute("TENSORS", "shape", tensors=[tensor(np.zeros((2, 5), np.float32))]))
    two = attribute("TUPLE", values=[attribute("INT64", ints=[2]), attribute("INT64", ints=[1])])
    strategy = attribute("TUPLE", "in_strategy", values=[two, two])
    model.primitives.add(name="MatMul:6", op_type="MatMul").attribute.append(strategy)
    stored = tensor(np.arange(6, dtype=np.float32).reshape(3, 2), "graph:layer1.weight")
    stored.ref_key = "layer1.weight"
    model.graph.parameter.append(stored)
    (tmp_path / "graph.mindir").write_bytes(model.SerializeToString())
    graph = read_mindir(tmp_path / "graph.mindir")
    (found,) = graph.nodes
    assert (found.name, found.primitive, found.inputs) == ("y", "MatMul", ("x", "w"))
    assert found.scope == "layer1-Dense/MatMul-op0"
    assert found.attributes == {"in_strategy": ((2, 1), (2, 1))}
    assert found.outputs == (TensorType((2, 5), "float32"),)
    name, values = graph.parameters["graph:layer1.weight"]
    assert (name, values.tolist()) == ("layer1.weight", [[0, 1], [2, 3], [4, 5]])


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "graph.mindir").write_text("no graph")
    with pytest.raises(
        ConfigError, match=rf"{tmp_path}/graph\.mindir: expected a graph as mindspore\.export writes it"
    ):
        read_mindir(tmp_path / "graph.mindir")


def test_reading_loads_no_mindspore(tmp_path):
    (tmp_path / "graph.mindir").write_bytes(b"")
    code = (
        "import sys; from pathlib import Path; from shardline.networks.mindir import read_mindir; "
        f"read_mindir(Path({str(tmp_path / 'graph.mindir')!r})); sys.exit('mindspore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
