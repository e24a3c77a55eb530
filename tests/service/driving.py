"""Programs that answer lines of JSON: what runs a client in its own interpreter, or language.

Each answer is {"value": ...}, or {"error": ..., "kind": ...} of an exception.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Driver", "driver"]

# What would make a client ask somebody else, or compile each module anew.
_OURS = "OS_", "PYTHON"


class Driver:
    """One such program, running."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def value(self, **said: Any) -> Any:
        """What it returns."""
        answer = self._ask(said)
        assert "error" not in answer, answer
        return answer["value"]

    def failure(self, **said: Any) -> str:
        """The kind of exception that it meets."""
        answer = self._ask(said)
        assert "error" in answer, answer
        return str(answer["kind"])

    def _ask(self, said: dict[str, Any]) -> dict[str, Any]:
        asking, answering = self._process.stdin, self._process.stdout
        assert asking is not None and answering is not None
        # A path stands for the open file.
        asking.write(json.dumps(said, default=lambda path: {"file": str(path)}) + "\n")
        asking.flush()
        line = answering.readline()
        assert line, self._log.read_text(errors="replace")[-4000:]
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def driver(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Driver]:
    """The program, working in `folder`, which keeps what it says besides."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    log = folder / f"{Path(command[-1]).name or 'driver'}.log"
    with log.open("ab") as said:
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
            cwd=folder, env=mine | dict(environment or {}),
        )  # fmt: skip
    try:
        yield Driver(process, log)
    finally:
        process.communicate(timeout=30)
