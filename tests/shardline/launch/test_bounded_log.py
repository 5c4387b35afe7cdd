"""Logs of bounded size."""

from shardline.launch.bounded_log import BoundedLog


def test_a_small_log_is_whole(tmp_path):
    log = BoundedLog(tmp_path / "stdout", 1 << 20)
    log.write(b"one\n")
    log.write(b"two\n")
    log.close()
    assert (tmp_path / "stdout").read_bytes() == b"one\ntwo\n"
    assert [file.name for file in tmp_path.iterdir()] == ["stdout"]


def test_of_a_large_one_the_beginning_and_the_end_are_kept(tmp_path):
    largest = 4 << 20
    log = BoundedLog(tmp_path / "stdout", largest)
    lines = [f"{number:0>1000}\n".encode() for number in range(40_000)]
    for start in range(0, len(lines), 50):
        log.write(b"".join(lines[start : start + 50]))
    log.close()
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert sorted(files) == ["stdout", "stdout.before", "stdout.first"]
    assert sum(map(len, files.values())) <= largest + 3 * 70_000
    assert files["stdout.first"].startswith(lines[0] + lines[1])
    assert files["stdout"].endswith(lines[-2] + lines[-1])
    heading, *rest = files["stdout"].splitlines(keepends=True)
    assert heading.decode().startswith("… (")
    assert all(line in lines for line in rest), "no line is cut"
    assert rest == lines[-len(rest) :], "none is left out since then"


def test_a_full_drive_does_not_stop_the_program(tmp_path):
    (tmp_path / "stdout").symlink_to("/dev/full")
    log = BoundedLog(tmp_path / "stdout", 1 << 20)
    log.write(b"lost\n")
    log.close()
