"""The command ``vmimg``. One file per verb; none of them is loaded before it is asked for.

Importing this costs nothing; the rest is imported by `main`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

__all__ = ["main", "program"]


def program() -> None:
    """The whole process: `main`, and out with its exit code.

    Everything is closed and flushed by then. Taking the interpreter and numpy apart, object by
    object, would be 20 ms of each run for nothing.
    """
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # gone, closed, or never there: run has said so
        pass
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. ``arguments``: those of the process where None."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-V"]):
        # Answered before anything is imported: scripts ask this often.
        from vmimg import __version__

        try:
            print(f"vmimg {__version__}", flush=True)
            return 0
        except OSError:
            pass  # run says what is wrong with standard output
    # Imports make many objects and no garbage: 20 ms less without looking for any.
    gc.set_threshold(50_000)
    # numpy starts threads for linear algebra, which nothing here does: 60 ms of every run.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from vmimg.cli.run import run
    except KeyboardInterrupt:  # from here on, run answers to it
        print("vmimg: interrupted", file=sys.stderr)
        return 130
    return run(given)
