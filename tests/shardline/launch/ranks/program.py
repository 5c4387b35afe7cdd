"""A program of somebody's own, as a test needs it: without Shardline and without MindSpore.

python program.py MODE [ARGUMENT...]
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

RANK = int(os.environ.get("RANK_ID", os.environ.get("OMPI_COMM_WORLD_RANK", "0")))


def step(number: int) -> None:
    print(f"epoch: 1 step: {number}, loss is {1 / number}", flush=True)


def tell(file: str) -> None:
    """What this process was given, for the test to read."""
    given = {"arguments": sys.argv[3:], "folder": str(Path.cwd()), "environment": dict(os.environ)}
    Path(f"{file}.{RANK}").write_text(json.dumps(given))


def saves_when_told() -> None:
    stopped = []
    signal.signal(signal.SIGUSR1, lambda *_: stopped.append(1))
    step(1)
    while not stopped:
        time.sleep(0.02)
    print("saves", flush=True)


def leaves_children() -> None:
    """One in a session of its own, whose parent is gone, and which keeps the program's output open."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    os.wait()
    print("leaves", flush=True)


def main() -> None:
    mode = sys.argv[1]
    match mode:
        case "tell":
            tell(sys.argv[2])
        case "raise":
            step(1)
            if RANK == 1:
                raise ValueError("this is the cause")
            time.sleep(3600)
        case "hang":
            step(1)
            print(f"rank {RANK} waits", flush=True)
            time.sleep(3600)
        case "silent":
            time.sleep(3600)
        case "print":
            step(1)
            line = b"x" * 999 + b"\n"
            for _ in range(int(sys.argv[2])):
                os.write(1, line * 1000)
            step(2)
            print("the last word", flush=True)
        case "stop":
            saves_when_told()
        case "leave":
            leaves_children()


if __name__ == "__main__":
    main()
