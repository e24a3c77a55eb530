"""confine: this process gives up, for good, everything that parsing does not need.

Three walls, each of which would do for the most part alone: resource limits, which every POSIX
system has; Landlock, by which Linux takes away files, network and signals; seccomp, by which it
takes away system calls. What is missing is said, not passed over.

Imports the optional landlockpy and seccompy.
Source: https://docs.kernel.org/userspace-api/landlock.html and seccomp_filter.html; getrlimit(2).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, Final

from vmimg.errors import UnsupportedFeature
from vmimg.extras import require
from vmimg.sandbox.confinement import MISSING, Confinement, Limits
from vmimg.sandbox.systemcalls import ANYWHERE, IN_A_FOLDER, Call
from vmimg.units import format_size

__all__ = ["confine", "load_libraries"]

# Standard streams, the image, and a few files of a folder.
_DESCRIPTORS: Final = 16
# Seconds from the signal that ends a process which has used up its time to the one that kills it.
_GRACE: Final = 2
_PR_SET_NO_NEW_PRIVS: Final = 38
# Before this one, Landlock says nothing on the network: seccomp has to.
_NETWORK_ABI: Final = 4


def load_libraries() -> None:
    """Have at hand what `confine` will use: they look for the C library when they are first asked
    for something, and they start a process for that.
    """
    for library in ("landlockpy", "seccompy"):
        try:
            _library(library).supported()
        except (UnsupportedFeature, OSError):
            pass  # confine says so


def confine(limits: Limits, *, folder: str | None = None) -> Confinement:
    """Confine this process. Nothing undoes it.

    ``folder``: may be read, with all that lies below it; None where no file is to be opened at all.
    Raises UnsupportedFeature where it cannot be that this folder and no other is read.
    """
    held = _limit(limits)
    landlock = _landlock(folder)
    if folder is not None and landlock.startswith(MISSING):
        raise UnsupportedFeature(
            f"{folder}: the sandbox cannot read a directory here, and nothing else: Landlock is "
            f"{landlock}"
        )
    return Confinement(held, landlock, _seccomp(ANYWHERE + (IN_A_FOLDER if folder else ())))


# Resource limits


def _limit(limits: Limits) -> str:
    if sys.platform == "win32":
        return f"{MISSING}Windows has none for a process alone"
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + limits.processor_seconds
    wanted: dict[str, tuple[int, int]] = {
        "RLIMIT_CPU": (seconds, seconds + _GRACE),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_CORE": (0, 0),  # what was read of the image, in a file
        "RLIMIT_NPROC": (0, 0),
        "RLIMIT_NOFILE": (_DESCRIPTORS, _DESCRIPTORS),
    }
    mapped = _mapped()
    if mapped is not None:
        wanted["RLIMIT_AS"] = (mapped + limits.memory,) * 2
    failed = [name for name, pair in wanted.items() if not _set(resource, name, pair)]
    if mapped is None:
        failed.append("RLIMIT_AS")
    if sys.platform == "linux" and not _no_new_privileges():
        failed.append("no_new_privs")
    if failed:
        return f"{MISSING}{', '.join(failed)}"
    return f"{format_size(limits.memory)} of memory, {limits.processor_seconds} s"


def _set(resource: Any, name: str, pair: tuple[int, int]) -> bool:
    kind = getattr(resource, name, None)
    if kind is None:
        return False
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:  # nobody may raise what somebody has lowered
        pair = (min(pair[0], hard), min(pair[1], hard))
    try:
        resource.setrlimit(kind, pair)
    except (OSError, ValueError):
        return False
    return True


def _mapped() -> int | None:
    """Bytes of address space that this process has; None where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _no_new_privileges() -> bool:
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


# Landlock


def _landlock(folder: str | None) -> str:
    """No file, no network, no signal; but ``folder``."""
    try:
        landlockpy = _library("landlockpy")
    except UnsupportedFeature as error:
        return f"{MISSING}{error}"
    try:
        scopes = landlockpy.Scope.ABSTRACT_UNIX_SOCKET | landlockpy.Scope.SIGNAL
        with landlockpy.Ruleset(scoped=scopes) as ruleset:
            if folder is not None:
                rights = landlockpy.AccessFS.READ_FILE | landlockpy.AccessFS.READ_DIR
                ruleset.allow_path(folder, rights)
            ruleset.restrict()
            version = int(ruleset.abi_version)
    except landlockpy.UnsupportedError:
        return f"{MISSING}this kernel has none, or it is switched off"
    except OSError as error:
        return f"{MISSING}{_reason(error)}"
    beyond = "" if version >= _NETWORK_ABI else ", which leaves the network to seccomp"
    return f"ABI {version}{beyond}"


# seccomp


def _seccomp(calls: tuple[Call, ...]) -> str:
    try:
        seccompy = _library("seccompy")
    except UnsupportedFeature as error:
        return f"{MISSING}{error}"
    try:
        # An error and no death: libraries try what they can do without, and go on. What is not
        # allowed does not happen either way.
        refusal = seccompy.Action.ERRNO | errno.EPERM
        # TSYNC: for the threads too that a library may have started.
        filter = seccompy.Filter(refusal, flags=seccompy.FilterFlag.TSYNC)
        for call in calls:
            try:
                filter.allow(call.name, args=_conditions(seccompy, call))
            except ValueError:
                continue  # this processor's kernel has no such call
        filter.load()
    except seccompy.UnsupportedError:
        return f"{MISSING}this kernel has none, or not for this processor"
    except OSError as error:
        return f"{MISSING}{_reason(error)}"
    return f"{len(calls)} system calls"


def _conditions(seccompy: Any, call: Call) -> list[Any]:
    operator = seccompy.CmpOp.MASKED_EQ
    return [seccompy.ArgCmp(index, operator, value, mask) for index, mask, value in call.where]


def _library(name: str) -> Any:
    return require(name, "sandbox", name)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
