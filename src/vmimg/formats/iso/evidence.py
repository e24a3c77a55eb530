"""Why a disc is taken for one: its volume descriptors, one by one. Imports volume; no numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.formats.detect import Evidence
from vmimg.formats.iso import structures as s
from vmimg.formats.iso.volume import Bytes, descriptors

__all__ = ["disc_evidence"]

_KINDS: Final = {
    s.PRIMARY: "a primary volume descriptor of ISO 9660",
    s.TERMINATOR: "the end of the set of volume descriptors",
}
_MOST: Final = 8


def disc_evidence(disk: Bytes) -> Iterator[Evidence]:
    """What stands in each descriptor from sector 16 on."""
    for number, head in enumerate(descriptors(disk)):
        if number >= _MOST:
            return
        place = (s.FIRST_DESCRIPTOR + number) * s.SECTOR
        identifier = head[1:6]
        if identifier in s.UDF_STANDARDS:
            yield Evidence(place, f"'{identifier.decode()}', which announces UDF")
        elif identifier != s.STANDARD_IDENTIFIER:
            continue
        elif head[0] == s.BOOT_RECORD and head[7:].startswith(s.EL_TORITO):
            yield Evidence(place, "a boot record of El Torito")
        elif head[0] == s.SUPPLEMENTARY:
            escapes = s.VolumeDescriptor.from_buffer_copy(head).escape_sequences
            joliet = bytes(escapes)[:3] in s.JOLIET
            yield Evidence(place, f"a supplementary descriptor{' of Joliet' if joliet else ''}")
        elif head[0] in _KINDS:
            yield Evidence(place, _KINDS[head[0]])
