import pytest

from shardline.launch.rank_names import named


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([3], "rank 3"),
        ([0, 1], "ranks 0-1"),
        ([0, 1, 2, 3, 7], "ranks 0-3, 7"),
        ([0, 2, 4], "ranks 0, 2, 4"),
        ([1, 5, 6, 9, 10, 11], "ranks 1, 5-6, 9-11"),
    ],
)
def test_ranks_in_words(ranks, words):
    assert named(ranks) == words
