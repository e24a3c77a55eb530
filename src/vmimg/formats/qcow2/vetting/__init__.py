"""What a stranger's qcow2 image could do to its reader.

`header` vets the first cluster and reads it all the same, field by field, where `read_header` of
this format refuses to go on; `tables` finds out which structure claims which bytes of the file, and
`clusters` looks at a sample of what is mapped. No numpy. Spec: QEMU docs/interop/qcow2.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmimg.formats.detect import Evidence
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.vetting.clusters import vet_clusters, vet_tail
from vmimg.formats.qcow2.vetting.header import First, vet_header
from vmimg.formats.qcow2.vetting.tables import Tables
from vmimg.formats.vetting import Finding
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["find_evidence", "vet_image"]


def vet_image(storage: Storage) -> Iterator[Finding]:
    """See `Driver.vet`."""
    first = First.read(storage)
    yield from vet_header(storage, first)
    if first.header is None:
        return
    tables = Tables(storage, first)
    yield from tables.vet()
    yield from vet_clusters(tables)
    yield from vet_tail(tables)


def find_evidence(storage: Storage) -> tuple[Evidence, ...]:
    """See `Driver.evidence`."""
    first = First.read(storage)
    if first.raw is None:
        return ()
    raw = first.raw
    found = [Evidence(int(s.Header.version.offset), f"version {raw.version}")]
    if first.header is None:
        return tuple(found)
    header = first.header
    found.append(
        Evidence(
            int(s.Header.cluster_bits.offset), f"clusters of {format_size(header.cluster_size)}"
        )
    )
    if header.version == 3:
        place = int(s.Header.header_length.offset)
        found.append(Evidence(place, f"a header of {header.header_length} bytes"))
    end = header.l1_table_offset + header.l1_size * 8
    if header.l1_size and not header.l1_table_offset % header.cluster_size and end <= storage.size:
        place = int(s.Header.l1_table_offset.offset)
        found.append(
            Evidence(place, f"an L1 table of {header.l1_size} entries, at {header.l1_table_offset}")
        )
    return tuple(found)
