import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardline.base.workers import in_parallel
from shardline.checkpoint.formats.file_index import Extent
from shardline.checkpoint.formats.output_file import OutputFile
from shardline.checkpoint.formats.staging import reserved_file

PAGE = mmap.PAGESIZE
lengths = st.one_of(st.integers(1, 3 * PAGE), st.integers(1, 3).map(lambda pages: pages * PAGE))


@pytest.mark.parametrize("uncached", [False, True])
@given(start=st.integers(0, 2 * PAGE), blocks=st.lists(lengths, min_size=1, max_size=8), order=st.randoms())
def test_blocks_that_end_anywhere_in_a_page_make_one_file(tmp_path_factory, uncached, start, blocks, order):
    """Past the cache go whole pages alone; those that two blocks share come together in it."""
    cuts = np.cumsum([0, *blocks])
    content = np.random.default_rng(0).integers(0, 256, cuts[-1], dtype=np.uint8)
    path = tmp_path_factory.mktemp("staged") / "file"
    layout = OutputFile("file", start + len(content), ((0, b"h" * start),), {"t": (Extent(start, len(content)),)})
    pieces = list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
    order.shuffle(pieces)
    with reserved_file(layout, path, uncached) as staged:
        in_parallel(lambda piece: staged.write("t", piece[0], content[piece[0] : piece[1]]), pieces, 2)
        staged.flush()
    assert path.read_bytes() == b"h" * start + content.tobytes()
