"""Tiles: each element once, whatever the shape."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardline.export.tiles import tiles

SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple)


@given(SHAPES, st.integers(1, 50), st.booleans())
def test_tiles_cover_each_element_once_and_keep_to_the_limit(shape, limit, keeps_rows):
    covered = np.zeros(shape, int)
    for tile in tiles(shape, limit, keeps_rows=keeps_rows):
        covered[tuple(slice(start, start + size) for start, size in zip(tile.starts, tile.sizes, strict=True))] += 1
        assert np.prod(tile.sizes) <= limit
    assert (covered == 1).all()


def test_rows_are_kept_whole_or_tiles_are_near_cubes():
    assert next(tiles((64, 64), 256, keeps_rows=True)).sizes == (4, 64)
    assert next(tiles((64, 64), 256, keeps_rows=False)).sizes == (16, 16)
    assert next(tiles((64, 2), 64, keeps_rows=False)).sizes == (32, 2)
