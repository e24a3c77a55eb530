"""OVF packages put together by hand, to DSP0243 1.1.1: XML as text, tars by tarfile.

What they look like follows what ovftool, VirtualBox and oVirt write. None of vmimg's code.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

VMDK = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
QCOW2 = "http://www.gnome.org/~markmc/qcow-image-format.html"
RAW = "http://en.wikipedia.org/wiki/Byte"
_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"


@dataclass(frozen=True)
class File:
    id: str
    href: str
    size: int | None = None
    more: str = ""

    def xml(self) -> str:
        size = "" if self.size is None else f' ovf:size="{self.size}"'
        return f'<File ovf:href="{self.href}" ovf:id="{self.id}"{size} {self.more}/>'


@dataclass(frozen=True)
class Disk:
    id: str
    file: str = ""
    capacity: int = 1 << 20
    format: str = VMDK
    parent: str = ""

    def xml(self) -> str:
        file = f' ovf:fileRef="{self.file}"' if self.file else ""
        parent = f' ovf:parentRef="{self.parent}"' if self.parent else ""
        return (
            f'<Disk ovf:capacity="{self.capacity}" ovf:diskId="{self.id}"{file}{parent}'
            f' ovf:format="{self.format}"/>'
        )


@dataclass(frozen=True)
class System:
    name: str = "machine"
    disks: Sequence[str] = field(default_factory=tuple)

    def xml(self) -> str:
        drives = "".join(
            f"""<Item><rasd:AddressOnParent>{at}</rasd:AddressOnParent>
<rasd:ElementName>Hard disk {at}</rasd:ElementName>
<rasd:HostResource>ovf:/disk/{disk}</rasd:HostResource>
<rasd:InstanceID>{10 + at}</rasd:InstanceID><rasd:Parent>3</rasd:Parent>
<rasd:ResourceType>17</rasd:ResourceType></Item>"""
            for at, disk in enumerate(self.disks)
        )
        return f"""<VirtualSystem ovf:id="{self.name}"><Info>A machine</Info>
<Name>{self.name}</Name>
<VirtualHardwareSection><Info>Its hardware</Info>
<Item><rasd:ElementName>2 processors</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID>
<rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
<rasd:ElementName>memory</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID>
<rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:ElementName>SCSI</rasd:ElementName>
<rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>lsilogic</rasd:ResourceSubType>
<rasd:ResourceType>6</rasd:ResourceType></Item>
{drives}</VirtualHardwareSection></VirtualSystem>"""


def descriptor(
    files: Iterable[File], disks: Iterable[Disk], systems: Sequence[System] | None = None
) -> bytes:
    disks = list(disks)
    systems = systems or [System(disks=[disk.id for disk in disks])]
    inner = "".join(system.xml() for system in systems)
    if len(systems) > 1:
        inner = (
            '<VirtualSystemCollection ovf:id="vApp"><Info>Machines</Info>'
            f"{inner}</VirtualSystemCollection>"
        )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="{_CIM}/CIM_ResourceAllocationSettingData"
 xmlns:vssd="{_CIM}/CIM_VirtualSystemSettingData">
<References>{"".join(file.xml() for file in files)}</References>
<DiskSection><Info>Disks</Info>{"".join(disk.xml() for disk in disks)}</DiskSection>
{inner}
</Envelope>
""".encode()


def manifest(files: Mapping[str, bytes], algorithm: str = "sha256") -> bytes:
    return b"".join(
        f"{algorithm.upper()}({name})= {hashlib.new(algorithm, data).hexdigest()}\n".encode()
        for name, data in files.items()
    )


def one_disk(data: bytes, capacity: int = 1 << 20, **changes: str) -> dict[str, bytes]:
    """A package with one disk: descriptor, manifest, disk."""
    name = changes.get("name", "disk.vmdk")
    files = [File("file1", changes.get("href", name), len(data), changes.get("more", ""))]
    disks = [Disk(changes.get("id", "disk1"), "file1", capacity, changes.get("format", VMDK))]
    members = {"machine.ovf": descriptor(files, disks), name: data}
    return {
        "machine.ovf": members["machine.ovf"],
        "machine.mf": manifest(members),
        name: data,
    }


def ova(path: Path, members: Mapping[str, bytes], format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def folder(path: Path, members: Mapping[str, bytes]) -> Path:
    path.mkdir()
    for name, data in members.items():
        (path / name).write_bytes(data)
    return path


def image(
    content: bytes, place: Path, format: str = "vmdk", *options: str, backing: Path | None = None
) -> bytes:
    """``content`` as qemu-img makes an image of it. ``backing``: only what differs from that."""
    raw, made = place / "content.raw", place / "content.img"
    raw.write_bytes(content)
    if format == "vmdk" and not options:
        options = ("-o", "subformat=streamOptimized")
    command = ["qemu-img", "convert", "-f", "raw", "-O", format, *options]
    if backing is not None:
        command += ["-B", str(backing), "-F", "vmdk"]
    subprocess.run([*command, str(raw), str(made)], check=True, capture_output=True)
    data = made.read_bytes()
    raw.unlink()
    made.unlink()
    return data
