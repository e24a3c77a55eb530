"""The system calls that a confined parser may make: Python's own housekeeping, reading what is open
already, and answering. Everything else fails with EPERM.

What is absent is the point: no open, socket, connect, fork, clone, execve, kill, ptrace, mount,
unlink, rename, io_uring, bpf, userfaultfd, keyctl, process_vm_readv, and no memory that can be
executed. Names are Linux's; one that a processor's kernel does not have is left out there. Data
only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

__all__ = ["ANYWHERE", "IN_A_FOLDER", "Call"]

_U32: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF
_PROT_EXEC: Final = 4
_AT_EMPTY_PATH: Final = 0x1000
# fcntl.h; Linux's numbers are the same for all processors that seccompy knows.
_F_GETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 1, 3, 1030
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37
# Sizes of block devices, linux/fs.h.
_BLKSSZGET, _BLKGETSIZE64 = 0x1268, 0x80081272
# All bits of open's flags that would make, empty or write a file. The last is __O_TMPFILE.
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000


@dataclass(frozen=True, slots=True)
class Call:
    """Allowed where, for each (index, mask, value) of ``where``, argument & mask == value."""

    name: str
    where: tuple[tuple[int, int, int], ...] = ()


def _equal(index: int, value: int) -> tuple[tuple[int, int, int], ...]:
    return ((index, _U32, value),)


_HOUSEKEEPING: Final = (
    # memory
    *("brk", "munmap", "mremap", "madvise"),
    # time, signals to oneself, ends, locks between the interpreter's own threads
    *("clock_gettime", "clock_getres", "gettimeofday", "time", "clock_nanosleep", "nanosleep"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("exit", "exit_group", "futex", "sched_yield", "sched_getaffinity", "rseq", "membarrier"),
    # who and where one is: paths in messages are made absolute
    *("getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getcwd", "getrusage"),
    "getrandom",
    # what is open already
    *("read", "readv", "pread64", "preadv", "preadv2", "lseek", "fstat", "close"),
)

ANYWHERE: Final = (
    *map(Call, _HOUSEKEEPING),
    Call("mmap", ((2, _PROT_EXEC, 0),)),
    Call("mprotect", ((2, _PROT_EXEC, 0),)),
    # Standard output and standard error, which are pipes.
    Call("write", _equal(0, 1)),
    Call("write", _equal(0, 2)),
    # fstat, as some C libraries spell it. Of a path, it says no more than that there is one.
    Call("newfstatat", _equal(3, _AT_EMPTY_PATH)),
    Call("fcntl", _equal(1, _F_GETFD)),
    Call("fcntl", _equal(1, _F_GETFL)),
    Call("fcntl", _equal(1, _F_DUPFD_CLOEXEC)),
    Call("ioctl", _equal(1, _BLKSSZGET)),
    Call("ioctl", _equal(1, _BLKGETSIZE64)),
    # getrlimit, of this process.
    Call("prlimit64", ((0, _U32, 0), (2, _U64, 0))),
)

IN_A_FOLDER: Final = (
    # For reading; which files, Landlock says.
    Call("openat", ((2, _WRITING, 0),)),
    Call("open", ((1, _WRITING, 0),)),
    *map(Call, ("getdents64", "newfstatat", "stat", "lstat", "statx", "readlink", "readlinkat")),
    # The lock that says that an image is being read.
    Call("fcntl", _equal(1, _F_OFD_GETLK)),
    Call("fcntl", _equal(1, _F_OFD_SETLK)),
)
