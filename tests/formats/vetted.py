"""What a driver's own vetting says of a sample, together with what all formats have in common.

`findings` does what a policy is applied to later: `Driver.vet`, what `inspect` tells, and what
keeps the image from being inspected. ``where`` is for tests of samples with one thing wrong.
"""

from __future__ import annotations

import time
from pathlib import Path

import peers
from probe.sample import Sample
from vmimg import storage as storages
from vmimg.errors import ChainError, FormatError, StorageError, UnsupportedFeature
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Finding, Severity, of_info
from vmimg.storage.base import Storage

__all__ = ["Counted", "errors", "findings", "made", "where"]

MOST_BYTES = 6 << 20
MOST_SECONDS = 1.0


class Counted(Storage):
    """A storage that counts the bytes that are read of it."""

    def __init__(self, base: Storage) -> None:
        self.base, self.name, self.size = base, base.name, base.size
        self.bytes = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.bytes += len(buffer)
        self.base.read_into(offset, buffer)

    def identity(self) -> tuple[int, ...] | None:
        return self.base.identity()

    def write(self, offset: int, data: object) -> None:
        raise AssertionError("vetting writes")

    def zero(self, offset: int, length: int) -> None:
        raise AssertionError("vetting writes")

    def resize(self, size: int) -> None:
        raise AssertionError("vetting writes")

    def flush(self) -> None:
        raise AssertionError("vetting writes")

    def close(self) -> None:
        self.base.close()


def findings(path: Path, format: str) -> list[Finding]:
    """All findings, those of `inspect` behind the driver's own."""
    driver = FORMATS[format].driver()
    with Counted(storages.open(path)) as storage:
        began = time.process_time()
        found: list[Finding] = []
        try:
            found += driver.vet(storage)
        except FormatError as error:
            found.append(Finding.of("malformed", str(error)))
        assert storage.bytes <= MOST_BYTES, f"vetting reads {storage.bytes} bytes"
        assert time.process_time() - began < MOST_SECONDS
        assert all(finding.message.isprintable() for finding in found)
        try:
            found += of_info(driver.inspect(storage))
        except (ChainError, FormatError, StorageError) as error:
            if not errors(found):
                found.append(Finding.of("malformed", str(error)))
        except UnsupportedFeature as error:
            if not errors(found):
                found.append(Finding.of("unsupported", str(error)))
    return found


def errors(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.severity == Severity.ERROR]


def made(sample: Sample, folder: Path) -> Path:
    """The image of ``sample``; skipped where a peer that makes it is missing."""
    peers.require(*sample.peers)
    return sample.make(folder)


def where(found: list[Finding], code: str) -> list[int | None]:
    """The offsets of the findings of ``code``."""
    return [finding.offset for finding in found if finding.code == code]
