"""The command as a user runs it: another process, its output, its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["COMMAND", "NAMES", "Done", "environment", "start", "vmimg", "vmimg_json"]

NAMES = (
    "base.qcow2",
    "overlay.qcow2",
    "top.qcow2",
    "compressed.qcow2",
    "old.qcow2",
    "subclusters.qcow2",
    "external.qcow2",
    "empty.qcow2",
    "sparse.raw",
    "over-raw.qcow2",
    "bitmap.qcow2",
)
"""Names of all images of the `images` fixture (conftest.py)."""

COMMAND = [sys.executable, "-m", "vmimg"]


@dataclass(frozen=True, slots=True)
class Done:
    """What the command did; ``raw`` is its standard output as it came, ``out`` as text."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with nothing in it that changes how output looks."""
    drop = {"NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "VMIMG_DEBUG", "_VMIMG_COMPLETE"}
    return {key: text for key, text in os.environ.items() if key not in drop} | changes


def vmimg(
    *arguments: str | os.PathLike[str],
    ok: Sequence[int] | None = (0,),
    input: bytes | None = None,
    cwd: Path | None = None,
    timeout: float = 60,
    **changes: str,
) -> Done:
    """Run ``vmimg``. An exit code outside ``ok`` fails the test (None: any may come)."""
    ran = subprocess.run(
        [*COMMAND, *map(os.fspath, arguments)],
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        cwd=cwd,
        timeout=timeout,
        env=environment(**changes),
    )
    done = Done(ran.returncode, ran.stdout, ran.stderr.decode(errors="replace"))
    assert "Traceback" not in done.err, done.err
    assert ok is None or done.code in ok, f"exit code {done.code}: {done.err}{ran.stdout[:2000]!r}"
    return done


def vmimg_json(
    *arguments: str | os.PathLike[str], ok: Sequence[int] = (0,), **settings: Any
) -> Any:
    """The JSON that ``vmimg`` prints."""
    return json.loads(vmimg(*arguments, "--output", "json", ok=ok, **settings).raw)


def start(*arguments: str | os.PathLike[str], **settings: Any) -> subprocess.Popen[bytes]:
    """``vmimg`` in the background, with the signals of a fresh login."""

    def fresh() -> None:
        # A test run in the background of a script inherits Ctrl-C ignored.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [*COMMAND, *map(os.fspath, arguments)],
        preexec_fn=fresh,
        env=environment(**settings.pop("changes", {})),
        **settings,
    )
