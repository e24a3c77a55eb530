"""Making a containerDisk: an image of one layer with one file in /disk, from nothing.

The layer is a tar in the tar that is made, and is written once, where it lies; its name is its
digest, and is put into the header of the member when that is known. Nothing in it depends on the
clock. Sources: KubeVirt's user guide, "containerDisk" (owner 107:107, qemu's); OCI image
specification 1.1; Docker's image specification 1.3. Imports archives and imaging.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from vmimg.bundles.archives import TarWriter, digests
from vmimg.bundles.archives.tarwriting import tar_header
from vmimg.bundles.imaging import write_image
from vmimg.bundles.package import How, Made, Package, PackedDisk
from vmimg.bundles.unsaid import unsaid
from vmimg.errors import OptionError
from vmimg.machines.losses import Loss
from vmimg.machines.model import Machine
from vmimg.probe.tar import BLOCK, TarHeader
from vmimg.storage.base import Storage
from vmimg.storage.output import Output

__all__ = ["make_docker", "make_oci"]

_QEMU: Final = 107
_ARCHITECTURES: Final = {
    "x86_64": "amd64", "i686": "386", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le",
    "ppc64": "ppc64", "s390x": "s390x", "riscv64": "riscv64",
}  # fmt: skip
_OCI: Final = "application/vnd.oci.image"
_TAG: Final = re.compile(
    r"[a-z0-9]+(?:[._/:-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class _Blob:
    digest: str
    size: int


def make_oci(package: Package, target: str, how: How) -> Made:
    """An OCI layout in a tar."""
    disk, tag = _checked(package, how)
    with Output(target, replace=how.replace) as storage:
        writer = TarWriter(storage)
        writer.add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        layer = _add_layer(writer, "blobs/sha256/{}", disk, how)
        config = _add_json(writer, "blobs/sha256/{}", _config(package.machine, layer))
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _descriptor(config, f"{_OCI}.config.v1+json"),
            "layers": [_descriptor(layer, f"{_OCI}.layer.v1.tar")],
        }
        described = _add_json(writer, "blobs/sha256/{}", manifest)
        entry = _descriptor(described, f"{_OCI}.manifest.v1+json")
        if tag:
            entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        index = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.index.v1+json",
            "manifests": [entry],
        }
        writer.add("index.json", _text(index))
        writer.finish()
        size = storage.size
    return Made(target, size, _losses(package))


def make_docker(package: Package, target: str, how: How) -> Made:
    """What `docker load` takes."""
    disk, tag = _checked(package, how)
    with Output(target, replace=how.replace) as storage:
        writer = TarWriter(storage)
        layer = _add_layer(writer, "{}.tar", disk, how)
        config = _add_json(writer, "{}.json", _config(package.machine, layer))
        manifest = {
            "Config": f"{config.digest}.json",
            "RepoTags": [tag if ":" in tag else f"{tag}:latest"] if tag else None,
            "Layers": [f"{layer.digest}.tar"],
        }
        writer.add("manifest.json", _text([manifest]))
        writer.finish()
        size = storage.size
    return Made(target, size, _losses(package))


def _checked(package: Package, how: How) -> tuple[PackedDisk, str]:
    if len(package.disks) != 1:
        raise OptionError(f"a containerDisk holds one disk, not {len(package.disks)}")
    if package.files:
        raise OptionError("a containerDisk holds one disk and no other file")
    tag = str(how.options.get("tag") or "")
    if tag and not _TAG.fullmatch(tag):
        raise OptionError(f"'{tag}' is no name of a container's image, such as disks/debian:12")
    return package.disks[0], tag


def _losses(package: Package) -> tuple[Loss, ...]:
    carried = [disk.drive for disk in package.disks]
    kind = "an image of a container"
    return unsaid(package.machine, kind, said=("architecture",), carried=carried)


def _config(machine: Machine, layer: _Blob) -> dict[str, Any]:
    return {
        "architecture": _ARCHITECTURES.get(machine.architecture, "amd64"),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}"]},
        "history": [{"created_by": "vmimg"}],
    }


def _descriptor(blob: _Blob, media: str) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:{blob.digest}", "size": blob.size}


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _add_json(writer: TarWriter, name: str, value: Any) -> _Blob:
    data = _text(value)
    blob = _Blob(hashlib.sha256(data).hexdigest(), len(data))
    writer.add(name.format(blob.digest), data)
    return blob


def _add_layer(writer: TarWriter, name: str, disk: PackedDisk, how: How) -> _Blob:
    """The layer, under the ``name`` that has its digest in it."""
    writer.add_image(name.format("0" * 64), lambda storage: _write_layer(storage, disk, how))
    last = writer.last
    assert last is not None
    digest = digests(writer.storage, ["sha256"], offset=last.offset, length=last.size)["sha256"]
    header = tar_header(name.format(digest), last.size, "ustar")
    writer.storage.write(last.offset - len(header), header)
    return _Blob(digest, last.size)


def _write_layer(storage: Storage, disk: PackedDisk, how: How) -> int:
    format = how.format or "qcow2"
    base = f"{disk.name}.{'img' if format == 'raw' else format}"
    compress = format == "qcow2" and bool(how.options.get("compress", True))

    def write(inner: Storage) -> int:
        return write_image(
            disk.disk, format, inner, name=base, options=how.disk_options, compress=compress,
            level=how.level, threads=how.threads, keys=how.keys, progress=how.progress,
        )  # fmt: skip

    layer = TarWriter(storage)
    layer.add_directory("disk")
    layer.add_image(f"disk/{base}", write)
    last = layer.last
    assert last is not None
    layer.finish()
    _own(storage, 0, 0o755)
    _own(storage, last.offset - BLOCK, 0o440)
    return storage.size


def _own(storage: Storage, offset: int, mode: int) -> None:
    """Give the member whose header stands at ``offset`` to qemu."""
    header = TarHeader.from_buffer_copy(storage.read(offset, BLOCK))
    for field, value in ((header.mode, mode), (header.uid, _QEMU), (header.gid, _QEMU)):
        field[:] = list(b"%07o\0" % value)
    header.chksum[:] = list(b" " * 8)
    header.chksum[:] = list(b"%06o\0 " % sum(bytes(header)))
    storage.write(offset, bytes(header))
