"""The mapping that comes with Shardline is for its own language model alone."""

import pytest

from shardline.settings.export_mapping import check_export_mapping


@pytest.mark.parametrize(
    ("named", "network"),
    [(None, "mlp"), ("", None), ("built-in", "gpt"), ("/mine.toml", "mlp"), ("/mine.toml", None)],
)
def test_what_goes_together_is_taken(named, network):
    check_export_mapping(named, network)


@pytest.mark.parametrize("network", ["mlp", "mine.py:spec", None])
def test_it_is_refused_for_another_network(network):
    with pytest.raises(ValueError, match="hugging_face_export 'built-in' is for network 'gpt': give the path"):
        check_export_mapping("built-in", network)
