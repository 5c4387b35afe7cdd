"""What adopting a shard set costs, beside reading it.

    python -m benchmarks.adoption.adopt [--size 4GB] [--folder DIR]

Prints, for slices in the page cache and for slices that are not, the seconds of one reading of all files by `cat`,
those of `shardline adopt` in a process of its own, interpreter and imports included, and the most memory that it held.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.merge.shard_sets import save
from shardline.base.sizes import parse_size
from shardline.checkpoint.shards.shard_set import ShardSet

ADOPT = """
import sys
from pathlib import Path
from shardline.cli.main import main
code = main(["adopt", *sys.argv[1:]])
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line), file=sys.stderr)
sys.exit(code)
"""
"""The command, which says at its end how much memory it has held at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("4GB"))
    parser.add_argument("--folder", type=Path, help="where slices are written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        strategy = save(folder / "shards", arguments.size, ".ckpt")
        shards = folder / "shards"
        files = sorted(shards.rglob("*.ckpt"))
        size = sum(file.stat().st_size for file in files)
        print(f"{len(files)} files, {size / 1e9:.2f} GB")
        for kind in ("warm", "cold"):
            read, _ = measured(["cat", *map(str, files)], files, kind)
            command = [sys.executable, "-c", ADOPT, str(shards), "--strategy", str(strategy), "--json"]
            adopted, printed = measured(command, files, kind)
            memory = int(printed.split()[-2]) * 1024
            (step,) = ShardSet.steps(shards)
            ShardSet.path(shards, step).unlink()
            print(
                f"{kind}: read in {read:.2f} s ({size / read / 1e9:.2f} GB/s), adopted in {adopted:.2f} s "
                f"({size / adopted / 1e9:.2f} GB/s), {memory / 2**20:.0f} MiB at most",
                flush=True,
            )


def measured(command: list[str], files: list[Path], kind: str) -> tuple[float, str]:
    """The seconds that `command` takes, and what it says on stderr."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        if kind == "cold":
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while os.read(descriptor, 1 << 20):
                pass
        os.close(descriptor)
    started = time.perf_counter()
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, ended.stderr


if __name__ == "__main__":
    main()
