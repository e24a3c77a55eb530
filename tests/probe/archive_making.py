"""Archives and bundles put together: by Python's modules, by hand, by other programs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import peers
from probe.sample import Sample
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

BLOCK = 512
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mtime = len(data), kind, link, 1_600_000_000
    return info, data


def tar(*members: Member, format: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def tar_of(files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    return tar(*(member(name, data) for name, data in files.items()), format=format)


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, method)
    return file.getvalue()


def header(
    name: bytes,
    size: bytes,
    kind: bytes = b"0",
    *,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """A header of a tar by hand; ``size`` is the field of 12 bytes as it stands."""
    block = bytearray(
        struct.pack(
            "100s8s8s8s12s12s8ss100s8s", name, b"0000644\0", b"0000000\0", b"0000000\0", size,
            b"13727512000\0", b" " * 8, kind, link, magic,
        ).ljust(BLOCK, b"\0")
    )  # fmt: skip
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


def by_hand(*parts: bytes) -> bytes:
    return b"".join(map(padded, parts)) + bytes(2 * BLOCK)


def pax(kind: bytes = b"x", **records: str) -> bytes:
    """A PAX header and its records, in front of the member that they are about."""
    body = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record)
        while length != len(record) + len(str(length)):
            length = len(record) + len(str(length))
        body += str(length).encode() + record
    return header(b"PaxHeaders/x", octal(len(body)), kind) + padded(body)


# Bundles

OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
  <References>
    <File ovf:href="{href}" ovf:id="file1"{size}/>
  </References>
  <DiskSection>
    <Info>Virtual disks</Info>
    <Disk ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="vmdisk1"
     ovf:fileRef="file1"
     ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <VirtualSystem ovf:id="machine">
    <Info>A machine</Info>
    <VirtualHardwareSection>
      <Info>Its hardware</Info>
      <Item>
        <rasd:HostResource>{resource}</rasd:HostResource>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""


@cache
def vmdk() -> bytes:
    """A disk of 1 MiB as appliances have it."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder, "disk.raw"), Path(folder, "disk.vmdk")
        source.write_bytes(
            bytes(65536) + b"what is on the disk " * 3000 + bytes((1 << 20) - 125536)
        )
        convert(source, path, format="vmdk", options={"subformat": "streamOptimized"})
        return path.read_bytes()


def ovf(
    href: str = "disk.vmdk", size: int | None = None, resource: str = "ovf:/disk/vmdisk1"
) -> bytes:
    text = f' ovf:size="{size}"' if size is not None else ""
    return OVF.format(href=href, size=text, resource=resource).encode()


def manifest(files: dict[str, bytes]) -> bytes:
    return b"".join(
        b"SHA256(%s)= %s\n" % (name.encode(), hashlib.sha256(data).hexdigest().encode())
        for name, data in files.items()
    )


def ova(order: Iterable[str] = ("ovf", "mf", "vmdk"), **changes: bytes) -> dict[str, bytes]:
    """The members of an appliance; ``changes`` replaces what is in them, by their suffix."""
    parts = {"vmdk": vmdk(), "ovf": ovf(size=len(vmdk()))} | changes
    named = {"ovf": "machine.ovf", "vmdk": "disk.vmdk", "mf": "machine.mf"}
    listed = {named[key]: parts[key] for key in ("ovf", "vmdk")}
    parts.setdefault("mf", manifest(listed))
    return {named[key]: parts[key] for key in order}


RAW = b"\xfa\x31\xc0" + bytes(4093)

XVA_XML = b"<value><struct><member><name>version</name><value/></member></struct></value>"


def xva() -> bytes:
    files = {"ova.xml": XVA_XML}
    for number in range(3):
        block = bytes([number]) * 4096
        files[f"Ref:4/{number:08}"] = block
        files[f"Ref:4/{number:08}.checksum"] = hashlib.sha1(block).hexdigest().encode()
    return tar_of(files)


BOXES: dict[str, tuple[dict[str, object], dict[str, bytes]]] = {
    "libvirt": (
        {"provider": "libvirt", "format": "qcow2", "virtual_size": 1},
        {"box.img": RAW, "Vagrantfile": b"Vagrant.configure('2') {}\n"},
    ),
    "virtualbox": ({"provider": "virtualbox"}, {"box.ovf": b"", "disk.vmdk": b""}),
    "vmware": ({"provider": "vmware_desktop"}, {"machine.vmx": b'config.version = "8"\n'}),
    "hyperv": ({"provider": "hyperv"}, {"Virtual Machines/1.vmcx": b"x", "disk.vhd": RAW}),
    "parallels": ({"provider": "parallels"}, {"box.pvm/config.pvs": b"<ParallelsVirtualMachine/>"}),
}


def box(provider: str) -> dict[str, bytes]:
    said, files = BOXES[provider]
    if provider == "virtualbox":
        files = {"box.ovf": ovf(), "disk.vmdk": vmdk()}
    return {"metadata.json": json.dumps(said).encode(), **files}


LXD = b"""architecture: x86_64
creation_date: 1600000000
properties:
  os: Alpine
  release: 3.20
templates:
  /etc/hostname:
    when: [create]
    template: hostname.tpl
"""


def lxd(*more: Member) -> bytes:
    return tar(
        member("metadata.yaml", LXD),
        member("rootfs", kind=tarfile.DIRTYPE),
        member("rootfs/bin", kind=tarfile.SYMTYPE, link="usr/bin"),
        member("rootfs/etc/mtab", kind=tarfile.SYMTYPE, link="/proc/mounts"),
        member("rootfs/dev/null", kind=tarfile.CHRTYPE),
        member("rootfs/usr/lib/a\\x2db.service", b"[Unit]\n"),
        member("rootfs/usr/include/xt_MARK.h", b"1"),
        member("rootfs/usr/include/xt_mark.h", b"2"),
        *more,
        member("templates/hostname.tpl", b"{{ container.name }}"),
        format=tarfile.GNU_FORMAT,
    )


def docker(**changes: object) -> dict[str, bytes]:
    config = b'{"architecture":"amd64","os":"linux"}'
    name = hashlib.sha256(config).hexdigest() + ".json"
    layer = tar_of({"hello": b"hello"})
    said = {"Config": name, "RepoTags": ["hello:latest"], "Layers": ["0123abcd/layer.tar"]}
    return {
        "0123abcd/VERSION": b"1.0",
        "0123abcd/layer.tar": layer,
        name: config,
        "manifest.json": json.dumps([said | changes]).encode(),
        "repositories": b'{"hello":{"latest":"0123abcd"}}',
    }


def oci(size: int = 0, digest: str = "") -> dict[str, bytes]:
    blob = b'{"schemaVersion":2,"layers":[]}'
    name = hashlib.sha256(blob).hexdigest()
    entry = {"digest": digest or f"sha256:{name}", "size": size or len(blob)}
    return {
        "blobs/sha256/" + name: blob,
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
    }


def docker_and_oci() -> bytes:
    return tar_of(oci() | docker())


@cache
def qcow2() -> bytes:
    """A small disk."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "disk.qcow2")
        create(path, 1 << 20, format="qcow2")
        return path.read_bytes()


def overlay() -> bytes:
    """The same, above a file that its sender would like to read."""
    image, name = bytearray(qcow2()), b"/etc/passwd"
    struct.pack_into(">QI", image, 8, 4096, len(name))
    image[4096 : 4096 + len(name)] = name
    return bytes(image)


def containerdisk(disk: bytes, *, packed: bool = False) -> dict[str, bytes]:
    """As ``docker save`` writes it or, ``packed``, ``skopeo copy`` to an oci-archive."""
    layer = tar(member("disk", kind=tarfile.DIRTYPE), member("disk/alpine.qcow2", disk))
    if not packed:
        return docker() | {"0123abcd/layer.tar": layer}
    blob = gzip.compress(layer, mtime=0)
    name = "blobs/sha256/" + hashlib.sha256(blob).hexdigest()
    return oci() | {name: blob}


# Made by other programs


def files_in(folder: Path, files: dict[str, bytes]) -> list[str]:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return list(files)


def by_program(
    name: str,
    file: str,
    claim: str,
    files: Callable[[], dict[str, bytes]],
    program: str,
    *arguments: str,
) -> Sample:
    """What ``program arguments file members`` makes, in a folder of its own."""

    def make(folder: Path) -> Path:
        place = folder / "members"
        place.mkdir()
        names = files_in(place, files())
        path = folder / file
        peers.run(program, *arguments, path, *names, cwd=place)
        return path

    return Sample(name, make, claim, peers=(program,))


def sparse_gnu(folder: Path) -> Path:
    disk = folder / "disk.raw"
    with open(disk, "wb") as file:
        for number in range(40):  # more holes than the first header has room for
            file.seek(number << 20)
            file.write(RAW)
        file.truncate(40 << 20)
    path = folder / "image.tar"
    peers.run("tar", "--format=oldgnu", "-Scf", path, "disk.raw", cwd=folder)
    disk.unlink()
    return path


def sparse_pax(folder: Path) -> Path:
    disk = folder / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(RAW)
    path = folder / "image.tar"
    peers.run("tar", "--format=posix", "-Scf", path, "disk.raw", cwd=folder)
    disk.unlink()
    return path


def with_links(folder: Path) -> Path:
    place = folder / "members"
    place.mkdir()
    files_in(place, {"a": b"content", "folder/b": b"more"})
    (place / "c").symlink_to("folder/b")
    (place / "d").hardlink_to(place / "a")
    path = folder / "links.tar"
    peers.run("tar", "-cf", path, "a", "folder", "c", "d", cwd=place)
    return path


def zip64() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open("a", "w", force_zip64=True) as one:
        one.write(b"content")
    return file.getvalue()


class _Pipe(io.RawIOBase):
    """What cannot be sought: zipfile then puts the sizes behind the data."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self.data += piece
        return len(piece)


def zip_stream() -> bytes:
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"first " * 40)
        archive.writestr("b.txt", b"second " * 40)
    return bytes(pipe.data)


def deb() -> bytes:
    member = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (b"debian-binary", 0, 0, 0, b"100644", 4)
    return b"!<arch>\n" + member + b"2.0\n"


VMWARE = {
    "machine/machine.vmx": b'.encoding = "UTF-8"\nconfig.version = "8"\n',
    "machine/machine.vmdk": b"",
}


def vmware() -> dict[str, bytes]:
    return VMWARE | {"machine/machine.vmdk": vmdk()}
