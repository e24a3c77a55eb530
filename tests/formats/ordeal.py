"""Puts images through everything that a reader does, and reports what happened as JSON lines.

Run as a program, so that limits on memory and time hold for the whole of it:
``ordeal.py SCRATCH IMAGE...``. Each line: the image, what each step raised, the CPU seconds of the
slowest step and which it was, peak memory in MiB. The fuzzers read as it does (`read_places`,
`read_extents`).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

import vmimg.codecs.deflate
import vmimg.codecs.zstd
import vmimg.formats.qcow2.allocation
import vmimg.formats.qcow2.check
import vmimg.transfer.convert
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import VmimgError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk

MIB = 1 << 20
# Of the images that are encrypted.
KEY = b"secret"
# A size that cannot be is refused before anything else would be looked at.
ANY_SIZE = ParentPolicy(max_size=1 << 64)


def read_places(disk: Disk) -> None:
    for start in (0, disk.size // 2, disk.size - 100000, disk.size - 1):
        if start >= 0:
            disk.read(start, min(200000, disk.size - start))


def read_extents(disk: Disk, budget: int = 16 * MIB) -> None:
    for extent in islice(disk.map(), 10000):
        if extent.kind == Kind.DATA and budget > 0:
            length = min(extent.length, MIB)
            budget -= length
            disk.read(extent.start, length)


def read(path: Path, scratch: Path) -> None:
    with open_disk(path, keys=KEY, policy=ANY_SIZE) as disk:
        read_places(disk)


def read_data(path: Path, scratch: Path) -> None:
    with open_disk(path, keys=KEY, policy=ANY_SIZE) as disk:
        read_extents(disk)


def walk(path: Path, scratch: Path) -> None:
    with open_disk(path, keys=KEY, policy=ANY_SIZE) as disk:
        for _ in islice(disk.map(), 10000):
            pass
        for _ in islice(disk.spans(), 10000):
            pass


def info(path: Path, scratch: Path) -> None:
    for one in image_info(path):
        json.dumps(one.to_json())


def chain(path: Path, scratch: Path) -> None:
    image_info(path, chain=True)


def snapshot(path: Path, scratch: Path) -> None:
    with open_disk(path, snapshot="1", keys=KEY, policy=ANY_SIZE) as disk:
        disk.read(0, min(200000, disk.size))


def convert(path: Path, scratch: Path) -> None:
    target = scratch / "converted"
    try:
        vmimg.transfer.convert.convert(
            path, target, format="qcow2", threads=2, keys=KEY, policy=ANY_SIZE
        )
    finally:
        target.unlink(missing_ok=True)


def examine(path: Path, scratch: Path) -> None:
    report = check(path)
    if report.errors or report.corruptions:
        raise VmimgError(f"{path}: check: " + "; ".join(report.problems[:3]))


def write(path: Path, scratch: Path) -> None:
    with open_disk(path, writable=True, keys=KEY, policy=ANY_SIZE) as disk:
        if disk.size >= 200000:
            disk.write(100, b"x" * 100000)
            disk.flush()


STEPS: tuple[Callable[[Path, Path], None], ...] = (
    info, chain, read, read_data, walk, snapshot, convert, examine, write,
)  # fmt: skip


def peak_mib() -> int:
    """Peak memory of this program; getrusage counts what the parent had when it forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def main() -> None:
    scratch, *images = map(Path, sys.argv[1:])
    # Warm: what the first use of numpy and the coders takes is not the image's.
    np.zeros(10).sum()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 256 * MIB,) * 2)
    for image in images:
        raised: dict[str, tuple[str, str, bool]] = {}
        slowest = (0.0, "")
        for step in STEPS:
            began = time.process_time()
            try:
                step(image, scratch)
            except BaseException as error:
                ours = isinstance(error, VmimgError)
                raised[step.__name__] = (type(error).__name__, str(error), ours)
            slowest = max(slowest, (time.process_time() - began, step.__name__))
        print(json.dumps([image.name, raised, *slowest, peak_mib()]), flush=True)


if __name__ == "__main__":
    main()
