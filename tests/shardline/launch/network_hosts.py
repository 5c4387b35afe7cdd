"""Hosts made of Linux namespaces: each has its own network, host name, processes and SSH server.

They share the file system, as hosts of a cluster share the run directory and the checkout, and a cable. Needs root,
iproute2 and OpenSSH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

needs_hosts = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "ssh", "/usr/sbin/sshd"))),
    reason="hosts of namespaces need root, iproute2, util-linux and OpenSSH",
)

_SETUP = r"""
set -e
hostname "$1"
ip link set lo up
mount -t tmpfs none /run
mkdir /run/sshd
mkdir -p ~/.ssh
mount -t tmpfs -o mode=700 none ~/.ssh
cp "$3/key" ~/.ssh/id_ed25519
cp "$3/key.pub" ~/.ssh/authorized_keys
printf 'Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n' > ~/.ssh/config
chmod 600 ~/.ssh/*
until ip address add "$2/24" dev eth0 2>/dev/null; do sleep 0.05; done
ip link set eth0 up
/usr/sbin/sshd -h "$3/key" -o UsePAM=no -o StrictModes=no -o PidFile=none
exec "$4" -c 'import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print("up", flush=True); signal.pause()'
"""
_NAMESPACES = ("--net", "--uts", "--ipc", "--pid", "--mount")


@dataclass(frozen=True)
class NetworkHost:
    """A host: `init` is the process that everything else on it descends from."""

    name: str
    address: str
    init: int

    def command(self, *arguments: str, folder: Path | None = None) -> list[str]:
        """What runs a program on this host, in `folder`."""
        inside = ["nsenter", "--target", str(self.init), *_NAMESPACES, *([f"--wd={folder}"] if folder else [])]
        return [*inside, *arguments]

    def run(self, *arguments: str) -> str:
        return subprocess.run(self.command(*arguments), check=True, capture_output=True, text=True).stdout

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes on this host with this text in their command line."""
        return [process for process in psutil.process_iter() if self._runs(process, name)]

    def _runs(self, process: psutil.Process, name: str) -> bool:
        try:
            here = Path(f"/proc/{process.pid}/ns/pid").readlink() == Path(f"/proc/{self.init}/ns/pid").readlink()
            return here and name in " ".join(process.cmdline())
        except (psutil.Error, OSError):  # it has ended meanwhile
            return False


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[NetworkHost, NetworkHost]]:
    """Two hosts, host-a and host-b, with a cable between them; `folder` takes their key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    started = [_start(f"host-{letter}", f"10.77.0.{number}", folder) for number, letter in enumerate("ab", 1)]
    try:
        hosts = [NetworkHost(name, address, _init_of(process)) for name, address, process in started]
        cable = f"ip link add eth0 netns {hosts[0].init} type veth peer name eth0 netns {hosts[1].init}"
        subprocess.run(cable.split(), check=True)
        for name, _, process in started:
            assert process.stdout
            assert process.stdout.readline() == b"up\n", f"{name} did not come up"
        yield hosts[0], hosts[1]
    finally:
        for _, _, process in started:
            process.kill()
            process.communicate()


def _start(name: str, address: str, folder: Path) -> tuple[str, str, subprocess.Popen[bytes]]:
    setup: Sequence[str] = ["sh", "-c", _SETUP, "sh", name, address, str(folder), sys.executable]
    command = ["unshare", *_NAMESPACES, "--fork", "--kill-child=KILL", "--mount-proc", *setup]
    return name, address, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def _init_of(unshare: subprocess.Popen[bytes]) -> int:
    while not (children := psutil.Process(unshare.pid).children()):
        time.sleep(0.01)
    return children[0].pid
