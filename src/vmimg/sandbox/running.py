"""run: parse an image in a confined process and take its answer, as data and nothing else.

The parent trusts the child no more than the image: an answer has a size and a time at most, it is
JSON or it is refused, and a child that dies is one error that says how.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any, Final, Literal, TypeVar

from vmimg import errors
from vmimg.formats.info import DiskInfo
from vmimg.formats.opening import open_file
from vmimg.probe.detecting import Detection
from vmimg.probe.policy import Policy
from vmimg.probe.vetting import Report
from vmimg.sandbox.confinement import Confinement, Limits
from vmimg.sandbox.records import decode, encode

__all__ = ["detect", "info", "run", "vet"]

_T = TypeVar("_T")

# An answer is some KiB. A larger one costs its reader up to thirty times its size, as objects.
_ANSWER: Final = 4 << 20
_COMPLAINT: Final = 64 << 10
# Seconds for an interpreter to start and to import, on a slow and busy machine.
_START: Final = 20.0

# -I: no directory of the user's and no variable says what is imported, but what the parent says.
_BOOTSTRAP = (
    "import sys; sys.path += [p for p in sys.argv[1:] if p not in sys.path]; "
    "from vmimg.sandbox.child import main; main()"
)


def run(
    task: Literal["detect", "vet", "info"],
    path: str | os.PathLike[str],
    *,
    limits: Limits | None = None,
    require: bool = False,
    lock: bool = True,
    **arguments: Any,
) -> tuple[dict[str, Any], Confinement]:
    """The answer of ``task`` on the image at ``path``, as `records.encode` wrote it, and what held
    the process that gave it.

    ``require``: refuse to parse where the sandbox is not whole (UnsupportedFeature). ``lock``: take
    QEMU's image lock while it is read. ``arguments``: the task's own, as JSON can hold them. Raises
    UnsafeImage where the parser had to be stopped, or died; what the task raises; and
    UnsupportedFeature where the system cannot confine a process at all.
    """
    shown = os.fspath(path)
    if sys.platform == "win32" or not sys.executable or getattr(sys, "frozen", False):
        raise errors.UnsupportedFeature(
            f"{shown}: there is no sandbox here: it takes Python on Linux, or at least on another "
            "Unix; use the container or the virtual machine that your system offers"
        )
    limits = limits or Limits()
    request: dict[str, Any] = {
        "task": task,
        "path": shown,
        "descriptor": None,
        "folder": None,
        "arguments": arguments,
        "limits": asdict(limits),
        "require": require,
    }
    if os.path.isdir(shown):
        request["folder"] = os.path.abspath(shown)
        return _answered(shown, *_converse(request, None, limits), limits)
    with open_file(shown, lock=lock) as storage:
        # Storages that open_file gives are files; the descriptor keeps what was opened and locked.
        fd: int = storage.fileno()  # type: ignore[attr-defined]
        request["descriptor"] = fd
        return _answered(shown, *_converse(request, fd, limits), limits)


def detect(
    path: str | os.PathLike[str], *, limits: Limits | None = None, require: bool = False
) -> tuple[Detection, Confinement]:
    """`vmimg.detect`, in the sandbox."""
    answer, confinement = run("detect", path, limits=limits, require=require, lock=False)
    return _record(Detection, answer, path), confinement


def vet(
    path: str | os.PathLike[str],
    *,
    policy: Policy | str = "strict",
    declared: str | None = None,
    limits: Limits | None = None,
    require: bool = False,
) -> tuple[Report, Confinement]:
    """`vmimg.vet`, in the sandbox. ``policy``: read here, for the child opens no file."""
    answer, confinement = run(
        "vet",
        path,
        limits=limits,
        require=require,
        lock=False,
        policy=encode(policy if isinstance(policy, Policy) else Policy.load(policy)),
        declared=declared,
    )
    return _record(Report, answer, path), confinement


def info(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    share: bool = False,
    limits: Limits | None = None,
    require: bool = False,
) -> tuple[DiskInfo, Confinement]:
    """`vmimg.info` of one file, in the sandbox."""
    answer, confinement = run(
        "info", path, limits=limits, require=require, lock=not share, format=format, share=share
    )
    return _record(DiskInfo, answer, path), confinement


def _record(kind: type[_T], answer: dict[str, Any], path: str | os.PathLike[str]) -> _T:
    try:
        return decode(kind, answer)
    except (KeyError, TypeError, ValueError, RecursionError, errors.OptionError):
        raise _stopped(os.fspath(path), "its answer made no sense") from None


def _converse(request: dict[str, Any], fd: int | None, limits: Limits) -> tuple[int, bytes, bytes]:
    """(exit code, standard output, standard error) of a child that was sent ``request``."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _BOOTSTRAP, *_import_paths()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=() if fd is None else (fd,),
        # numpy starts threads for linear algebra, which nothing here does.
        env={"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"},
        cwd=None,
        start_new_session=True,
    )
    assert process.stdin and process.stdout and process.stderr
    try:
        try:
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has died: its end says why
        said = _listen(
            {process.stdout.fileno(): _ANSWER, process.stderr.fileno(): _COMPLAINT},
            time.monotonic() + _START + limits.seconds,
        )
        if said is None:
            raise _stopped(request["path"], f"it took more than {limits.seconds:g} s")
        output, complaint = said
        if len(output) > _ANSWER or len(complaint) > _COMPLAINT:
            raise _stopped(request["path"], "its answer had no end")
        return process.wait(timeout=_START), output, complaint
    except subprocess.TimeoutExpired:
        raise _stopped(request["path"], "it did not end") from None
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            try:
                stream.close()
            except BrokenPipeError:
                pass


def _listen(most: dict[int, int], deadline: float) -> tuple[bytes, ...] | None:
    """What comes from each descriptor until its end, or one byte more than its ``most``; None where
    the time is up before.
    """
    heard = {fd: bytearray() for fd in most}
    with selectors.DefaultSelector() as selector:
        for fd in most:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            for key, _ in selector.select(left):
                fd = key.fd
                data = os.read(fd, 1 << 16)
                heard[fd] += data
                if len(heard[fd]) > most[fd]:
                    return tuple(bytes(text[: most[fd] + 1]) for fd, text in heard.items())
                if not data:
                    selector.unregister(fd)
    return tuple(bytes(text) for text in heard.values())


def _answered(
    path: str, code: int, output: bytes, complaint: bytes, limits: Limits
) -> tuple[dict[str, Any], Confinement]:
    """What the child said: its result, or the error that it ended with."""
    if code < 0:
        raise _stopped(path, _death(-code, limits))
    lines = output.splitlines()
    if code != 0 or len(lines) != 2:
        last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
        raise _stopped(path, f"it ended without an answer ({last or f'exit code {code}'})")
    try:
        held, answer = (json.loads(line) for line in lines)
        error = answer.get("error")
        if error is None:
            confinement = Confinement.from_json(held)
            result = answer["result"]
            if not isinstance(result, dict):
                raise ValueError("no object")
            return result, confinement
        kind, message = str(error["kind"]), str(error["message"])
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise _stopped(path, "its answer made no sense") from None
    raise _raised(path, kind, message, limits)


def _raised(path: str, kind: str, message: str, limits: Limits) -> errors.VmimgError:
    """The error of the tree that the task ended with."""
    if kind == "MemoryError":
        return _stopped(path, f"it needed more than {limits.memory >> 20} MiB of memory")
    if kind in errors.__all__:
        made: errors.VmimgError = getattr(errors, kind)(message)
        return made
    return errors.VmimgError(f"{path}: the parser failed: {message}; this is a bug in vmimg")


def _death(number: int, limits: Limits) -> str:
    if number == signal.SIGXCPU:
        return f"it used more than {limits.processor_seconds} s of processor time"
    try:
        return f"it died ({signal.Signals(number).name})"
    except ValueError:
        return f"it died (signal {number})"


def _stopped(path: str, why: str) -> errors.UnsafeImage:
    return errors.UnsafeImage(f"{path}: the parser was stopped in its sandbox: {why}")


def _import_paths() -> list[str]:
    """Where the child finds what the parent has: vmimg itself, and what was installed for us.

    The current directory is never among them: that may be where the stranger's files are.
    """
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    current = os.path.realpath(os.curdir)
    others = [p for p in sys.path if os.path.isabs(p) and os.path.realpath(p) != current]
    return [here, *others]
