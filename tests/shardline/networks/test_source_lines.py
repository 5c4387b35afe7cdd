"""Lines of code read from what MindSpore's compiler writes; that it writes them: `recipes/test_exporting.py`."""

import importlib.util
from pathlib import Path

from shardline.networks.source_lines import innermost, source_lines

MINDSPORE = Path(importlib.util.find_spec("mindspore").origin).parent
GRAPH = f"""
# In file /home/me/nets.py:7~11, 4~16/    def construct(self, x):/
subgraph @1_construct() {{
  %0(y) = PrimFunc_Neg(%para1_x) cnode_attrs: {{checkpoint: Bool(1)}}
      : (<Tensor[Float32], (4)>) -> (<Tensor[Float32], (4)>)
      # Fullname with scope: (Default/norm-Norm/Neg-op0)
      # In file /home/me/nets.py:7~11, 4~16/    def construct(self, x):/
      # In file /home/me/my nets/a:b.py:8, 10~27/        y = one / two / three/<~~May be shared./
      # In file {MINDSPORE}/ops/function/math_func.py:1698~1801/def neg(input):/
      # In file {MINDSPORE}/ops/function/math_func.py:1701, 11~20/    return neg_(input)/
  %1(z) = Load(%para2_w, UMonad[U])
      : (<Ref[Tensor[Float32]], (4)>, <UMonad, NoShape>) -> (<Tensor[Float32], (4)>)
      # Fullname with scope: (Default/Load-op0)
  Return(%1)
      : (<Tensor[Float32], (4)>)
# In file /home/me/nets.py:99, 4~16/    nobody's/
}}
"""


def test_the_innermost_line_outside_of_mindspore_is_taken(tmp_path):
    (tmp_path / "21_validate_0300.ir").write_text(GRAPH)
    (tmp_path / "20_other_0299.ir").write_text(GRAPH.replace("Neg-op0", "Neg-op1"))
    assert source_lines(tmp_path) == {"norm-Norm/Neg-op0": "/home/me/my nets/a:b.py:8: y = one / two / three"}


def test_without_a_graph_there_are_no_lines(tmp_path):
    assert source_lines(tmp_path / "compiled") == {}


def test_where_the_compiler_gave_up():
    errors = f"""
ValueError: For 'MatMul' the input dimensions must be equal

# 0 In file /home/me/nets.py:46, 19~28
        z = self.dense(y)
            ^~~~~~~~~~~~~
# 1 In file {MINDSPORE}/nn/layer/basic.py:807, 12~39
        x = self.matmul(x, self.weight)
"""
    assert innermost(errors) == "/home/me/nets.py:46"
    assert innermost("ImportError: no module") is None
