"""The process in the sandbox: read the request, confine, parse, answer. Started by `running`.

Standard input is one JSON object: task, path, descriptor, arguments, limits. Standard output is two
lines of JSON: the confinement, said before a byte of the image is read, and then
``{"result": ...}`` or ``{"error": {"kind": "FormatError", "message": "..."}}``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final, NoReturn

from vmimg import errors, storage
from vmimg.sandbox.confinement import Limits
from vmimg.sandbox.confining import confine, load_libraries
from vmimg.sandbox.records import encode
from vmimg.sandbox.tasks import TASKS, preload

__all__ = ["main"]

_MESSAGE: Final = 4000


def main() -> NoReturn:
    """Serve one request and end the process."""
    request = json.loads(sys.stdin.buffer.read())
    _say(_serve(request))
    os._exit(0)


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    task = TASKS[request["task"]]
    path: str = request["path"]
    preload(task)
    load_libraries()
    try:
        confinement = confine(Limits(**request["limits"]), folder=request["folder"])
        if request["require"] and confinement.missing:
            raise errors.UnsupportedFeature(
                f"{path}: no whole sandbox is to be had here: {'; '.join(confinement.missing)}"
            )
        _say(confinement.to_json())
    except errors.VmimgError as error:
        _say({})
        return _error(type(error).__name__, str(error))
    if request["descriptor"] is not None:
        storage.hand_over(path, request["descriptor"])
    try:
        return {"result": encode(task.run(path, request["arguments"]))}
    except errors.VmimgError as error:
        return _error(type(error).__name__, str(error))
    except MemoryError:
        return _error("MemoryError", "")
    except Exception as error:
        return _error("Exception", f"{type(error).__name__}: {error}")


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message[:_MESSAGE]}}


def _say(answer: dict[str, Any]) -> None:
    data = memoryview(json.dumps(answer).encode() + b"\n")
    while data:
        data = data[os.write(1, data) :]
