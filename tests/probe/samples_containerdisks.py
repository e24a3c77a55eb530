"""KubeVirt's containerDisks: a disk in a layer of a container image, plain and compressed.

Of the bad ones it is the disk that is bad, or that it cannot be had.
"""

from __future__ import annotations

import tarfile

from probe.archive_making import containerdisk, overlay, qcow2, tar_of
from probe.making import of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD"]


def docker(disk: bytes) -> bytes:
    return tar_of(containerdisk(disk))


def oci(disk: bytes) -> bytes:
    return tar_of(containerdisk(disk, packed=True))


def cut(archive: dict[str, bytes]) -> bytes:
    """The layer ends in its disk."""
    layer = archive["0123abcd/layer.tar"]
    return tar_of(archive | {"0123abcd/layer.tar": layer[: len(layer) // 2 // 512 * 512]})


GOOD: tuple[Sample, ...] = (
    of_bytes("containerdisk", "a.tar", lambda: docker(qcow2()), "containerdisk"),
    of_bytes("containerdisk-gnu", "a.tar",
             lambda: tar_of(containerdisk(qcow2()), tarfile.GNU_FORMAT), "containerdisk"),
    of_bytes("containerdisk-oci", "a.tar", lambda: oci(qcow2()), "containerdisk"),
    of_bytes("containerdisk-raw", "a.tar", lambda: docker(bytes(1 << 16)), "containerdisk"),
)  # fmt: skip

BAD: tuple[Sample, ...] = (
    of_bytes("containerdisk-backing", "a.tar",
             lambda: docker(overlay()), "containerdisk", "backing-file-outside"),
    of_bytes("containerdisk-oci-backing", "a.tar",
             lambda: oci(overlay()), "containerdisk", "backing-file-outside"),
    of_bytes("containerdisk-cut", "a.tar",
             lambda: cut(containerdisk(qcow2())), "containerdisk", "unfinished"),
)  # fmt: skip
