"""Guest systems: from the short id of libosinfo to what each hypervisor calls it, and back.

What has no id of its own in a dialect gets that of its family (Ubuntu 22.04 is "ubuntu64Guest" for
VMware), and who reads it finds the family: the writer lists it as a loss. The facts are in
`guest_table`. Imports nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from vmimg.machines.guest_table import TABLE

__all__ = [
    "Found",
    "Guest",
    "best",
    "by_cim",
    "by_ovirt",
    "by_parallels",
    "by_proxmox",
    "by_virtualbox",
    "by_vmware",
    "cim",
    "family",
    "find",
    "guests",
    "is_linux",
    "is_windows",
    "ovirt",
    "parallels",
    "proxmox",
    "secure_boot_template",
    "virtualbox",
    "vmware_api",
    "vmx",
]

_NARROW: Final = ("i686",)
_ARM: Final = ("aarch64",)
# Where the id in a .vmx does not follow from that of the API.
_VMX: Final = {
    "winLonghornGuest": "longhorn",
    "winLonghorn64Guest": "longhorn-64",
    "windows7Server64Guest": "windows7srv-64",
    "windows8Server64Guest": "windows8srv-64",
    "windows9Server64Guest": "windows9srv-64",
    "otherGuest64": "other-64",
    "vmwarePhoton64Guest": "vmware-photon-64",
}
# Names that older versions of VMware gave, and editions.
_OLD_VMX: Final = (
    ("winserver2008", "win2k8"),
    ("winnet", "win2k3"),
    ("whistler", "winxp"),
    ("winxp", "winxp"),
    ("winvista", "winvista"),
    ("win2000", "win2k"),
    ("darwin", "macosx-unknown"),
    ("nld9", "sle-unknown"),
    ("sjds", "linux-unknown"),
    ("redhat", "rhel-unknown"),
    ("rhel", "rhel-unknown"),
    ("sles", "sle-unknown"),
    ("centos", "centos-unknown"),
    ("debian", "debian-unknown"),
    ("oraclelinux", "ol-unknown"),
    ("freebsd", "freebsd-unknown"),
    ("windows", "win-unknown"),
    ("linux", "linux-unknown"),
)


@dataclass(frozen=True, slots=True)
class Guest:
    """A row of the table: each id with whether it is this system's own ("" before it), a family's
    ("~") or only read ("<").
    """

    id: str
    title: str
    vmware: tuple[tuple[str, str], ...]
    virtualbox: tuple[tuple[str, str], ...]
    cim: tuple[tuple[str, str], ...]
    parallels: tuple[tuple[str, str], ...]
    proxmox: tuple[tuple[str, str], ...]
    ovirt: tuple[tuple[str, str], ...]

    @property
    def stem(self) -> str:
        """What the ids of its versions begin with, "" for one system."""
        return self.id.removesuffix("-unknown") if self.id.endswith("-unknown") else ""


@dataclass(frozen=True, slots=True)
class Found:
    """What an id stands for. ``exact``: it is one system's; otherwise a family's."""

    guest: str = ""
    architecture: str = ""
    exact: bool = False


@cache
def guests() -> Mapping[str, Guest]:
    """All rows, by id."""
    rows = {}
    for line in TABLE.strip().splitlines():
        id, title, *columns = (each.strip() for each in line.split("|"))
        rows[id] = Guest(id, title, *(_marked(each) for each in columns))
    return rows


def find(guest: str) -> Guest | None:
    """The row of a system: its own, or that of the family whose version it is."""
    rows = guests()
    if not guest:
        return None
    if guest in rows:
        return rows[guest]
    stems = [row for row in rows.values() if row.stem and _is_version(guest, row.stem)]
    return max(stems, key=lambda row: len(row.stem), default=None)


def family(guest: str) -> str:
    """The id of the family row that stands for ``guest``, or ``guest`` where it has a row."""
    found = find(guest)
    return found.id if found else ""


def is_windows(guest: str) -> bool:
    """Whether it is a Windows of any kind."""
    return guest.startswith("win")


def is_linux(guest: str) -> bool:
    """Whether it is a Linux."""
    found = find(guest)
    return found is not None and "l2" in found.proxmox[0][1]


def vmware_api(guest: str, architecture: str = "") -> str:
    """The id of VMware's API and of OVF, "otherGuest64" for want of any."""
    arm = architecture in _ARM
    if arm:
        return f"arm-{vmx(guest, '')}" if guest else "arm-other-64"
    wide = [each for _, each in _written(guest, "vmware")]
    narrow = architecture in _NARROW
    fits = [each for each in wide if _is_wide(each) != narrow]
    other = "otherGuest" if narrow else "otherGuest64"
    return (fits or wide or [other])[0]


def vmx(guest: str, architecture: str = "") -> str:
    """The guestOS of a .vmx, "other-64" for want of any."""
    return _vmx_id(vmware_api(guest, architecture))


def virtualbox(guest: str, architecture: str = "") -> str:
    """VirtualBox's OSType, "Other_64" for want of any."""
    ids = [each for _, each in _written(guest, "virtualbox")]
    suffix = "_64"
    if architecture in _NARROW:
        suffix = ""
    elif architecture in _ARM:
        suffix = "_arm64"
    fits = [each for each in ids if _vbox_suffix(each) == suffix]
    if fits:
        return fits[0]
    if architecture in _ARM:
        return "Linux_arm64" if is_linux(guest) else "Other_arm64"
    return (ids or ["Other" + suffix])[0]


def cim(guest: str, architecture: str = "") -> int:
    """The value of CIM_OperatingSystem.OSType."""
    ids = [each for _, each in _written(guest, "cim")]
    if not ids:
        return 1 if architecture in _NARROW else 102
    return int(ids[0] if architecture in _NARROW else ids[-1])


def parallels(guest: str) -> tuple[int, int]:
    """(family, version) as Parallels numbers them: <Os><Type>9</Type><Number>2314</Number>."""
    ids = [each for _, each in _written(guest, "parallels")]
    number = int((ids or ["FFFF"])[0], 16)
    return number >> 8, number


def proxmox(guest: str) -> str:
    """Proxmox's ostype."""
    return ([each for _, each in _written(guest, "proxmox")] or ["other"])[0]


def ovirt(guest: str, architecture: str = "") -> str:
    """The id that oVirt gives it."""
    ids = [each for _, each in _written(guest, "ovirt")]
    if not ids:
        return "other_linux" if is_linux(guest) else "other"
    return ids[0] if architecture in _NARROW else ids[-1]


def secure_boot_template(guest: str) -> str:
    """Hyper-V's secure boot template for a machine of generation 2."""
    return "MicrosoftWindows" if is_windows(guest) else "MicrosoftUEFICertificateAuthority"


def by_vmware(id: str) -> Found:
    """What an id of VMware stands for, the API's or a .vmx's."""
    id = id.strip()
    if not id:
        return Found()
    plain = _vmx_id(id) if id.endswith(("Guest", "Guest64")) else id.lower()
    arm = plain.startswith("arm-")
    plain = plain.removeprefix("arm-")
    found = _vmware_ids().get(plain)
    if found is None:
        start = next((row for old, row in _OLD_VMX if plain.startswith(old)), "")
        found = (start, False) if start else None
    if found is None:
        return Found()
    architecture = "aarch64" if arm else ("x86_64" if _wide_vmx(plain) else "i686")
    return Found("" if found[0] == "unknown" else found[0], architecture, found[1])


def by_virtualbox(id: str) -> Found:
    """What VirtualBox's OSType stands for."""
    id = id.strip()
    # Before 3.0 they were words in lower case.
    found = _virtualbox_ids().get(id.lower())
    if found is None:
        return Found()
    suffix = _vbox_suffix(id)
    architecture = {"_64": "x86_64", "_arm64": "aarch64"}.get(suffix, "i686")
    return Found("" if found[0] == "unknown" else found[0], architecture, found[1])


def by_cim(number: int) -> Found:
    """What a value of CIM_OperatingSystem.OSType stands for."""
    for row in guests().values():
        own = [at for at, (mark, each) in enumerate(row.cim) if not mark and int(each) == number]
        if own:
            narrow = len(row.cim) > 1 and own[0] == 0
            one_only = len(row.cim) == 1
            architecture = "i686" if narrow else ("" if one_only else "x86_64")
            guest = "" if row.id == "unknown" else row.id
            if number == 1:
                return Found()
            return Found(guest, architecture, not row.stem and bool(guest))
    return Found()


def by_parallels(number: int) -> str:
    """The system of that number of version, "" for an unknown one."""
    return _first("parallels", f"{number:04X}")


def by_proxmox(ostype: str) -> str:
    """The system of that ostype, "" for an unknown one; "l26" is any Linux."""
    return _first("proxmox", ostype)


def by_ovirt(id: str) -> Found:
    """What oVirt's id stands for."""
    guest = _first("ovirt", id)
    if not guest and (found := re.fullmatch(r"rhel_(\d+)(?:_ppc64|x64)?", id)):
        guest = family(f"rhel{found[1]}.0")
    return Found(guest, "x86_64" if id.endswith("x64") else "", bool(guest))


def best(*found: Found) -> Found:
    """The first that is exact, or else the first that says anything."""
    said = [each for each in found if each.guest or each.architecture]
    guest = next((each for each in said if each.exact), None) or next(
        (each for each in said if each.guest), Found()
    )
    architecture = guest.architecture or next(
        (each.architecture for each in said if each.architecture), ""
    )
    return Found(guest.guest, architecture, guest.exact)


def _marked(column: str) -> tuple[tuple[str, str], ...]:
    if column == "-":
        return ()
    return tuple((each[0], each[1:]) if each[0] in "~<" else ("", each) for each in column.split())


def _written(guest: str, column: str) -> list[tuple[str, str]]:
    row = find(guest)
    ids: tuple[tuple[str, str], ...] = getattr(row, column) if row else ()
    return [each for each in ids if each[0] != "<"]


def _is_version(guest: str, stem: str) -> bool:
    rest = guest[len(stem) :]
    if not guest.startswith(stem) or not rest:
        return False
    # "rhel1" is not what "rhel10" is a version of, and "ol" not what "olpc" is one of.
    if stem[-1].isdigit():
        return not rest[0].isdigit()
    return rest[0].isdigit() or rest[0] in "-._"


def _is_wide(id: str) -> bool:
    return "64Guest" in id or id == "otherGuest64" or id.startswith("vmkernel")


def _wide_vmx(id: str) -> bool:
    return id.endswith("-64") or id.startswith("vmkernel")


def _vmx_id(id: str) -> str:
    if id in _VMX:
        return _VMX[id]
    if not id.endswith("Guest"):
        return id
    plain = id.removesuffix("Guest").lower()
    if plain.endswith("_64"):
        return plain[:-3] + "-64"
    return plain[:-2] + "-64" if plain.endswith("64") else plain


def _vbox_suffix(id: str) -> str:
    return next((each for each in ("_arm64", "_64") if id.endswith(each)), "")


@cache
def _vmware_ids() -> Mapping[str, tuple[str, bool]]:
    """The .vmx id in lower case: (guest, exact)."""
    return {
        _vmx_id(each): (row.id, not row.stem)
        for row in guests().values()
        for mark, each in row.vmware
        if mark != "~"
    }


@cache
def _virtualbox_ids() -> Mapping[str, tuple[str, bool]]:
    return {
        each.lower(): (row.id, not row.stem)
        for row in guests().values()
        for mark, each in row.virtualbox
        if mark != "~"
    }


def _first(column: str, id: str) -> str:
    for row in guests().values():
        ids: tuple[tuple[str, str], ...] = getattr(row, column)
        if any(mark != "~" and each == id for mark, each in ids):
            return "" if row.id == "unknown" else row.id
    return ""
