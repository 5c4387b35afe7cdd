"""Where ranks run, without starting any."""

import secrets
import socket

import pytest

from shardline.launch import sites
from shardline.launch.patience import Patience
from shardline.settings.run_config import RunConfig


@pytest.mark.parametrize(
    ("of_connections", "told"),
    [("32768 60999", range(10_000, 32_768)), ("15000 65535", range(10_000, 15_000)), ("1024 65535", range(32_768))],
)
def test_the_schedulers_port_is_none_of_those_that_connections_get(of_connections, told, tmp_path, monkeypatch):
    """Where connections get all, it is one as good as another; never one that somebody listens on."""
    (tmp_path / "range").write_text(f"{of_connections}\n")
    monkeypatch.setattr(sites, "_PORTS_OF_CONNECTIONS", tmp_path / "range")
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        taken, drawn, choice = occupant.getsockname()[1], [], secrets.choice

        def draw(ports: range) -> int:
            drawn.append(ports)
            return taken if len(drawn) == 1 else choice(ports)

        monkeypatch.setattr(sites.secrets, "choice", draw)
        site = sites.WithoutMpirun(RunConfig(), 2, {}, Patience(), processes=2, has_scheduler=True)
        *_, option, port, program = site.command(["train"], tmp_path, {})
    assert (option, program) == ("--scheduler-port", "train")
    assert int(port) in told
    assert len(drawn) > 1
