"""What every rank starts with, before anything heavy is imported.

    mpirun -n N python -m shardline.launch.rank --logs DIR MODULE [ARGUMENT...]
    mpirun -n N python -m shardline.launch.rank --logs DIR --program

The rank dies with its mpirun, writes everything it prints to its own log, runs MODULE as `python -m MODULE` would,
records how that ended (`shardline.launch.records`), and leaves by `os._exit`: MindSpore's exit handlers wait for
ranks that have left already, a minute in 2.10. The same MODULE runs under a plain `mpirun -n N python -m MODULE`.

MODULE runs in a child. What mpirun started stays as its witness: small, and able to record a SIGKILL or a crash, which
the module's own process can't, at the time when it happens.

The supervisor speaks to the ranks of all hosts through mpirun, which forwards SIGUSR1 and SIGUSR2 to the process group
of each, and kills it a second after SIGTERM. So SIGUSR2 means "stop": the witness passes it on as SIGTERM, and the
module has time to save. SIGUSR1 asks the module where it stands.

With `--program` it is the user's own program that runs, as the rank's folder says (`shardline.launch.program_rank`).
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import os
import platform
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from shardline.base.errors import ShardlineError, Stopped, kind_of
from shardline.base.exit_codes import FAILED, STOPPED, ExitCode
from shardline.base.parent_death import send_on_parent_death
from shardline.launch.program_rank import run_program
from shardline.launch.rank_number import folder_name, rank_number
from shardline.launch.records import Failure, RankFolder, Started

_FROM_SUPERVISOR = (signal.SIGUSR1, signal.SIGUSR2)


def main(argv: Sequence[str]) -> NoReturn:
    """Run the module as this rank, from the first line to the last."""
    send_on_parent_death(signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_SUPERVISOR)  # until what they mean is set up
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, required=True, help="the folder of the ranks' folders")
    parser.add_argument("--program", action="store_true", help="run what the rank's program.json says")
    parser.add_argument("module", nargs="?", help="unless --program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(argv)
    rank, folder = rank_number(os.environ), RankFolder(arguments.logs / folder_name(os.environ))
    _redirect(folder)
    if arguments.program:
        _end_likewise(run_program(rank, folder))
    if module_process := os.fork():
        _witness(module_process, rank, folder)
    send_on_parent_death(signal.SIGKILL)
    _show_stacks(folder)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the witness's
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FROM_SUPERVISOR)
    folder.write_started(Started(rank, os.getpid(), platform.node(), time.time()))
    failure = _run(rank, arguments.module, arguments.arguments)
    # Where all ranks raise the same, mpirun ends the others as soon as the first has left. They are heard first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _flush()
    _record(folder, failure)
    if failure is None or _has_stopped(failure):
        _leave_mpi()
    os._exit(0 if failure is None or _has_stopped(failure) else failure.exit_code)


def _redirect(folder: RankFolder) -> None:
    """Standard output and error, also of C++ code and of children, go to the log line by line; input is empty."""
    folder.path.mkdir(parents=True, exist_ok=True)
    log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    empty = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, empty), (1, log), (2, log)):
        os.dup2(source, target)
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]


def _witness(module_process: int, rank: int, folder: RankFolder) -> NoReturn:
    """Wait for the module's process, record an end that it couldn't record itself, and end likewise."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # mpirun tells the whole process group to go
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the module's
    signal.signal(signal.SIGUSR2, lambda _number, _frame: os.kill(module_process, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FROM_SUPERVISOR)
    code = os.waitstatus_to_exitcode(os.waitpid(module_process, 0)[1])
    if not folder.has_left_well() and folder.read_failure() is None:
        end = Failure(rank, platform.node(), time.time(), max(code, 0), signal_number=max(-code, 0), silent=True)
        _record(folder, end)
        code = code or 1
    _end_likewise(code)


def _end_likewise(code: int) -> NoReturn:
    """End this process as its child has ended: with its exit code, or by its signal, a number less than 0."""
    if code < 0:
        _end_by(-code)
    os._exit(code)


def _end_by(signal_number: int) -> NoReturn:
    """End this process by a signal, so that mpirun sees and reports it; without a second core dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if signal_number != signal.SIGKILL:
        signal.signal(signal_number, signal.SIG_DFL)
    os.kill(os.getpid(), signal_number)
    os._exit(128 + signal_number)


def _show_stacks(folder: RankFolder) -> None:
    """Dump where every thread stands, also inside native code: on a crash into the log, else into `stacks`."""
    faulthandler.enable()
    stacks = os.open(folder.stacks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    faulthandler.register(signal.SIGTERM, file=stacks, all_threads=True, chain=True)


def _run(rank: int, module: str, arguments: Sequence[str]) -> Failure | None:
    """Run `module` as the main program; what it raises goes to the log and into the returned failure."""
    sys.argv[1:] = arguments

    def failure(exit_code: int, error: BaseException | None = None) -> Failure:
        described = (type(error).__name__, str(error), kind_of(error)) if error else ()
        return Failure(rank, platform.node(), time.time(), exit_code, *described)

    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        return _left(leaving.code, failure)
    except ShardlineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return failure(error.exit_code, error)
    except BaseException as error:  # noqa: BLE001 - whatever ends a rank is recorded before the rank ends
        traceback.print_exception(error.with_traceback(_below_runpy(error.__traceback__)))
        return failure(FAILED, error)
    return None


def _below_runpy(stack: TracebackType | None) -> TracebackType | None:
    """The part of `stack` that is the module's own: it saves the log's last lines for what matters."""
    own = stack
    while own and (own.tb_frame.f_code.co_filename == __file__ or "runpy" in own.tb_frame.f_code.co_filename):
        own = own.tb_next
    return own or stack


def _left(code: object, failure: Callable[..., Failure]) -> Failure | None:
    """`sys.exit(code)` as Python takes it: None is 0, what isn't a number is printed and is 1."""
    if code is None or code == 0:
        return None
    if isinstance(code, int):
        return failure(code & 0xFF or FAILED, code.error if isinstance(code, ExitCode) else None)
    print(code, file=sys.stderr)
    return failure(FAILED)


def _flush() -> None:
    """What Python and C++ still hold reaches the log; `os._exit` flushes neither."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _leave_mpi() -> None:
    """Leave MPI with all other ranks, where the module has joined it: else mpirun takes this rank for failed."""
    mpi: Any = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()


def _has_stopped(failure: Failure) -> bool:
    """Whether this "failure" is a rank that was told to stop, and left when all had saved a shard set."""
    return failure.exit_code == STOPPED and (not failure.error or failure.kind == Stopped.__name__)


def _record(folder: RankFolder, failure: Failure | None) -> None:
    """Leave the record; on a full disk the exit code and the log have to do."""
    try:
        if failure is None:
            folder.write_finished()
        elif _has_stopped(failure):
            folder.write_stopped()
        else:
            folder.write_failure(failure)
    except OSError as error:
        print(f"cannot record the end of this rank: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
