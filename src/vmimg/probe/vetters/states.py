"""Vets what machines leave behind: tables that lie outside of their file, checksums, copies that
disagree, and what it means that memory is in it.

The memory of a machine holds whatever was open in it: keys, passwords, documents. Structures and
sources are in `state_structures`. Imports the readers of states.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity, printable
from vmimg.probe import state_structures as s
from vmimg.probe.elf import ELF_SEGMENTS
from vmimg.probe.state_reading import (
    active_hyperv_header,
    elf_core,
    hyperv_headers,
    hyperv_kind,
    hyperv_objects,
    libvirt_header,
    vmgs_checksum,
    vmgs_headers,
    vmss_groups,
)
from vmimg.probe.vetters.machines import vet_domain
from vmimg.probe.xml import MAX_BYTES

__all__ = ["VETTERS"]

_W, _E, _N = Severity.WARNING, Severity.ERROR, Severity.NOTE
_MAX_SEGMENTS: Final = 4096


def _memory(what: str = "the memory of a machine") -> Finding:
    message = f"it holds {what}: whatever was open in it, keys and passwords as well"
    return Finding.of("snapshots", message, severity=_W)


def _outside(what: str, offset: int, size: int, view: View, at: int) -> Finding:
    message = f"{what} takes {size} bytes from {offset}, and the file has {view.size}"
    return Finding.of("table-outside", message, offset=at)


def vet_vmware_state(view: View) -> Iterator[Finding]:
    """A suspended VMware machine, or a snapshot of one."""
    groups, count = vmss_groups(view, s.MAX_VMSS_GROUPS)
    start, step = ctypes.sizeof(s.VmssHeader), ctypes.sizeof(s.VmssGroup)
    if len(groups) < count:
        yield _outside(f"the table of {count} groups", start, count * step, view, 8)
    for number, group in enumerate(groups):
        # Old versions leave the size at zero, and let the next group's offset say it.
        if group.offset + group.size > view.size:
            name = printable(group.name.decode("latin-1"))
            at = start + number * step
            yield _outside(f"the group '{name}'", group.offset, group.size, view, at)
            break
    names = {group.name.lower() for group in groups}
    if names & {b"memory", b"mainmem"}:
        yield _memory()
    else:
        yield Finding.of("snapshots", "it holds the state of a machine's devices", severity=_N)


def vet_vbox_state(view: View) -> Iterator[Finding]:
    """A machine that VirtualBox saved."""
    yield _memory()
    header = view.structure(s.SsmHeader, 0)
    if header is None:
        yield Finding.of("truncated", "it ends in its header")
        return
    if bytes(header.magic) != s.SSM_MAGIC_2:
        yield Finding.of("unsupported", "it is of VirtualBox before 3.1")
        return
    if zlib.crc32(view.read(0, 60) + bytes(4)) != header.crc:
        yield Finding.of("checksum-wrong", "the header's checksum is wrong", offset=60)
    if header.reserved:
        yield Finding.of("odd-field", "a reserved byte of the header is set", offset=47)
    size = ctypes.sizeof(s.SsmFooter)
    footer = view.structure(s.SsmFooter, max(0, view.size - size))
    if footer is None or bytes(footer.magic) != s.SSM_FOOTER_MAGIC:
        yield Finding.of("truncated", "it does not end with a footer")
        return
    if zlib.crc32(view.read(view.size - size, size - 4) + bytes(4)) != footer.crc:
        at = view.size - 4
        yield Finding.of("checksum-wrong", "the footer's checksum is wrong", offset=at)
    # A directory entry has 16 bytes, its header as many.
    if 16 * (footer.dir_entries + 1) + size + ctypes.sizeof(s.SsmHeader) > view.size:
        what = f"a directory of {footer.dir_entries} units"
        yield Finding.of("table-outside", f"{what} does not fit into it", offset=view.size - 12)


def vet_hyperv(view: View) -> Iterator[Finding]:
    """Hyper-V's configuration or runtime state."""
    header = active_hyperv_header(view)
    if header is None:
        return
    if header.version != s.HYPERV_VERSION:
        shown = f"0x{header.version:x}"
        yield Finding.of("unknown-version", f"its version is {shown}", offset=10, evidence=shown)
        return
    first, second = hyperv_headers(view)
    if first is None or second is None:
        # One is written at a time, so that a crash leaves the other.
        message = "one of its two headers is missing"
        yield Finding.of("copies-disagree", message, severity=_W)
    elif _layout(first) != _layout(second):
        yield Finding.of("copies-disagree", "its two headers place different tables")
    elif abs(first.sequence_number - second.sequence_number) not in (0, 1, 0xFFFF):
        message = "its two headers are more than one change apart"
        yield Finding.of("copies-disagree", message, severity=_W)
    if not 0 < header.alignment <= 0x10000 or header.alignment & (header.alignment - 1):
        yield Finding.of("impossible-size", f"its alignment is {header.alignment}", offset=22)
    yield from _hyperv_log(view, header)
    yield from _hyperv_objects(view)
    if hyperv_kind(view) == "saved state":
        yield _memory()


def _layout(header: s.HyperVStorageHeader) -> tuple[int, ...]:
    return (
        header.version,
        header.alignment,
        header.replay_log_offset,
        header.replay_log_size,
        header.header_size,
    )


def _hyperv_log(view: View, header: s.HyperVStorageHeader) -> Iterator[Finding]:
    offset, size = header.replay_log_offset, header.replay_log_size
    if offset + size > view.size:
        yield _outside("the log", offset, size, view, 26)
        return
    log = view.structure(s.HyperVReplayLog, offset)
    if log is None or log.signature != s.HYPERV_LOG_SIGNATURE:
        yield Finding.of("malformed", "its log has no signature", offset=offset)
    elif log.num_entries:
        yield Finding.of("log-pending", f"its log has {log.num_entries} entries", offset=offset)


def _hyperv_objects(view: View) -> Iterator[Finding]:
    found = hyperv_objects(view)
    start = s.HYPERV_OBJECT_TABLE
    if found is None:
        yield Finding.of("malformed", "its table of objects has no signature", offset=start)
        return
    objects, count = found
    step = ctypes.sizeof(s.HyperVObject)
    if len(objects) < min(count, s.MAX_HYPERV_OBJECTS):
        yield _outside(f"the table of {count} objects", start, 8 + count * step, view, start + 4)
    elif len(objects) < count:
        yield Finding.of("unfinished", f"it has {count} objects", offset=start + 4)
    placed = []
    for number, each in enumerate(objects):
        if not each.allocated or each.type not in (s.HYPERV_KEY_TABLE, s.HYPERV_FILE):
            continue
        if each.offset + each.size > view.size:
            at = start + 8 + number * step
            yield _outside(f"object {number}", each.offset, each.size, view, at)
            return
        placed.append((each.offset, each.offset + each.size))
    yield from _overlaps(placed, "objects")


def _overlaps(placed: list[tuple[int, int]], what: str) -> Iterator[Finding]:
    placed.sort()
    for (_, end), (start, _) in pairwise(placed):
        if start < end:
            yield Finding.of("tables-overlap", f"two of its {what} overlap", offset=start)
            return


def vet_vmgs(view: View) -> Iterator[Finding]:
    """Hyper-V's guest state: two headers, a table of 64 files."""
    found = vmgs_headers(view)
    good = [each for each in found if vmgs_checksum(each[1]) == each[1].checksum]
    for offset, header in found:
        if vmgs_checksum(header) != header.checksum:
            # The other one counts then: this one may have been torn by a crash.
            severity = _W if good else _E
            message = "a header's checksum is wrong"
            yield Finding.of("checksum-wrong", message, offset=offset + 12, severity=severity)
    if not good:
        return
    offset, header = max(good, key=lambda each: each[1].sequence)
    if header.version not in s.VMGS_VERSIONS:
        shown = f"0x{header.version:x}"
        yield Finding.of("unknown-version", f"its version is {shown}", offset=offset + 8)
        return
    if header.encryption_algorithm:
        yield Finding.of("encrypted", offset=offset + 32)
    if header.version < 0x20000:
        return
    table = header.file_table_offset * s.VMGS_BLOCK
    step = ctypes.sizeof(s.VmgsFile)
    data = view.read(table, s.VMGS_FILES * step)
    if header.file_table_offset < 2 or len(data) < s.VMGS_FILES * step:
        yield _outside("the table of files", table, s.VMGS_FILES * step, view, offset + 24)
        return
    if header.encryption_algorithm:
        return
    placed = []
    for number in range(s.VMGS_FILES):
        file = s.VmgsFile.from_buffer_copy(data, number * step)
        if not file.allocation_size:
            continue
        start, size = file.offset * s.VMGS_BLOCK, file.allocation_size * s.VMGS_BLOCK
        if start + size > view.size or file.valid_data_size > size:
            yield _outside(f"file {number}", start, size, view, table + number * step)
            return
        placed.append((start, start + size))
    yield from _overlaps(placed, "files")


def vet_libvirt_state(view: View) -> Iterator[Finding]:
    """A domain that libvirt saved: its description, then the state of QEMU."""
    header = libvirt_header(view)
    if header is None:
        return
    yield _memory()
    if bytes(header.magic) == s.LIBVIRT_SAVE_PARTIAL:
        yield Finding.of("truncated", "libvirt did not finish writing it", offset=0)
    if header.version not in s.LIBVIRT_SAVE_VERSIONS:
        shown = str(header.version)
        yield Finding.of("unknown-version", f"its version is {shown}", offset=16, evidence=shown)
        return
    if header.compressed >= len(s.LIBVIRT_COMPRESSIONS):
        shown = str(header.compressed)
        yield Finding.of("unknown-features", f"its compression is {shown}", offset=28)
    start = ctypes.sizeof(header)
    if start + header.data_len > view.size:
        yield _outside("the description", start, header.data_len, view, 20)
        return
    length = header.data_len
    if 0 < header.cookie_offset < length:
        length = header.cookie_offset
    if length > MAX_BYTES:
        yield Finding.of("xml-oversize", f"its description has {length} bytes", offset=20)
        return
    data = view.read(start, length).split(b"\0")[0]
    if not data:
        yield Finding.of("malformed", "it has no description of the domain", offset=start)
        return
    yield from vet_domain(data, "its description: ")


def vet_qemu_state(view: View) -> Iterator[Finding]:
    """What QEMU's savevm, or a migration to a file, wrote."""
    yield _memory()
    version = int.from_bytes(view.read(4, 4), "big")
    if version not in s.QEMU_VM_VERSIONS:
        yield Finding.of("unknown-version", f"its version is {version}", offset=4)


def vet_xen_state(view: View) -> Iterator[Finding]:
    """A domain that xl or libxl saved."""
    yield _memory()


def vet_core(view: View) -> Iterator[Finding]:
    """A core dump: its segments."""
    core = elf_core(view)
    if core is None:
        return
    header, bits, count = core
    yield _memory("the memory of a machine or of a program")
    kind = ELF_SEGMENTS[bits, "little"]
    step = ctypes.sizeof(kind)
    if count == s.ELF_MANY:
        yield Finding.of("unfinished", "it has 65535 segments or more", severity=_N)
        count = 0
    elif count and header.e_phentsize != step:
        what = f"entries of {header.e_phentsize} bytes in its table of segments"
        yield Finding.of("malformed", f"there are {what}", offset=0x36 if bits == 64 else 0x2A)
        return
    data = view.read(header.e_phoff, min(count, _MAX_SEGMENTS) * step)
    at = 0x20 if bits == 64 else 0x1C
    if len(data) < min(count, _MAX_SEGMENTS) * step:
        yield _outside("the table of segments", header.e_phoff, count * step, view, at)
        return
    for number in range(len(data) // step):
        segment = kind.from_buffer_copy(data, number * step)
        if segment.p_filesz and segment.p_offset + segment.p_filesz > view.size:
            end = segment.p_offset + segment.p_filesz
            message = f"segment {number} ends at {end}, and the file has {view.size} bytes"
            yield Finding.of("truncated", message, offset=header.e_phoff + number * step)
            return


def vet_windows_dump(view: View) -> Iterator[Finding]:
    """A crash dump of Windows."""
    yield _memory()
    is_64 = view.read(4, 4) == b"DU64"
    header: s.DumpHeader64 | s.DumpHeader32 | None
    header = view.structure(s.DumpHeader64, 0) if is_64 else view.structure(s.DumpHeader32, 0)
    if header is None:
        yield Finding.of("truncated", "it ends in its header")
        return
    needed = header.required_dump_space
    # Windows writes a dump type and its size together; 0 and what converters left in are no sizes.
    if header.dump_type in s.DUMP_TYPES and view.size < needed < 1 << 48:
        message = f"it should have {needed} bytes, and the file has {view.size}"
        yield Finding.of("truncated", message, offset=0xFA0)


def vet_lime(view: View) -> Iterator[Finding]:
    """A LiME file: its ranges, one behind the other."""
    yield _memory()
    position, last = 0, -1
    for _ in range(s.MAX_LIME_RANGES):
        if position >= view.size:
            return
        header = view.structure(s.LimeHeader, position)
        if header is None:
            yield Finding.of("truncated", "it ends in the header of a range", offset=position)
            return
        if bytes(header.magic) != s.LIME_MAGIC or header.version != 1:
            message = "there is no header of a range where the last one ends"
            yield Finding.of("malformed", message, offset=position)
            return
        if header.e_addr < header.s_addr:
            yield Finding.of("impossible-size", "a range ends before it starts", offset=position)
            return
        if header.s_addr <= last:
            message = "a range lies before the end of the one before it"
            yield Finding.of("tables-overlap", message, offset=position)
            return
        last = header.e_addr
        length = header.e_addr - header.s_addr + 1
        if position + ctypes.sizeof(s.LimeHeader) + length > view.size:
            message = f"a range has {length} bytes, and the file ends before"
            yield Finding.of("truncated", message, offset=position)
            return
        position += ctypes.sizeof(s.LimeHeader) + length
    yield Finding.of("unfinished", f"it has more than {s.MAX_LIME_RANGES} ranges", severity=_N)


def vet_dump(view: View) -> Iterator[Finding]:
    """Memory in a form that is not looked into."""
    yield _memory()


def vet_settings(view: View) -> Iterator[Finding]:
    """Settings of firmware: nothing that hurts whoever reads them."""
    return iter(())


VETTERS: Final[dict[str, Callable[[View], Iterator[Finding]]]] = {
    "vmware-state": vet_vmware_state,
    "vmware-nvram": vet_settings,
    "vbox-state": vet_vbox_state,
    "hyperv-storage": vet_hyperv,
    "vmgs": vet_vmgs,
    "libvirt-state": vet_libvirt_state,
    "qemu-state": vet_qemu_state,
    "xen-state": vet_xen_state,
    "elf-core": vet_core,
    "windows-dump": vet_windows_dump,
    "lime": vet_lime,
    "kdump": vet_dump,
    "hibernation": vet_dump,
}
