"""TensorBoard can read what training leaves: the steps' numbers under their names, each try from its own step on."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from shardline.training.event_files import EventFiles
from shardline.training.metrics_file import Metrics
from shardline.training.step_record import StepRecord


def record(step: int, loss: float) -> StepRecord:
    return StepRecord(step=step, epoch=1, step_in_epoch=step, loss=loss, learning_rate=0.5, samples=32, seconds=0.25)


def events(file: Path) -> list[Event]:
    """The events of a file, each framed as a TFRecord: length (8 bytes), checksum (4), content, checksum (4)."""
    content, found, position = file.read_bytes(), [], 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        found.append(Event.FromString(content[position + 12 : position + 12 + length]))
        position += length + 16
    return found


def test_every_number_of_a_step_is_there_under_its_name(tmp_path):
    with Metrics(None, 0, events=EventFiles(tmp_path, 0)) as metrics:
        metrics.step(record(1, 2.5))
        metrics.step(record(2, 2.25))
    (file,) = tmp_path.iterdir()
    found = [(event.step, each.tag, each.simple_value) for event in events(file) for each in event.summary.value]
    assert found == [
        (step, f"train/{name}", value)
        for step, loss in ((1, 2.5), (2, 2.25))
        for name, value in (("loss", loss), ("learning_rate", 0.5), ("samples_per_second", 128.0))
    ]


def test_a_file_begins_as_tensorflow_s_do(tmp_path):
    EventFiles(tmp_path, 0).close()
    (file,) = tmp_path.iterdir()
    assert "tfevents" in file.name  # by which TensorBoard finds it
    # 24 bytes, with the length's checksum; then field 1, the time, 8 bytes, and field 3, the version.
    assert file.read_bytes().startswith(b'\x18\0\0\0\0\0\0\0\xa3\x7fK"\x09')
    assert file.read_bytes()[21:36] == b"\x1a\x0dbrain.Event:2"


def test_the_first_step_is_in_the_file_at_once(tmp_path):
    written = EventFiles(tmp_path, 0)
    written.step(record(1, 2.5))
    (file,) = tmp_path.iterdir()
    assert [event.step for event in events(file)] == [0, 1, 1]
    written.close()


def test_a_try_that_goes_on_from_a_step_says_so(tmp_path):
    EventFiles(tmp_path, 40).close()
    (file,) = tmp_path.iterdir()
    assert [event.step for event in events(file) if event.HasField("session_log")] == [41]
