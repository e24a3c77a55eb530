"""XVAs put together and taken apart with tarfile alone, by xen-api's rules.

What they look like follows xen-api's ocaml/xapi/stream_vdi.ml and export.ml (names, checksums,
which blocks there must be), the old ones the "XVA format" of the XenServer SDK Guide. None of
vmimg's code.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

MIB = 1 << 20


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).hexdigest().encode()


def xxhash64(data: bytes) -> bytes:
    import xxhash

    return b"%016X" % xxhash.xxh64_intdigest(data)


def blocks(
    ref: str, disk: bytes, checksum: str = "sha1", *, unit: int = MIB
) -> list[tuple[str, bytes]]:
    """The members of a disk: blocks that are not zeros, the first, and the last."""
    members = []
    count = -(-len(disk) // unit)
    for number in range(count):
        data = disk[number * unit : (number + 1) * unit]
        if data.count(0) == len(data) and 0 < number < count - 1:
            continue
        name = f"{ref}/{number:08d}"
        members.append((name, data))
        if checksum:
            kind, value = ("checksum", sha1) if checksum == "sha1" else ("xxhash", xxhash64)
            members.append((f"{name}.{kind}", value(data)))
    return members


def _member(name: str, value: str) -> str:
    return f"<member><name>{name}</name><value>{value}</value></member>"


def _struct(**values: str) -> str:
    return "<struct>" + "".join(_member(k, v) for k, v in values.items()) + "</struct>"


def _array(*values: str) -> str:
    inner = "".join(f"<value>{value}</value>" for value in values)
    return f"<array><data>{inner}</data></array>"


def _object(kind: str, ref: str, **fields: str) -> str:
    return _struct(**{"class": kind, "id": ref, "snapshot": _struct(**fields)})


def ova_xml(*disks: tuple[str, int], name: str = "machine") -> bytes:
    """The description of one machine with ``disks``: (ref, virtual bytes)."""
    vbds = [f"Ref:{100 + at}" for at in range(len(disks))]
    objects = [
        _object(
            "VM", "Ref:1", uuid="8c6ae9b3-1d8d-3a11-9e0b-1f2c3d4e5f60", name_label=name,
            name_description="", is_a_template="<boolean>0</boolean>",
            is_a_snapshot="<boolean>0</boolean>", is_control_domain="<boolean>0</boolean>",
            memory_static_max="1073741824", memory_dynamic_max="1073741824",
            memory_dynamic_min="1073741824", memory_static_min="1073741824",
            VCPUs_max="2", VCPUs_at_startup="2", HVM_boot_policy="BIOS order",
            HVM_boot_params=_struct(order="cd"), platform=_struct(acpi="1"),
            VBDs=_array(*vbds), VIFs=_array(), PV_bootloader="", PV_kernel="", PV_ramdisk="",
            PV_args="", other_config="<struct/>",
        )
    ]  # fmt: skip
    for at, ((ref, size), vbd) in enumerate(zip(disks, vbds, strict=True)):
        objects.append(
            _object("VBD", vbd, VM="Ref:1", VDI=ref, userdevice=str(at), device="",
                    bootable=f"<boolean>{int(at == 0)}</boolean>", mode="RW", type="Disk",
                    empty="<boolean>0</boolean>")
        )  # fmt: skip
        objects.append(
            _object("VDI", ref, uuid=f"00000000-0000-0000-0000-{at:012d}", name_label=f"disk {at}",
                    name_description="", virtual_size=str(size), SR="Ref:200", type="user",
                    read_only="<boolean>0</boolean>", sharable="<boolean>0</boolean>",
                    VBDs=_array(vbd))
        )  # fmt: skip
    version = _struct(
        hostname="host", date="2024-05-01", product_version="8.2.1", product_brand="XCP-ng",
        build_number="release/1", xapi_major="<int>1</int>", xapi_minor="<int>20</int>",
        export_vsn="<int>2</int>",
    )  # fmt: skip
    root = _struct(version=version, objects=_array(*objects))
    return f"<?xml version='1.0'?>\n<value>{root}</value>".encode()


def xva(path: Path, *disks: bytes, checksum: str = "sha1") -> Path:
    """An export of a machine with these disks."""
    refs = [f"Ref:{7 + at}" for at in range(len(disks))]
    described = ova_xml(*((ref, len(disk)) for ref, disk in zip(refs, disks, strict=True)))
    members = [("ova.xml", described)]
    for ref, disk in zip(refs, disks, strict=True):
        members += blocks(ref, disk, checksum)
    return tar_of(path, members)


def old_xva(path: Path, disk: bytes, chunk: int) -> Path:
    """An export of XenServer 4.0: ``chunk`` is 10**9 there."""
    xml = f"""<?xml version="1.0" ?>
<appliance version="0.1">
  <vm name="vm">
    <label>Old machine</label><shortdesc>of long ago</shortdesc>
    <config mem_set="268435456" vcpus="2"/>
    <hacks is_hvm="false" kernel_boot_cmdline="root=/dev/xvda1 ro"></hacks>
    <vbd device="xvda" function="root" mode="w" vdi="vdi_xvda"/>
  </vm>
  <vdi name="vdi_xvda" size="{len(disk)}" source="file://xvda" type="dir-gzipped-chunks"/>
</appliance>
"""
    members = [("ova.xml", xml.encode())]
    for number, start in enumerate(range(0, len(disk), chunk)):
        packed = gzip.compress(disk[start : start + chunk], mtime=0)
        members.append((f"xvda/chunk-{number:09d}.gz", packed))
    return tar_of(path, members)


def decoded(path: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    """The disks in an XVA as xapi imports it: a stream whose members come in order, each block
    with a checksum behind it. ``sizes`` of the disks by ref; asserts what xapi asserts.
    """
    disks = dict[str, bytes]()
    with tarfile.open(path) as archive:
        members = iter(archive)
        first = next(members)
        assert first.name == "ova.xml"
        for ref, size in sizes.items():
            disk, last, unit = bytearray(), -1, 0
            while len(disk) < size:
                member = next(members)
                directory, _, number = member.name.partition("/")
                assert directory == ref
                assert len(number) == 8
                assert int(number) > last
                file = archive.extractfile(member)
                assert file is not None
                data = file.read()
                unit = unit or len(data)
                disk += bytes((int(number) - last - 1) * unit) + data
                last = int(number)
                said = next(members)
                file = archive.extractfile(said)
                assert file is not None
                value = file.read()
                if said.name == f"{member.name}.checksum":
                    assert value == sha1(data)
                else:
                    assert said.name == f"{member.name}.xxhash"
                    assert value == xxhash64(data)
            assert len(disk) == size
            disks[ref] = bytes(disk)
        assert next(members, None) is None
    return disks
