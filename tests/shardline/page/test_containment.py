"""Nothing outside a run's folder is ever read."""

import os
from pathlib import Path

import pytest

from shardline.base.errors import RunDirectoryError
from shardline.page.containment import Contained


def test_a_document_is_read_and_a_missing_one_is_none(run, files):
    run.config_file.write_text('{"epochs": 2}')
    assert files.document(run.config_file) == {"epochs": 2}
    assert files.document(run.dataset_file) is None


@pytest.mark.parametrize("content", ["[1]", "{", "", '"text"', "[" * 100_000])
def test_what_is_no_json_object_is_said_with_its_file(run, files, content):
    run.config_file.write_text(content)
    with pytest.raises(RunDirectoryError, match=r"config\.json: expected a JSON object"):
        files.document(run.config_file)


def test_links_that_stay_inside_are_followed(run, files):
    (run.path / "real.json").write_text("{}")
    run.config_file.symlink_to("real.json")
    assert files.document(run.config_file) == {}


@pytest.mark.parametrize("target", ["../../../secret", "/etc/hostname", "../r2/config.json"])
def test_links_that_lead_out_are_refused(run, files, target):
    (run.path.parents[2] / "secret").write_text("{}")
    (run.path.parent / "r2").mkdir()
    (run.path.parent / "r2" / "config.json").write_text("{}")
    run.config_file.symlink_to(target)
    with pytest.raises(RunDirectoryError, match="leads out of"):
        files.document(run.config_file)
    with pytest.raises(RunDirectoryError, match="leads out of"):
        files.path(run.config_file)


def test_a_linked_folder_on_the_way_is_refused(run, files, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "merge.json").write_text("{}")
    run.merged.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match="leads out of"):
        files.document(run.merge_file)


def test_a_pipe_is_neither_waited_for_nor_read(run, files):
    os.mkfifo(run.config_file)
    with pytest.raises(RunDirectoryError, match="no regular file"):
        files.document(run.config_file)


def test_a_folder_that_is_none_or_lies_elsewhere_is_refused(run, tmp_path):
    with pytest.raises(RunDirectoryError, match="is no folder"):
        Contained.below(run.path / "never", tmp_path)
    link = run.path.parent / "link"
    link.symlink_to("/etc")
    with pytest.raises(RunDirectoryError, match="leads out of"):
        Contained.below(link, tmp_path)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_open(run, files):
    run.config_file.symlink_to("/etc/hostname")
    before = open_descriptors()
    for _ in range(5):
        with pytest.raises(RunDirectoryError):
            files.document(run.config_file)
    assert open_descriptors() == before


def test_links_in_a_circle_and_files_for_folders_are_said(run, files):
    run.config_file.symlink_to(run.config_file)
    run.merged.write_text("a file where a folder should be")
    for path in (run.config_file, run.merge_file):
        with pytest.raises(RunDirectoryError, match="cannot be read"):
            files.document(path)
    with pytest.raises(RunDirectoryError, match="leads nowhere"):
        files.path(run.config_file)
    loop = run.path.parent / "loop"
    loop.symlink_to(loop)
    with pytest.raises(RunDirectoryError, match="leads nowhere"):
        Contained.below(loop, run.path.parents[2])
