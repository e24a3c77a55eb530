"""machines/dialects/vmx: .vmx of every age and tongue, the .vmsd beside it, and what VMware takes.

The files follow those of VMware GSX (hardware 3), Workstation 6.5 and 17 and ESXi 8, written anew.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machine_samples import RICH, SMALL, machines
from vmimg.errors import FormatError, VmimgError
from vmimg.machines.dialects import vmx
from vmimg.machines.dialects.vmx.text import Dictionary, compose
from vmimg.machines.losses import without
from vmimg.machines.model import Controller, CPUs, Display, Drive, Machine, Network, Serial

MIB = 1 << 20

WORKSTATION = """#!/usr/bin/vmware
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "21"
displayName = "Werkstatt |22eins|22 \u00e4"
annotation = "erste Zeile|0Azweite |7C Zeile"
guestOS = "ubuntu-64"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
vtpm.present = "TRUE"
nvram = "Werkstatt.nvram"
numvcpus = "8"
cpuid.coresPerSocket = "4"
memsize = "8192"
uuid.bios = "56 4d 1f aa 0b 0c 0d 0e-0f 10 11 12 13 14 15 16"
uuid.location = "56 4d 1f aa 0b 0c 0d 0e-0f 10 11 12 13 14 15 17"
nvme0.present = "TRUE"
nvme0:0.present = "TRUE"
nvme0:0.fileName = "Werkstatt-000002.vmdk"
nvme0:0.redo = ""
sata0.present = "TRUE"
sata0:1.present = "TRUE"
sata0:1.deviceType = "cdrom-image"
sata0:1.fileName = "/iso/tools.iso"
sata0:1.startConnected = "FALSE"
SATA0:2.Present = "true"
sata0:2.devicetype = "cdrom-raw"
sata0:2.filename = "auto detect"
sata0:2.autodetect = "TRUE"
floppy0.present = "FALSE"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "e1000e"
ethernet0.connectionType = "nat"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "00:0C:29:AB:CD:EF"
ethernet0.generatedAddressOffset = "0"
ethernet1.present = "TRUE"
ethernet1.connectionType = "custom"
ethernet1.vnet = "VMnet2"
ethernet1.startConnected = "FALSE"
serial0.present = "TRUE"
serial0.fileType = "network"
serial0.fileName = "telnet://0.0.0.0:2001"
serial1.present = "TRUE"
serial1.fileType = "thinprint"
usb.present = "TRUE"
ehci.present = "TRUE"
usb_xhci.present = "TRUE"
sound.present = "TRUE"
sound.virtualDev = "hdaudio"
mks.enable3d = "TRUE"
svga.vramSize = "268435456"
bios.bootOrder = "cdrom,hdd,ethernet0"
tools.syncTime = "FALSE"  # a comment
pciBridge0.present = "TRUE"
cleanShutdown = "TRUE"
"""

GSX = """config.version = 6
virtualHW.version = "3"
displayName = "Buchhaltung M\xfcller"
guestOS = "winnetstandard"
memsize = "384"
ide0:0.present = "TRUE"
ide0:0.fileName = "disk.vmdk"
ide1:0.present = "TRUE"
ide1:0.fileName = "/dev/cdrom"
ide1:0.deviceType = "cdrom-raw"
floppy0.fileName = "A:"
ethernet0.present = "TRUE"
ethernet0.connectionType = "bridged"
sound.present = "TRUE"
"""

ESXI = """.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "20"
displayName = "db"
guestOS = "rhel9-64"
memSize = "16384"
numvcpus = "4"
scsi0.virtualDev = "pvscsi"
scsi0.present = "TRUE"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.fileName = "db.vmdk"
scsi0:0.present = "TRUE"
scsi0:1.deviceType = "scsi-hardDisk"
scsi0:1.fileName = "/vmfs/volumes/ds2/db/logs.vmdk"
scsi0:1.mode = "independent-persistent"
scsi0:1.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.networkName = "VM Network"
ethernet0.addressType = "vpx"
ethernet0.generatedAddress = "00:50:56:9a:00:01"
ethernet0.present = "TRUE"
sched.cpu.min = "0"
"""

VMSD = """.encoding = "UTF-8"
snapshot.lastUID = "3"
snapshot.current = "3"
snapshot0.uid = "1"
snapshot0.filename = "Werkstatt-Snapshot1.vmsn"
snapshot0.displayName = "frisch"
snapshot0.description = "nach der|0AInstallation"
snapshot0.createTimeHigh = "399203"
snapshot0.createTimeLow = "970534912"
snapshot0.numDisks = "1"
snapshot0.disk0.fileName = "Werkstatt.vmdk"
snapshot0.disk0.node = "nvme0:0"
snapshot.numSnapshots = "2"
snapshot1.uid = "3"
snapshot1.filename = "Werkstatt-Snapshot3.vmsn"
snapshot1.parent = "1"
snapshot1.displayName = "l\u00e4uft"
snapshot1.type = "1"
snapshot1.createTimeHigh = "399823"
snapshot1.createTimeLow = "-404155904"
snapshot1.numDisks = "1"
snapshot1.disk0.fileName = "Werkstatt-000001.vmdk"
snapshot1.disk0.node = "nvme0:0"
"""


def _read(text: str, encoding: str = "utf-8") -> Machine:
    return vmx.read(text.encode(encoding), "dir/Werkstatt.vmx")[0]


def test_a_machine_of_workstation_is_understood() -> None:
    machine = _read(WORKSTATION)
    assert machine.name == 'Werkstatt "eins" \u00e4'
    assert machine.description == "erste Zeile\nzweite | Zeile"
    assert (machine.guest, machine.architecture) == ("ubuntu-unknown", "x86_64")
    assert machine.uuid == "564d1faa-0b0c-0d0e-0f10-111213141516"
    firmware = machine.firmware
    assert (firmware.kind, firmware.secure_boot, firmware.tpm) == ("uefi", True, "2.0")
    assert firmware.variables == "Werkstatt.nvram"
    assert machine.cpus == CPUs(8, 2, 4, 1)
    assert machine.memory == 8192 * MIB
    assert machine.controllers == (Controller("sata", 0, "ahci"), Controller("nvme", 0))
    assert machine.drives == (
        Drive("disk", "nvme", 0, 0, "Werkstatt-000002.vmdk", "file", "vmdk", boot=2),
        Drive("cdrom", "sata", 0, 1, "/iso/tools.iso", boot=1),
        Drive("cdrom", "sata", 0, 2),
    )
    assert machine.networks == (
        Network("e1000e", "00:0c:29:ab:cd:ef", "nat", boot=3),
        Network("", "", "network", "VMnet2", False),
    )
    assert machine.serials == (Serial("tcp", "0.0.0.0:2001"),)
    assert (machine.usb, machine.sound) == (("uhci", "ehci", "xhci"), ("hda",))
    assert machine.display == Display("vmvga", 256 * MIB, accelerated=True)
    kept = dict(machine.extras["vmx"])
    assert kept["virtualHW.version"] == "21"
    assert kept["serial1.fileType"] == "thinprint"
    assert kept["tools.syncTime"] == "FALSE"


@pytest.mark.parametrize("text", [WORKSTATION, GSX, ESXI], ids=["workstation", "gsx", "esxi"])
def test_what_it_does_not_know_is_written_back_as_it_was(text: str) -> None:
    machine = _read(text)
    written = vmx.write(machine)
    again = vmx.read(written.data, "again.vmx")[0]
    assert again == without(machine, written.losses)
    assert not [loss for loss in written.losses if loss.key.startswith("extras")]


def test_a_file_without_encoding_is_in_the_hosts() -> None:
    machine = _read(GSX, "windows-1252")
    assert machine.name == "Buchhaltung M\u00fcller"
    assert (machine.guest, machine.architecture) == ("win2k3", "i686")
    assert machine.drives[0] == Drive("disk", "ide", 0, 0, "disk.vmdk", "file", "vmdk")
    assert machine.drives[1].source == "block"
    assert machine.sound == ("es1370",)
    assert dict(machine.extras["vmx"])["virtualHW.version"] == "3"


@pytest.mark.parametrize(
    ("encoding", "codec", "name"),
    [
        ("GBK", "gbk", "\u865a\u62df\u673a"),
        ("windows-936", "gbk", "\u865a\u62df\u673a"),
        ("Shift_JIS", "shift_jis", "\u4eee\u60f3"),
        ("windows-1252", "cp1252", "\u20acuro"),
        ("windows-1251", "cp1251", "\u041c\u0430\u0448\u0438\u043d\u0430"),
        ("Big5", "big5", "\u865b\u64ec"),
        ("UTF-8", "utf-8", "\U0001f427"),
    ],
)
def test_a_file_is_read_in_the_character_set_that_it_names(
    encoding: str, codec: str, name: str
) -> None:
    text = f'.encoding = "{encoding}"\r\ndisplayName = "{name}"\r\nmemsize = "64"\r\n'
    assert _read(text, codec).name == name


def test_escaped_bytes_are_of_the_files_character_set() -> None:
    assert _read('.encoding = "GBK"\ndisplayName = "|D0|E9"\n').name == "\u865a"


def test_a_machine_of_esxi_is_understood() -> None:
    machine = _read(ESXI)
    assert machine.controllers == (Controller("scsi", 0, "pvscsi"),)
    assert [drive.path for drive in machine.drives] == [
        "db.vmdk", "/vmfs/volumes/ds2/db/logs.vmdk",
    ]  # fmt: skip
    assert machine.networks == (Network("vmxnet3", "00:50:56:9a:00:01", "network", "VM Network"),)
    assert dict(machine.extras["vmx"])["scsi0:1.mode"] == "independent-persistent"


def test_snapshots_are_read_from_the_file_beside_it() -> None:
    found = vmx.read_with(
        WORKSTATION.encode(), "dir/Werkstatt.vmx",
        {"Werkstatt.vmsd": VMSD.encode(), "other.vmsd": b"", "disk.vmdk": b"\0"},
    )[0].snapshots  # fmt: skip
    first, second = found
    assert (first.id, first.name, first.description) == ("1", "frisch", "nach der\nInstallation")
    assert (first.created, first.current, first.memory) == ("2024-05-01T12:00:00Z", False, "")
    assert first.drives == (Drive("disk", "nvme", 0, 0, "Werkstatt.vmdk", format="vmdk"),)
    assert (second.parent, second.current) == ("1", True)
    assert (second.created, second.memory) == ("2024-06-01T08:30:00Z", "Werkstatt-Snapshot3.vmsn")
    assert vmx.read(WORKSTATION.encode(), "Werkstatt.vmx")[0].snapshots == ()


def test_snapshots_are_written_beside_it() -> None:
    machine = vmx.read_with(
        WORKSTATION.encode(), "Werkstatt.vmx", {"Werkstatt.vmsd": VMSD.encode()}
    )[0]
    written = vmx.write(machine)
    assert list(written.files) == ["Werkstatt _eins_ \u00e4.vmsd"]
    assert vmx.read_with(written.data, "x.vmx", written.files)[0].snapshots == machine.snapshots
    assert not [loss for loss in written.losses if loss.key.startswith("snapshots")]


def test_what_vmware_needs_to_start_is_always_written() -> None:
    entries = Dictionary.parse(vmx.write(SMALL).data, "small.vmx")
    for key, value in {
        ".encoding": "UTF-8", "config.version": "8", "virtualHW.version": "10",
        "guestOS": "other-64", "memsize": "512", "pciBridge0.present": "TRUE",
        "pciBridge4.virtualDev": "pcieRootPort", "sata0.present": "TRUE",
        "sata0:0.fileName": "small.qcow2", "floppy0.present": "FALSE",
    }.items():  # fmt: skip
        assert entries.look(key) == value, key


@pytest.mark.parametrize(
    ("machine", "version"),
    [
        (SMALL, "10"),
        (replace(SMALL, drives=(Drive(bus="nvme", path="a.vmdk"),)), "13"),
        (replace(RICH, firmware=replace(RICH.firmware, tpm="")), "13"),
        (RICH, "14"),
    ],
)
def test_the_oldest_hardware_that_has_it_all_is_asked_for(machine: Machine, version: str) -> None:
    assert Dictionary.parse(vmx.write(machine).data, "x").look("virtualHW.version") == version


def test_an_address_that_is_not_vmwares_is_not_checked() -> None:
    ours = replace(SMALL, networks=(Network("e1000", "52:54:00:00:00:01"),))
    theirs = replace(SMALL, networks=(Network("e1000", "00:50:56:00:00:01"),))
    assert b'ethernet0.checkMACAddress = "FALSE"' in vmx.write(ours).data
    assert b"checkMACAddress" not in vmx.write(theirs).data


def test_windows_gets_a_controller_that_it_has_a_driver_for() -> None:
    machine = replace(SMALL, guest="win2k22", drives=(Drive(bus="scsi", path="c.vmdk"),))
    assert b'scsi0.virtualDev = "lsisas1068"' in vmx.write(machine).data


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(machine=machines())
def test_the_law_holds_for_any_machine(machine: Machine) -> None:
    written = vmx.write(machine)
    found = vmx.read_with(written.data, "again.vmx", written.files)[0]
    assert found == without(machine, written.losses)


@given(st.dictionaries(st.sampled_from(["a", "b.c", "d1:2.e"]), st.text()))
def test_any_value_survives_its_quotes(entries: dict[str, str]) -> None:
    sane = {key: value.encode("utf-8", "replace").decode() for key, value in entries.items()}
    found = Dictionary.parse(compose(sane.items()), "x")
    assert {key: found.look(key) for key in sane} == sane


@pytest.mark.peer("dissect.hypervisor")
def test_dissect_finds_the_disks_that_we_write() -> None:
    from dissect.hypervisor.descriptor.vmx import VMX

    found = VMX.parse(vmx.write(RICH).data.decode())
    assert sorted(found.disks()) == [
        "/dev/vg0/logs", "/images/system.qcow2", "data & more.raw", "fast.qcow2", "old disk.vmdk",
    ]  # fmt: skip


# Strangers.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "none of the keys"),
        (b"hello = world", "none of the keys"),
        (b"displayName", "line 1 is not 'key"),
        (b'displayName = "a\n', "line 1 is not 'key"),
        (b'memsize = "1"\nMemSize = "2"\n', "line 2 sets 'MemSize' a second time"),
        (b'memsize = "-1"', "memsize is '-1'"),
        (b'memsize = "lots"', "memsize is 'lots'"),
        (b'memsize = "99999999999999999999999"', "memsize is"),
        (b'memsize = "4"\nnumvcpus = "9999999"', "numvcpus is"),
        (b'.encoding = "klingon"\nmemsize = "4"', "unknown character set, 'klingon'"),
        (b'.encoding = "zlib_codec"\nmemsize = "4"', "no such file has"),
        (b'.encoding = "utf-7"\nmemsize = "4"', "no such file has"),
        (b'.encoding = "UTF-8"\ndisplayName = "\xff"', "line 2 is no utf-8"),
        (b'.encoding = "UTF-8"\ndisplayName = "|FF"', "line 2 is no utf-8"),
        (b"x = 1\n" * 50_001, "more than 50000 lines"),
        (b'displayName = "' + b"a" * (10 << 20) + b'"', "no such file has"),
    ],
    ids=range(16),
)
def test_what_is_no_vmx_is_refused_in_one_line(text: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        vmx.read(text, "bad.vmx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('numDisks = "1"', 'numDisks = "99999999"', "numDisks is"),
        ('createTimeHigh = "399203"', 'createTimeHigh = "x"', "createTimeHigh is"),
    ],
)
def test_snapshots_that_make_no_sense_are_refused(old: str, new: str, words: str) -> None:
    beside = {"a.vmsd": VMSD.replace(old, new).encode()}
    with pytest.raises(FormatError, match=words):
        vmx.read_with(ESXI.encode(), "a.vmx", beside)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_a_file_that_was_tampered_with_is_read_or_refused(data: st.DataObject) -> None:
    text = bytearray(data.draw(st.sampled_from([WORKSTATION, ESXI, VMSD])).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=4))
    try:
        found = vmx.read_with(bytes(text), "a.vmx", {"a.vmsd": bytes(text)})
        written = vmx.write(found[0])
        again = vmx.read_with(written.data, "a.vmx", written.files)[0]
        assert again == without(found[0], written.losses)
    except VmimgError as error:
        assert "\n" not in str(error)
