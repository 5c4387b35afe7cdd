"""What one host of several finds of itself, without a second one."""

import json
import platform
import socket

import pytest

from shardline.base.errors import LaunchError
from shardline.launch import host_check
from shardline.launch.host_check import Request


@pytest.fixture
def request_(tmp_path) -> Request:
    hosts = {platform.node(): 1, "elsewhere": 1}
    return Request(str(tmp_path), str(tmp_path), "nonce", host_check.software(), hosts, "CPU", 0, meeting_s=1)


def test_a_first_host_that_cannot_be_reached_is_named_with_its_address(request_, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "meeting.json").write_text(json.dumps(["127.0.0.1", port]))
    with pytest.raises(LaunchError, match=rf"cannot reach the first host at 127\.0\.0\.1:{port}: .*ranks connect"):
        host_check._come_to_meeting(request_)


def test_a_first_host_that_says_nothing_is_not_waited_for_ever(request_):
    with pytest.raises(LaunchError, match=r"the first host has not said in .*meeting\.json"):
        host_check._come_to_meeting(request_)


def test_the_first_host_listens_until_the_others_came(request_, tmp_path):
    with pytest.raises(LaunchError, match="no way to elsewhere from here"):
        host_check._host_meeting(request_)
