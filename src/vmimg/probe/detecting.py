"""detect: everything that a file may be, best first, with evidence, and whether that contradicts
itself.

All drivers and all recognisers are asked, whatever the first of them says: a file that two of them
claim is how people are attacked. Imports the registry and the recognisers; no numpy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from vmimg.errors import StorageError
from vmimg.formats import detect as formats
from vmimg.formats.opening import open_file
from vmimg.formats.raw.findings import View
from vmimg.formats.registry import all_formats
from vmimg.probe.claims import SURE, Claim
from vmimg.probe.recognisers import recognisers
from vmimg.storage.base import NotHeld, Storage

__all__ = ["Detection", "claims_on", "contradictions", "detect", "detect_storage"]

# What the OpenStack Image API calls a disk format, where it has a word for it; other disks are for
# it nothing at all. https://docs.openstack.org/glance/latest/user/formats.html
_DISK_FORMATS: Final = {
    "raw": "raw",
    "qcow2": "qcow2",
    "vhd": "vhd",
    "vhdx": "vhdx",
    "vmdk": "vmdk",
    "vdi": "vdi",
    "iso": "iso",
    "parallels": "ploop",
    "luks": "luks",
}
# Of a format which only says what lies on a raw disk, once nothing stronger claims the file.
_CONTENT_CONFIDENCE: Final = 90
# How deep streams in streams are looked into.
_MAX_DEPTH: Final = 3


@dataclass(frozen=True, slots=True)
class Detection:
    """What ``filename`` may be. ``claims``: best first, a disk that could be anything (raw) last.

    ``contradictions``: the names of claims that cannot all be right; the file is a polyglot where
    there are any. ``size`` in bytes, as far as it was seen.
    """

    filename: str
    size: int
    claims: tuple[Claim, ...]
    contradictions: tuple[str, ...] = ()

    @property
    def best(self) -> Claim:
        """The claim to go by."""
        return self.claims[0]

    @property
    def polyglot(self) -> bool:
        """Whether two programs may take the file for two different things."""
        return bool(self.contradictions)

    def to_json(self) -> dict[str, Any]:
        """Everything, with hyphens in the names."""
        return {
            "filename": self.filename,
            "file-size": self.size,
            "format": self.best.name,
            "disk-format": self.best.disk_format or None,
            "container-format": self.best.container_format or None,
            "polyglot": self.polyglot,
            "contradictions": list(self.contradictions),
            "claims": [claim.to_json() for claim in self.claims],
        }


def detect(path: str | os.PathLike[str]) -> Detection:
    """What the file, block device or directory at ``path`` is, by its structure and never by its
    name.

    Reads what the answer needs, a few hundred KiB at the most, and opens nothing that is named in
    it. Raises StorageError where it cannot be read.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        return _detect_folder(text)
    with open_file(text, lock=False) as storage:
        return detect_storage(storage)


def detect_storage(storage: Storage) -> Detection:
    """The same of bytes that are open; they stay so."""
    claims = claims_on(storage)
    return Detection(storage.name, storage.size, tuple(claims), contradictions(claims))


def claims_on(storage: Storage, *, depth: int = 0) -> list[Claim]:
    """All claims on ``storage``, best first; raw, which fits everything, is the last.

    ``depth``: how many streams these bytes were unpacked from. What a stream has not shown yet
    (NotHeld) is not claimed.
    """
    if depth > _MAX_DEPTH:
        return []
    disks = list(_disks(storage))
    others = list(_recognised(storage))
    strong = [claim for claim in disks if claim.confidence >= SURE]
    weak = [claim for claim in disks if claim.confidence < SURE and claim.name != "raw"]
    content = [claim for claim in others if claim.family == "content"]
    rest = [claim for claim in others if claim.family != "content"]
    weak = [replace(claim, confidence=_CONTENT_CONFIDENCE) for claim in weak]
    if any(claim.plain for claim in strong):
        # What is in front of a fixed VHD is what is on the disk, not what the file is.
        held = tuple(_ordered([*weak, *content]))
        strong = [replace(c, inside=(*c.inside, *held)) if c.plain else c for c in strong]
        weak, content = [], []
    elif strong or any(claim.name == "tar" for claim in rest):
        # A boot sector's two last bytes are in no header by chance: a table that looks wrong to
        # us is one for firmware.
        content = [
            replace(claim, confidence=max(claim.confidence, SURE))
            if claim.name in ("mbr", "boot-sector")
            else claim
            for claim in content
        ]
    raw = [claim for claim in disks if claim.name == "raw"]
    return [*_ordered([*strong, *weak, *content, *rest]), *raw]


def contradictions(claims: Iterable[Claim]) -> tuple[str, ...]:
    """The names of the sure claims of which no two can be right, best first; () if all is well."""
    sure = [claim for claim in claims if claim.confidence >= SURE]
    explained = {name for claim in sure for name in claim.refines}
    left = dict.fromkeys(claim.name for claim in sure if claim.name not in explained)
    return tuple(left) if len(left) > 1 else ()


def _disks(storage: Storage) -> Iterator[Claim]:
    for format in all_formats():
        try:
            found = formats.claim_of(format, storage)
            if found is None:
                continue
            plain = format.name != "raw" and format.driver().is_plain(storage)
            explained = format.driver().explains(storage)
        except NotHeld:
            continue
        yield Claim(
            format.name,
            "disk",
            format.title,
            found.confidence,
            found.evidence,
            refines=explained,
            plain=plain,
            disk_format=_DISK_FORMATS.get(format.name, ""),
            container_format="bare" if format.name in _DISK_FORMATS else "",
        )


def _recognised(storage: Storage) -> Iterator[Claim]:
    try:
        view = View(storage, 0, storage.size)
    except NotHeld:
        return
    for recognise in recognisers():
        try:
            yield from recognise(view)
        except NotHeld:
            continue


def _ordered(claims: list[Claim]) -> list[Claim]:
    """Best first; what refines another comes before it, whatever its confidence."""
    explained = {name for claim in claims for name in claim.refines}
    return sorted(claims, key=lambda c: (c.name in explained, -c.confidence))


def _detect_folder(path: str) -> Detection:
    from vmimg.probe.recognisers.folders import recognise_folder
    from vmimg.storage import folder_sizes

    claims = list(recognise_folder(path))
    try:
        with open_file(path, lock=False) as storage:
            disks = [claim for claim in _disks(storage) if claim.name != "raw"]
    except StorageError:
        disks = []
    claims = _ordered([*disks, *claims])
    if not claims:
        raise StorageError(f"{path}: is a directory, and nothing in it says what it is")
    return Detection(path, folder_sizes(path)[0], tuple(claims), contradictions(claims))
