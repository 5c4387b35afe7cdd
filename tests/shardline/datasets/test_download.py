from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from shardline.base.errors import DatasetError
from shardline.datasets.download import Patience, RemoteFile, fetch
from tests.shardline.datasets.conftest import Mirror

CONTENT = random.Random(3).randbytes(300_000)
FILE = RemoteFile("digits.gz", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
QUICK = Patience(connect=2, read=0.4, attempts=3, first_pause=0.001, longest_pause=0.002)


@pytest.fixture
def mirror(mirrors):
    return _serving(mirrors)


def _serving(mirrors: Callable):
    mirror = mirrors()
    mirror.files[FILE.name] = CONTENT
    return mirror


def status(code: int, **headers: str):
    return lambda request, body: request.reply(code, b"", **headers)


def cut(sent: int, etag: str = '"1"'):
    """Announce everything, then close the connection after `sent` bytes."""
    return lambda request, body: request.reply(200, body, sent, ETag=etag)


def close_without_length(sent: int):
    return lambda request, body: request.reply(200, body, sent, Content_Length="", ETag='"1"')


def ignore_range(request, body: bytes) -> None:
    request.reply(200, body)


def wrong_bytes(request, body: bytes) -> None:
    request.reply(200, bytes(len(body)))


def html(request, body: bytes) -> None:
    request.reply(200, b"<html>Sign in to this network</html>", Content_Type="text/html")


def hang(request, body: bytes) -> None:
    request.server.mirror.stopped.wait()


def hang_after(sent: int):
    def answer(request, body: bytes) -> None:
        request.reply(200, body, sent, ETag='"1"')
        request.wfile.flush()
        request.server.mirror.stopped.wait()

    return answer


def ranges(mirror) -> list[str | None]:
    return [headers.get("Range") for headers in mirror.requests]


def fetched(folder: Path, *mirrors: Mirror) -> bytes:
    path = fetch(FILE, [mirror.url for mirror in mirrors], folder, QUICK)
    assert [entry.name for entry in folder.iterdir()] == [FILE.name]
    return path.read_bytes()


def test_a_file_is_downloaded_once(tmp_path: Path, mirror):
    assert fetched(tmp_path, mirror) == CONTENT
    assert fetched(tmp_path, mirror) == CONTENT
    assert len(mirror.requests) == 1


def test_a_damaged_file_is_downloaded_again(tmp_path: Path, mirror):
    (tmp_path / FILE.name).write_bytes(CONTENT[:-1] + b"\x00")
    assert fetched(tmp_path, mirror) == CONTENT


def test_a_mirror_that_is_busy_is_asked_again(tmp_path: Path, mirror, capsys: pytest.CaptureFixture):
    mirror.script = [status(503), status(429, Retry_After="1")]
    assert fetched(tmp_path, mirror) == CONTENT
    printed = capsys.readouterr().out
    assert "HTTP 503 Service Unavailable; again in 0.0 s" in printed
    assert "HTTP 429 Too Many Requests; again in 1.0 s" in printed


def test_a_cut_connection_is_resumed_where_it_was_cut(tmp_path: Path, mirror):
    mirror.script = [cut(100_000), cut(200_000)]
    mirror.script[1] = lambda request, body: request.reply(
        206, body[100_000:], 50_000, Content_Range=f"bytes 100000-{len(body) - 1}/{len(body)}"
    )
    assert fetched(tmp_path, mirror) == CONTENT
    assert ranges(mirror) == [None, "bytes=100000-", "bytes=150000-"]
    assert [headers.get("If-Range") for headers in mirror.requests] == [None, '"1"', '"1"']


def test_a_connection_that_ends_early_without_a_length_is_resumed(tmp_path: Path, mirror):
    mirror.script = [close_without_length(70_000)]
    assert fetched(tmp_path, mirror) == CONTENT
    assert ranges(mirror) == [None, "bytes=70000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(tmp_path: Path, mirror):
    mirror.script = [cut(1000), status(404)]
    with pytest.raises(DatasetError, match="HTTP 404"):
        fetched(tmp_path, mirror)
    assert (tmp_path / "digits.gz.partial").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "digits.gz").exists()
    assert fetched(tmp_path, mirror) == CONTENT
    assert ranges(mirror) == [None, "bytes=1000-", "bytes=1000-"]


def test_a_complete_partial_file_is_verified_without_asking(tmp_path: Path, mirror):
    mirror.script = [cut(1000), status(404)]
    with pytest.raises(DatasetError):
        fetched(tmp_path, mirror)
    (tmp_path / "digits.gz.partial").write_bytes(CONTENT)
    assert fetched(tmp_path, mirror) == CONTENT
    assert len(mirror.requests) == 2


def test_a_mirror_that_ignores_ranges_is_read_from_the_start(tmp_path: Path, mirror):
    mirror.script = [cut(100_000), ignore_range]
    assert fetched(tmp_path, mirror) == CONTENT


def test_a_weak_entity_tag_is_no_condition(tmp_path: Path, mirror):
    mirror.script = [cut(100_000, etag='W/"1"')]
    assert fetched(tmp_path, mirror) == CONTENT
    assert "If-Range" not in mirror.requests[1]


def test_a_file_that_changed_in_between_is_sent_whole(tmp_path: Path, mirror):
    mirror.script = [cut(100_000, etag='"old"')]
    assert fetched(tmp_path, mirror) == CONTENT
    assert mirror.requests[1]["If-Range"] == '"old"'


def test_a_resumed_file_with_a_wrong_checksum_is_fetched_from_its_start(tmp_path: Path, mirror):
    mirror.script = [lambda request, body: request.reply(200, bytes(len(body)), 100_000)]
    assert fetched(tmp_path, mirror) == CONTENT
    assert ranges(mirror) == [None, "bytes=100000-", None]


@pytest.mark.parametrize("content_range", ["bytes 0-9/10", "", "bytes 1000000-1000001/1000002"])
def test_a_range_that_was_not_asked_for_starts_over(tmp_path: Path, mirror, content_range: str):
    mirror.script = [cut(1000), lambda request, body: request.reply(206, body, Content_Range=content_range)]
    assert fetched(tmp_path, mirror) == CONTENT
    assert ranges(mirror) == [None, "bytes=1000-", None]


def test_a_range_that_the_mirror_cannot_satisfy_starts_over(tmp_path: Path, mirror):
    mirror.script = [cut(1000), status(416)]
    assert fetched(tmp_path, mirror) == CONTENT
    assert ranges(mirror) == [None, "bytes=1000-", None]


@pytest.mark.parametrize("answer", [hang, hang_after(5000)])
def test_a_mirror_that_hangs_is_given_up(tmp_path: Path, mirrors, answer):
    hanging, good = _serving(mirrors), _serving(mirrors)
    hanging.default = answer
    assert fetched(tmp_path, hanging, good) == CONTENT
    assert len(hanging.requests) == QUICK.attempts
    assert ranges(good) == [None]


@pytest.mark.parametrize("answer", [wrong_bytes, html, status(404), status(403), status(500)])
def test_after_a_mirror_that_fails_or_lies_comes_the_next(tmp_path: Path, mirrors, answer):
    bad, good = _serving(mirrors), _serving(mirrors)
    bad.default = answer
    assert fetched(tmp_path, bad, good) == CONTENT


def test_a_file_longer_than_expected_is_refused_as_it_arrives(tmp_path: Path, mirrors, capsys: pytest.CaptureFixture):
    bad, good = _serving(mirrors), _serving(mirrors)
    bad.default = lambda request, body: request.reply(200, body + b"more", Content_Length="")
    assert fetched(tmp_path, bad, good) == CONTENT
    assert f"{bad.url}digits.gz: expected 300000 bytes, found more\n" in capsys.readouterr().out


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
    message = str(raised.value)
    for server, reason in zip(
        servers,
        [
            f"expected SHA-256 {FILE.sha256}, found ",
            "expected 300000 bytes, the mirror announces 36 (text/html)",
            "HTTP 404 Not Found",
            "HTTP 503 Service Unavailable",
            "timed out",
        ],
        strict=True,
    ):
        assert f"{server.url}digits.gz: {reason}" in message
    assert not (tmp_path / FILE.name).exists()


@pytest.mark.parametrize("mirror_url", ["http://127.0.0.1:1/", "http://no-such-host.invalid/", "http://[nonsense/"])
def test_an_address_without_a_server_is_named(tmp_path: Path, mirror_url: str):
    with pytest.raises(DatasetError) as raised:
        fetch(FILE, [mirror_url], tmp_path, QUICK)
    assert f"{mirror_url}digits.gz: " in str(raised.value)


def test_progress_is_printed_by_tenths(tmp_path: Path, mirror, capsys: pytest.CaptureFixture):
    fetched(tmp_path, mirror)
    assert f"{mirror.url}digits.gz: 0.3 of 0.3 MB (100 %)" in capsys.readouterr().out
