"""A command of ours run in this process, which has loaded it already, instead of in one of its own.

For the many inputs that a command refuses or takes, where one process each would prove no more: that `python -m` starts
the command, each file of tests proves with a process.
"""

import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock


def run_here(
    main: Callable[[], int], arguments: list[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """What `main` leaves, given `arguments` on its command line and nothing but `environment` around it.

    What no command catches is no exit code here: it fails the test.
    """
    out, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.dict("os.environ", environment, clear=True),
        mock.patch.object(sys, "argv", ["command", *arguments]),
        redirect_stdout(out),
        redirect_stderr(errors),
    ):
        try:
            code = int(main())
        except SystemExit as exit_:  # argparse refuses so
            code = exit_.code
    printed = (stream.buffer.getvalue().decode() for stream in (out, errors))
    return subprocess.CompletedProcess(arguments, code, *printed)
