"""Vets disks in parts by the names and sizes of the parts. None of them is opened.

Content says nothing here: a disk is in parts because files beside it are called so. Who can put a
file, or a link, beside it decides what is read. Imports series.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from vmimg.formats.detect import Evidence
from vmimg.formats.split.series import find_series
from vmimg.formats.vetting import Finding, printable
from vmimg.storage.base import Storage

__all__ = ["split_evidence", "vet_split"]

# Parts that are looked at one by one.
_SHOWN: Final = 4096


def split_evidence(storage: Storage) -> Iterator[Evidence]:
    """Which files beside it are taken for its parts."""
    series = find_series(storage.name) if storage.identity() is not None else None
    if series is not None:
        names = printable(f"{series.names[0]} to {series.names[-1]}")
        yield Evidence(0, f"by its name one of {len(series.names)} parts, {names}")


def vet_split(storage: Storage) -> Iterator[Finding]:
    """Parts that are missing, are no files, lead elsewhere, or differ in size."""
    series = find_series(storage.name) if storage.identity() is not None else None
    if series is None:
        return
    count = len(series.names)
    if count > 1:
        yield Finding.of(
            "external-extent",
            f"the disk is in {count} files: this one, and those up to '{series.names[-1]}'",
            evidence=series.names[-1],
        )
    if series.missing is not None:
        yield Finding.of(
            "truncated",
            f"the part '{series.missing}' is missing, and there are later ones",
            evidence=series.missing,
        )
    sizes: list[int] = []
    for path in series.paths[:_SHOWN]:
        name = os.path.basename(path)
        try:
            own, status = os.lstat(path), os.stat(path)
            target = os.readlink(path) if stat.S_ISLNK(own.st_mode) else None
            beside = os.path.realpath(path).startswith(os.path.join(series.folder, ""))
        except OSError:
            yield Finding.of("truncated", f"the part '{name}' cannot be opened", evidence=name)
            continue
        sizes.append(status.st_size)
        if not beside:
            yield Finding.of(
                "extent-outside",
                f"the part '{name}' is a link to '{target}'",
                evidence=target or "",
            )
        elif target is not None:
            yield Finding.of("member-link", f"the part '{name}' is a link", evidence=target)
        if not stat.S_ISREG(status.st_mode):
            yield Finding.of("device-extent", f"the part '{name}' is no file", evidence=name)
    yield from _vet_sizes(sizes)


def _vet_sizes(sizes: list[int]) -> Iterator[Finding]:
    """Who cuts a disk makes all parts alike but the last, which is no larger."""
    if len(set(sizes[:-1])) > 1 or (len(sizes) > 1 and sizes[-1] > sizes[0]):
        yield Finding.of(
            "odd-field",
            "the parts have different sizes: one of them may be cut off, or of another disk",
            evidence=", ".join(str(size) for size in sizes[:8]),
        )
