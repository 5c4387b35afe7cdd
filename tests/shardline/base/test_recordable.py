from pathlib import Path

import pytest

from shardline.base.errors import ConfigError
from shardline.base.recordable import check_recordable


@pytest.mark.parametrize("text", ["", "löss/模型.ckpt", Path("a b")])
def test_utf_8_is_recordable(text):
    check_recordable("a name", text)


@pytest.mark.parametrize("text", ["a\udcff", Path("\ud800/b")])
def test_what_is_no_utf_8_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=r"^a name: expected UTF-8, found '.*\\ud[c8]"):
        check_recordable("a name", text)
