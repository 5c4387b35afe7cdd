from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from shardline.base.errors import DatasetError
from shardline.datasets.download import DownloadLimits, RemoteFile, fetch
from tests.shardline.datasets.conftest import Mirror

CONTENT = random.Random(3).randbytes(300_000)
FILE = RemoteFile("digits.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
QUICK = DownloadLimits(connect=2, read=0.4, attempts=3)

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def mirror(mirrors):
    return _serving(mirrors)


def _serving(mirrors: Callable):
    mirror = mirrors()
    mirror.files[FILE.name] = CONTENT
    return mirror


def status(code: int, **headers: str):
    return lambda request, body: request.reply(code, b"", **headers)


def cut(sent: int):
    """Announce everything, then close the connection after `sent` bytes."""
    return lambda request, body: request.reply(200, body, sent)


def close_without_length(sent: int):
    return lambda request, body: request.reply(200, body, sent, Content_Length="")


def wrong_bytes(request, body: bytes) -> None:
    request.reply(200, bytes(len(body)))


def html(request, body: bytes) -> None:
    request.reply(200, b"<html>Sign in to this network</html>", Content_Type="text/html")


def hang(request, body: bytes) -> None:
    request.server.mirror.stopped.wait()


def hang_after(sent: int):
    def answer(request, body: bytes) -> None:
        request.reply(200, body, sent)
        request.wfile.flush()
        request.server.mirror.stopped.wait()

    return answer


def fetched(folder: Path, *mirrors: Mirror) -> bytes:
    path = fetch(FILE, [mirror.url for mirror in mirrors], folder, QUICK)
    assert [entry.name for entry in folder.iterdir()] == [FILE.name]
    return path.read_bytes()


def test_a_file_is_downloaded_once(tmp_path: Path, mirror):
    assert fetched(tmp_path, mirror) == CONTENT
    assert fetched(tmp_path, mirror) == CONTENT
    assert len(mirror.requests) == 1


def test_a_folder_is_made_and_others_may_read_the_file(tmp_path: Path, mirror):
    path = fetch(FILE, [mirror.url], tmp_path / "downloads" / "digits", QUICK)
    assert path == tmp_path / "downloads" / "digits" / FILE.name
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_damaged_file_is_downloaded_again(tmp_path: Path, mirror):
    (tmp_path / FILE.name).write_bytes(CONTENT[:-1] + b"\x00")
    assert fetched(tmp_path, mirror) == CONTENT


@pytest.mark.parametrize(
    "failing", [status(503), status(429), cut(100_000), cut(0), close_without_length(70_000), wrong_bytes]
)
def test_a_mirror_that_fails_is_asked_again(tmp_path: Path, mirror, failing):
    mirror.script = [failing, failing]
    assert fetched(tmp_path, mirror) == CONTENT
    assert len(mirror.requests) == 3


def test_what_failed_leaves_nothing(tmp_path: Path, mirror):
    mirror.default = cut(1000)
    with pytest.raises(DatasetError, match=r"digits\.gz: "):
        fetched(tmp_path, mirror)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_not_lost_for_a_download_that_fails(tmp_path: Path, mirror):
    (tmp_path / FILE.name).write_bytes(b"damaged")
    mirror.default = status(404)
    with pytest.raises(DatasetError, match="404"):
        fetched(tmp_path, mirror)
    assert (tmp_path / FILE.name).read_bytes() == b"damaged"


@pytest.mark.parametrize("answer", [hang, hang_after(5000)])
def test_a_mirror_that_hangs_is_given_up(tmp_path: Path, mirrors, answer):
    hanging, good = _serving(mirrors), _serving(mirrors)
    hanging.default = answer
    assert fetched(tmp_path, hanging, good) == CONTENT
    assert (len(hanging.requests), len(good.requests)) == (QUICK.attempts, 1)


@pytest.mark.parametrize("answer", [wrong_bytes, html, status(404), status(403), status(500)])
def test_after_a_mirror_that_fails_or_lies_comes_the_next(tmp_path: Path, mirrors, answer):
    bad, good = _serving(mirrors), _serving(mirrors)
    bad.default = answer
    assert fetched(tmp_path, bad, good) == CONTENT


@pytest.mark.parametrize("length", ["", "300004"])
def test_a_file_longer_than_expected_is_refused_as_it_arrives(tmp_path: Path, mirrors, length, capsys):
    bad, good = _serving(mirrors), _serving(mirrors)
    bad.default = lambda request, body: request.reply(200, body + b"more", Content_Length=length)
    assert fetched(tmp_path, bad, good) == CONTENT
    assert f"{bad.url}digits.gz: expected 300000 bytes, found more\n" in capsys.readouterr().out


def test_a_file_shorter_than_expected_is_refused_by_its_length(tmp_path: Path, mirrors, capsys):
    bad, good = _serving(mirrors), _serving(mirrors)
    bad.default = html
    assert fetched(tmp_path, bad, good) == CONTENT
    assert f"{bad.url}digits.gz: expected 300000 bytes, found 36\n" in capsys.readouterr().out


def test_a_redirect_is_followed(tmp_path: Path, mirrors):
    old, new = _serving(mirrors), _serving(mirrors)
    old.default = status(302, Location=new.url + FILE.name)
    assert fetched(tmp_path, old) == CONTENT


def test_when_all_mirrors_fail_the_error_says_why_for_each(tmp_path: Path, mirrors):
    servers = [_serving(mirrors) for _ in range(5)]
    for server, answer in zip(servers, [wrong_bytes, html, status(404), status(503), hang], strict=True):
        server.default = answer
    with pytest.raises(DatasetError) as raised:
        fetched(tmp_path, *servers)
    _, *reasons, advice = str(raised.value).splitlines()
    for server, reason, expected in zip(
        servers,
        reasons,
        [
            f"expected {FILE.sha256} but got ",
            "expected 300000 bytes, found 36",
            "404 Client Error",
            "503 Server Error",
            "timed out",
        ],
        strict=True,
    ):
        assert reason.startswith(f"  {server.url}digits.gz: ")
        assert expected in reason
    assert str(tmp_path) in advice
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "mirror_url",
    ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "http://[nonsense/", "nonsense", "gopher://127.0.0.1/"],
)
def test_an_address_without_a_server_is_named(tmp_path: Path, mirror_url: str):
    with pytest.raises(DatasetError) as raised:
        fetch(FILE, [mirror_url], tmp_path, QUICK)
    assert f"{mirror_url.rstrip('/')}/digits.gz: " in str(raised.value)


def test_a_folder_that_cannot_be_written_to_is_the_machines_failure(tmp_path: Path, mirror):
    (tmp_path / "downloads").write_text("a file")
    with pytest.raises(OSError, match="exists") as raised:
        fetch(FILE, [mirror.url], tmp_path / "downloads", QUICK)
    assert raised.value.errno


def test_progress_is_printed_by_tenths(tmp_path: Path, mirror, capsys: pytest.CaptureFixture):
    fetched(tmp_path, mirror)
    assert f"{mirror.url}digits.gz: 0.3 of 0.3 MB (100 %)" in capsys.readouterr().out
