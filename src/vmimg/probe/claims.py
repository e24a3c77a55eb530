"""Claim: what a file may be, and the evidence for it.

A file can be several things at once, and rightly so: an OVA is a tar, a gzip stream holds a disk, a
hybrid ISO has a partition table. ``refines`` and ``inside`` say so; what is left over are two
claims that contradict each other, which is how people are attacked. Imports the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vmimg.formats.detect import SURE, Evidence

__all__ = ["SURE", "Claim", "Evidence", "Family"]

Family = Literal[
    "disk",  # a disk format of the registry
    "content",  # what is on a raw disk: partition tables, file systems, volumes
    "bundle",  # disks and metadata in one package
    "archive",  # files in one file
    "compressed",  # one stream in another
    "machine",  # a description of a virtual machine
    "state",  # snapshots, memory and settings of a machine
    "boot",  # kernels, initrds, firmware
]


@dataclass(frozen=True, slots=True)
class Claim:
    """``name`` is stable, in lower case: "qcow2", "ova", "gpt"; ``title`` is for people.

    ``confidence``: 1 (a fallback) to 100 (beyond doubt); from SURE on it counts. ``evidence``: what
    stands where, in bytes from the start of the file. ``refines``: names of claims on the same file
    that this one includes or explains ("tar" for "ova"). ``inside``: claims on what it holds, whose
    offsets count from the start of that. ``plain``: what it holds begins at the first byte of the
    file, so that claims of family "content" are about that. ``disk_format``, ``container_format``:
    the OpenStack Image API's words, "" where it has none.
    """

    name: str
    family: Family
    title: str
    confidence: int
    evidence: tuple[Evidence, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    refines: tuple[str, ...] = ()
    inside: tuple[Claim, ...] = ()
    plain: bool = False
    disk_format: str = ""
    container_format: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything that is set, with hyphens in the names."""
        facts: dict[str, Any] = {
            "name": self.name,
            "family": self.family,
            "title": self.title,
            "confidence": self.confidence,
            "evidence": [{"offset": e.offset, "meaning": e.meaning} for e in self.evidence],
        }
        if self.disk_format:
            facts["disk-format"] = self.disk_format
        if self.container_format:
            facts["container-format"] = self.container_format
        if self.details:
            facts["details"] = dict(self.details)
        if self.inside:
            facts["inside"] = [claim.to_json() for claim in self.inside]
        return facts
