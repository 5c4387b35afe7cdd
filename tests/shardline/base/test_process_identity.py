"""A process is itself, and no other that has its number now or elsewhere."""

import os
import subprocess
import sys

from shardline.base import process_identity


def test_a_process_is_told_from_one_before_it_and_from_none():
    assert process_identity.started(os.getpid()) >= process_identity.started(os.getppid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert process_identity.started(child.pid) >= process_identity.started(os.getpid())
        child.communicate(b"\n")
    assert process_identity.started(child.pid) is None


def test_processes_of_one_place_agree_on_it():
    script = "from shardline.base import process_identity; print(process_identity.own(), process_identity.place())"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert said[1] == process_identity.place()
    assert said[0].endswith(f"@{process_identity.place()}")
    assert said[0] != process_identity.own()


def test_a_name_with_parentheses_and_spaces_does_not_confuse():
    script = "import ctypes; ctypes.CDLL(None).prctl(15, b') S 1 1 (', 0, 0, 0); input()"
    with subprocess.Popen([sys.executable, "-c", script + ""], stdin=subprocess.PIPE) as child:
        assert process_identity.started(child.pid) >= process_identity.started(os.getpid())
        child.communicate(b"\n")
