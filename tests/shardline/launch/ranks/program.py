"""A program of somebody's own, as a test needs it: without Shardline and without MindSpore.

python program.py MODE [ARGUMENT...]
"""

import json
import os
import signal
import struct
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
    print("trains", flush=True)
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


def save(folder: str, number: int, columns: int = 2, *, cut_short: bool = False) -> None:
    """This rank's columns of a weight [4, 4], all `number`, as safetensors; and how it is cut, as MindSpore's JSON."""
    if RANK == 0:
        layout = {"dev_matrix": [2], "tensor_map": [-1, 0], "tensor_shape": [4, 4], "field": 0}
        layout |= {"opt_weight_shard_step": 0, "opt_weight_shard_size": 0}
        strategy = {"current_stage": 0, "parallel_strategy_item": {}, "parallel_layout_item": {"weight": layout}}
        Path("strategy.json").write_text(json.dumps(strategy))
    values = struct.pack("<f", number + float(os.environ.get("OFFSET", "0"))) * (4 * columns)
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4, columns], "data_offsets": [0, len(values)]}}).encode()
    file = Path(folder, f"rank_{RANK}", f"{os.environ.get('PREFIX', 'x')}-1_{number}.safetensors")
    file.parent.mkdir(parents=True, exist_ok=True)
    content = struct.pack("<Q", len(header)) + header + values
    with file.open("wb") as stream:
        stream.write(content[: len(content) // 2])
        stream.flush()
        if cut_short:
            print(f"step {number} is half saved", flush=True)
            time.sleep(3600)
        stream.write(content[len(content) // 2 :])
    step(number)


def train_and_save() -> None:
    """Steps 1 to 3, a save each; what `--resume FILE` names was step N. `--die STEP` is killed while it saves that.

    `--until STEP` is the last. OFFSET and PREFIX, in the environment, are what tries of one training may differ by.
    """
    given = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=False))
    folder = given.get("--folder", "slices")
    first = 1 + int(Path(given["--resume"]).stem.rpartition("_")[2]) if "--resume" in given else 1
    for number in range(first, int(given.get("--until", 3)) + 1):
        if RANK == 1 and str(number) == given.get("--rank-1-leaves-out"):
            continue
        if RANK == 1 and str(number) == given.get("--die") and "--resume" not in given:
            save(folder, number, cut_short=True)
        save(folder, number, int(given.get("--columns", 2)))


def train() -> None:
    """A step, and then whatever the mode says."""
    step(1)
    match sys.argv[1]:
        case "raise" if RANK == 1:
            while (
                not (told := Path("metrics.jsonl")).exists() or not told.stat().st_size
            ):  # the step of the rank whose steps are told
                time.sleep(0.02)
            raise ValueError("this is the cause")
        case "print":
            print_much(int(sys.argv[2]))
        case "stop":
            saves_when_told()
        case _:
            print(f"rank {RANK} waits", flush=True)
            time.sleep(3600)


def print_much(megabytes: int) -> None:
    line = b"x" * 999 + b"\n"
    for _ in range(megabytes):
        os.write(1, line * 1000)
    step(2)
    print("the last word", flush=True)


def main() -> None:
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        return  # of MindSpore, the scheduler is held up in `init`, and leaves when the workers have
    match sys.argv[1]:
        case "tell":
            tell(sys.argv[2])
        case "silent":
            time.sleep(3600)
        case "leave":
            leaves_children()
        case "save":
            train_and_save()
        case _:
            train()


if __name__ == "__main__":
    main()
