"""machines/guests: who calls which guest system what, both ways, and what stands for a family."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmimg.machines import guests

OSINFO = Path("/usr/share/osinfo/os")


def test_there_are_more_than_150_systems_and_each_has_all_columns() -> None:
    rows = guests.guests()
    assert len(rows) > 150
    for row in rows.values():
        assert row.title and row.vmware and row.virtualbox and row.cim, row.id
        assert row.parallels and row.proxmox, row.id


@pytest.mark.peer("osinfo-db")
def test_ids_are_those_of_libosinfo() -> None:
    known = {
        found
        for path in OSINFO.rglob("*.xml")
        for found in re.findall(r"<short-id>([^<]+)", path.read_text())
    }
    # Families that libosinfo has no word for, and what is younger than Debian 12's database.
    ours = {each for each in guests.guests() if not each.endswith("-unknown") and each not in known}
    younger = {
        "debian12", "debian13", "win2k25", "almalinux10", "centos-stream10", "amazonlinux2",
        "amazonlinux2023", "linux2.4", "linux2.6", "esxi6.5", "esxi7", "esxi8", "ubuntu23.04",
        "ubuntu23.10", "ubuntu24.04", "ubuntu24.10", "ubuntu25.04", "ubuntu25.10", "ubuntu26.04",
    }  # fmt: skip
    assert ours <= younger


@pytest.mark.parametrize("row", guests.guests().values(), ids=lambda row: row.id)
def test_an_id_of_one_system_is_read_back_as_that_system(row: guests.Guest) -> None:
    own = "" if row.id == "unknown" else row.id
    for mark, id in row.vmware:
        if mark != "~":
            assert guests.by_vmware(id).guest == own, id
    for mark, id in row.virtualbox:
        if mark != "~":
            assert guests.by_virtualbox(id).guest == own, id
    for mark, id in row.cim:
        if not mark and id != "1":
            assert guests.by_cim(int(id)).guest == own, id


@pytest.mark.parametrize("row", guests.guests().values(), ids=lambda row: row.id)
def test_what_is_written_for_a_system_is_never_read_as_another_family(row: guests.Guest) -> None:
    for architecture in ("x86_64", "i686", "aarch64"):
        for found in (
            guests.by_vmware(guests.vmware_api(row.id, architecture)).guest,
            guests.by_virtualbox(guests.virtualbox(row.id, architecture)).guest,
        ):
            assert guests.is_windows(found) == guests.is_windows(row.id) or not found, found


@pytest.mark.parametrize(
    ("guest", "architecture", "vmx", "api", "virtualbox", "cim"),
    [
        ("debian12", "x86_64", "debian12-64", "debian12_64Guest", "Debian12_64", 96),
        ("debian12", "i686", "debian12", "debian12Guest", "Debian12", 95),
        ("debian12", "aarch64", "arm-debian12-64", "arm-debian12-64", "Debian12_arm64", 96),
        ("ubuntu22.04", "x86_64", "ubuntu-64", "ubuntu64Guest", "Ubuntu22_LTS_64", 94),
        ("win10", "x86_64", "windows9-64", "windows9_64Guest", "Windows10_64", 120),
        ("win2k16", "", "windows9srv-64", "windows9Server64Guest", "Windows2016_64", 116),
        (
            "win2k22", "x86_64", "windows2019srvnext-64", "windows2019srvNext_64Guest",
            "Windows2022_64", 115,
        ),
        ("win2k8", "x86_64", "longhorn-64", "winLonghorn64Guest", "Windows2008_64", 77),
        ("rhel9.4", "x86_64", "rhel9-64", "rhel9_64Guest", "RedHat9_64", 80),
        ("alpinelinux3.19", "x86_64", "other5xlinux-64", "other5xLinux64Guest", "Linux26_64", 101),
        ("fedora41", "", "fedora-64", "fedora64Guest", "Fedora_64", 101),
        ("", "", "other-64", "otherGuest64", "Other_64", 102),
        ("somethingelse", "i686", "other", "otherGuest", "Other", 1),
    ],
)  # fmt: skip
def test_what_people_run_is_called_as_its_vendor_calls_it(
    guest: str, architecture: str, vmx: str, api: str, virtualbox: str, cim: int
) -> None:
    assert guests.vmx(guest, architecture) == vmx
    assert guests.vmware_api(guest, architecture) == api
    assert guests.virtualbox(guest, architecture) == virtualbox
    assert guests.cim(guest, architecture) == cim


@pytest.mark.parametrize(
    ("id", "guest", "architecture"),
    [
        ("winserver2008enterprise-64", "win2k8", "x86_64"),
        ("winNetStandardGuest", "win2k3", "i686"),
        ("winxphome", "winxp", "i686"),
        ("redhat", "rhel-unknown", "i686"),
        ("debian99-64", "debian-unknown", "x86_64"),
        ("WINDOWS9-64", "win10", "x86_64"),
        ("arm-ubuntu-64", "ubuntu-unknown", "aarch64"),
        ("vmkernel7", "esxi7", "x86_64"),
        ("other-64", "", "x86_64"),
        ("notatall", "", ""),
        ("", "", ""),
    ],
)
def test_old_and_odd_names_of_vmware_are_understood(id: str, guest: str, architecture: str) -> None:
    found = guests.by_vmware(id)
    assert (found.guest, found.architecture) == (guest, architecture)


def test_a_version_is_of_the_nearest_family() -> None:
    assert guests.family("rhel9.4") == "rhel9-unknown"
    assert guests.family("rhel10.0") == "rhel10-unknown"
    assert guests.family("rhel11.0") == "rhel-unknown"
    assert guests.family("ubuntu30.04") == "ubuntu-unknown"
    assert guests.family("oliva") == ""


def test_the_most_exact_answer_wins() -> None:
    vmware = guests.by_vmware("ubuntu64Guest")
    virtualbox = guests.by_virtualbox("Ubuntu22_LTS_64")
    assert guests.best(vmware, virtualbox).guest == "ubuntu22.04"
    assert guests.best(vmware, guests.Found()).guest == "ubuntu-unknown"
    assert guests.best(guests.Found(), guests.Found()) == guests.Found()


def test_the_numbers_of_parallels_and_the_words_of_proxmox() -> None:
    assert guests.parallels("ubuntu22.04") == (9, 0x090A)
    assert guests.parallels("win11") == (8, 0x0813)
    assert guests.parallels("") == (255, 0xFFFF)
    assert guests.by_parallels(0x0813) == "win11"
    assert guests.by_parallels(1) == ""
    assert [guests.proxmox(each) for each in ("debian12", "win2k19", "freebsd14.0", "")] == [
        "l26", "win10", "other", "other",
    ]  # fmt: skip
    assert guests.by_proxmox("l26") == "linux-unknown"
    assert guests.by_proxmox("win11") == "win11"


def test_ovirt_and_hyperv() -> None:
    assert guests.by_ovirt("rhel_9x64").guest == "rhel9-unknown"
    assert guests.by_ovirt("windows_2019x64").guest == "win2k19"
    assert guests.ovirt("debian12") == "other_linux"
    assert guests.secure_boot_template("win2k22") == "MicrosoftWindows"
    assert guests.secure_boot_template("debian12") == "MicrosoftUEFICertificateAuthority"
