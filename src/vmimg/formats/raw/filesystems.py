"""File systems and volumes by their superblocks; PROBES is the order in which they are tried. No
numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from vmimg.formats.luks import structures as luks
from vmimg.formats.raw import structures as s
from vmimg.formats.raw.findings import Contents, View, as_plain, as_text, as_utf16, as_uuid

__all__ = ["PROBES", "read_fat"]


def _ext(view: View) -> Contents | None:
    block = view.structure(s.ExtSuperblock, 1024)
    if block is None or block.s_magic != 0xEF53 or block.s_log_block_size > 6:
        return None
    blocks = int(block.s_blocks_count_lo)
    if block.s_feature_incompat & s.EXT_64BIT:
        blocks |= int(block.s_blocks_count_hi) << 32
    if block.s_feature_incompat & s.EXT_JOURNAL_DEVICE:
        name = "ext journal"
    elif block.s_feature_incompat & s.EXT4_INCOMPAT or block.s_feature_ro_compat & s.EXT4_RO_COMPAT:
        name = "ext4"
    else:
        name = "ext3" if block.s_feature_compat & s.EXT_HAS_JOURNAL else "ext2"
    size = blocks << (10 + block.s_log_block_size)
    return _simple("filesystem", name, as_text(block.s_volume_name), as_uuid(block.s_uuid), size)


def _xfs(view: View) -> Contents | None:
    block = view.structure(s.XfsSuperblock, 0)
    if block is None or block.sb_magicnum != b"XFSB":
        return None
    size = block.sb_blocksize * block.sb_dblocks
    return _simple("filesystem", "XFS", as_text(block.sb_fname), as_uuid(block.sb_uuid), size)


def _btrfs(view: View) -> Contents | None:
    block = view.structure(s.BtrfsSuperblock, 65536)
    if block is None or block.magic != b"_BHRfS_M":
        return None
    # Of several devices this is one, and the size is that of all of them.
    size = int(block.total_bytes) if block.num_devices == 1 else None
    return _simple("filesystem", "btrfs", as_text(block.label), as_uuid(block.fsid), size)


def _ntfs(view: View) -> Contents | None:
    block = view.structure(s.NtfsBootSector, 0)
    if block is None or block.oem_id != b"NTFS    ":
        return None
    size = block.total_sectors * block.bytes_per_sector
    return _simple("filesystem", "NTFS", "", f"{block.volume_serial:016X}", size)


def _exfat(view: View) -> Contents | None:
    block = view.structure(s.ExfatBootSector, 0)
    if block is None or block.file_system_name != b"EXFAT   ":
        return None
    if not 9 <= block.bytes_per_sector_shift <= 12:
        return None
    size = int(block.volume_length) << block.bytes_per_sector_shift
    return _simple("filesystem", "exFAT", "", _serial(block.volume_serial_number), size)


def read_fat(view: View, *, signed: bool = True) -> Contents | None:
    """``signed`` False takes it without the mark at the sector's end, which old floppies lack."""
    block = view.structure(s.FatBootSector, 0)
    if block is None or (signed and view.read(510, 2) != s.MBR_SIGNATURE):
        return None
    sector, cluster = int(block.BPB_BytsPerSec), int(block.BPB_SecPerClus)
    if (
        sector not in (512, 1024, 2048, 4096)
        or not cluster
        or cluster & (cluster - 1)
        or not block.BPB_RsvdSecCnt
        or block.BPB_NumFATs not in (1, 2)
        or not (block.BPB_Media == 0xF0 or block.BPB_Media >= 0xF8)
    ):
        return None
    sectors = int(block.BPB_TotSec16) or int(block.BPB_TotSec32)
    table = int(block.BPB_FATSz16) or int(block.BPB_FATSz32)
    root = -(-int(block.BPB_RootEntCnt) * 32 // sector)
    clusters = (sectors - block.BPB_RsvdSecCnt - block.BPB_NumFATs * table - root) // cluster
    if not table or clusters <= 0:
        return None
    # The count of clusters alone says which FAT it is; the name in the boot sector says nothing.
    name = "FAT12" if clusters < 4085 else "FAT16" if clusters < 65525 else "FAT32"
    # mkfs.vfat -F 32 makes FAT32 that is smaller than it should be; Linux takes an empty
    # BPB_FATSz16.
    if not block.BPB_FATSz16:
        name = "FAT32"
    more = view.structure(s.FatExtension, 64 if name == "FAT32" else 36)
    label, serial = "", ""
    if more is not None and more.BS_BootSig in (0x28, 0x29):
        serial = _serial(more.BS_VolID)
        if more.BS_BootSig == 0x29:
            label = as_text(more.BS_VolLab)
    if label == "NO NAME":
        label = ""
    return _simple("filesystem", name, label, serial, sectors * sector)


def _squashfs(view: View) -> Contents | None:
    block = view.structure(s.SquashfsSuperblock, 0)
    if block is None or block.s_magic != b"hsqs":
        return None
    return _simple("filesystem", "squashfs", size=int(block.bytes_used))


def _f2fs(view: View) -> Contents | None:
    block = view.structure(s.F2fsSuperblock, 1024)
    if block is None or block.magic != 0xF2F52010 or block.log_blocksize > 16:
        return None
    size = int(block.block_count) << block.log_blocksize
    return _simple("filesystem", "F2FS", as_utf16(block.volume_name), as_uuid(block.uuid), size)


def _hfs_plus(view: View) -> Contents | None:
    block = view.structure(s.HfsPlusHeader, 1024)
    if block is None or (block.signature, block.version) not in ((b"H+", 4), (b"HX", 5)):
        return None
    name = "HFS+" if block.version == 4 else "HFSX"
    return _simple("filesystem", name, size=block.blockSize * block.totalBlocks)


def _apfs(view: View) -> Contents | None:
    block = view.structure(s.ApfsSuperblock, 0)
    if block is None or block.nx_magic != b"NXSB":
        return None
    size = block.nx_block_size * block.nx_block_count
    return _simple("filesystem", "APFS", "", as_uuid(block.nx_uuid), size)


def _swap(view: View) -> Contents | None:
    for page in s.SWAP_PAGE_SIZES:
        signature = view.read(page - 10, 10)
        if signature not in (b"SWAPSPACE2", b"SWAP-SPACE"):
            continue
        header = view.structure(s.SwapHeader, 1024)
        if header is None or signature == b"SWAP-SPACE" or header.version != 1:
            return _simple("volume", "swap")
        size = (int(header.last_page) + 1) * page
        return _simple("volume", "swap", as_text(header.sws_volume), as_uuid(header.sws_uuid), size)
    return None


def _lvm(view: View) -> Contents | None:
    for sector in range(4):
        label = view.structure(s.LvmLabel, sector * s.SECTOR)
        if label is None or label.id != b"LABELONE" or label.type != b"LVM2 001":
            continue
        volume = None
        if label.offset < s.SECTOR:
            volume = view.structure(s.LvmPvHeader, sector * s.SECTOR + label.offset)
        if volume is None:
            return _simple("volume", "LVM2 physical volume")
        raw = as_text(volume.pv_uuid)
        # As LVM prints it.
        cuts = (0, 6, 10, 14, 18, 22, 26, 32)
        name = "-".join(raw[a:b] for a, b in pairwise(cuts))
        return _simple("volume", "LVM2 physical volume", "", name, int(volume.device_size))
    return None


def _luks(view: View) -> Contents | None:
    data = view.read(0, luks.HEADER_BYTES)
    version = luks.luks_version(data)
    if version == 2 and len(data) == luks.HEADER_BYTES:
        header = luks.Luks2Header.from_buffer_copy(data)
        return _simple(
            "volume", "LUKS 2", as_plain(header.label), as_plain(header.uuid), traits=("encrypted",)
        )
    if version == 1 and len(data) == luks.HEADER_BYTES:
        first = luks.Luks1Header.from_buffer_copy(data)
        return _simple("volume", "LUKS 1", "", as_plain(first.uuid), traits=("encrypted",))
    return None


def _zfs(view: View) -> Contents | None:
    # The ring of uberblocks in the first label; a pool fills any of its slots first.
    ring = view.read(128 << 10, 128 << 10)
    magics = (b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c")
    if any(ring[slot : slot + 8] in magics for slot in range(0, len(ring), 1024)):
        return _simple("volume", "ZFS pool member")
    return None


def _simple(
    kind: str,
    name: str = "",
    label: str = "",
    uuid: str = "",
    size: int | None = None,
    traits: tuple[str, ...] = (),
) -> Contents:
    return Contents(kind, name=name, label=label, uuid=uuid, size=size, traits=traits)


def _serial(number: int) -> str:
    return f"{number >> 16:04X}-{number & 0xFFFF:04X}"


PROBES: Final[tuple[Callable[[View], Contents | None], ...]] = (
    _luks,
    _lvm,
    _ext,
    _xfs,
    _btrfs,
    _ntfs,
    _exfat,
    read_fat,
    _squashfs,
    _f2fs,
    _hfs_plus,
    _apfs,
    _swap,
    _zfs,
)
