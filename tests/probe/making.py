"""How samples of disk formats are made: by qemu-img, by vmimg, or of bytes that are put together.

Disks are small, with text, noise and zeros in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import peers
from probe.sample import Sample
from samples import awkward_disk, write_sparse
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

__all__ = ["DISK", "by_qemu", "by_vmimg", "child_by_vmimg", "of_bytes", "of_files"]

SIZE = (3 << 20) + 512


@cache
def DISK() -> bytes:  # noqa: N802 - a constant that takes a moment to make
    """What is on the disks that are converted."""
    return awkward_disk(SIZE, seed=7)


def by_qemu(name: str, file: str, format: str, *options: str, claim: str = "") -> Sample:
    """What ``qemu-img convert -O format -o options`` makes."""

    def make(folder: Path) -> Path:
        source = write_sparse(folder / "disk.raw", DISK())
        path = folder / file
        more = [part for option in options for part in ("-o", option)]
        peers.run("qemu-img", "convert", "-f", "raw", "-O", format, *more, source, path)
        source.unlink()
        return path

    return Sample(f"qemu-{name}", make, claim, peers=("qemu-img",))


def by_vmimg(
    name: str, file: str, format: str, claim: str = "", *, size: int = 0, **options: Any
) -> Sample:
    """What vmimg makes: converted, or an empty disk of ``size`` bytes if that is given."""

    def make(folder: Path) -> Path:
        path = folder / file
        if size:
            create(path, size, format=format, options=options)
            return path
        source = write_sparse(folder / "disk.raw", DISK())
        convert(source, path, format=format, options=options)
        source.unlink()
        return path

    return Sample(f"vmimg-{name}", make, claim)


def child_by_vmimg(name: str, file: str, format: str, claim: str = "", **options: Any) -> Sample:
    """An overlay of vmimg's, its parent beside it."""

    def make(folder: Path) -> Path:
        source = write_sparse(folder / "disk.raw", DISK())
        base = folder / f"base{Path(file).suffix}"
        convert(source, base, format=format)
        source.unlink()
        path = folder / file
        create(path, format=format, options=options, backing=base.name, backing_format=format)
        return path

    return Sample(f"vmimg-{name}", make, claim)


def of_bytes(
    name: str, file: str, build: Callable[[], bytes], claim: str = "", *codes: str
) -> Sample:
    """A file of what ``build`` returns, with what is vetting to find in it."""

    def make(folder: Path) -> Path:
        path = folder / file
        path.write_bytes(build())
        return path

    return Sample(name, make, claim, codes)


def of_files(
    name: str, build: Callable[[], Mapping[str, bytes]], claim: str = "", *codes: str
) -> Sample:
    """Several files by their names; the first is the image."""

    def make(folder: Path) -> Path:
        files = build()
        for file, data in files.items():
            (folder / file).write_bytes(data)
        return folder / next(iter(files))

    return Sample(name, make, claim, codes)
