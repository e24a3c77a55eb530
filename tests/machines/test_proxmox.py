"""Proxmox's configurations: as its manual, qm.conf(5), and its own hosts write them."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote

import pytest

from machine_samples import RICH, SMALL
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.machines.dialects import proxmox
from vmimg.machines.losses import without
from vmimg.machines.model import (
    Controller,
    CPUs,
    Display,
    Drive,
    Firmware,
    Machine,
    Network,
    Serial,
)

CONF = """\
#Web server%3A production
#second line, 100%25
agent: 1,fstrim_cloned_disks=1
audio0: device=ich9-intel-hda,driver=spice
balloon: 1024
bios: ovmf
boot: order=scsi0;ide2;net0
cores: 2
cpu: host,flags=+aes
efidisk0: local-lvm:vm-100-disk-1,efitype=4m,pre-enrolled-keys=1,size=4M
hostpci0: 0000:01:00.0,pcie=1
ide2: local:iso/debian-12.iso,media=cdrom,size=628M
machine: pc-q35-8.1
memory: 4096
meta: creation-qemu=8.1.2,ctime=1700000000
name: web-01.example.org
net0: virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,firewall=1,tag=20
net1: e1000=BC:24:11:AA:BB:CD,link_down=1
numa: 0
onboot: 1
ostype: l26
parent: patched
scsi0: local-lvm:vm-100-disk-0,cache=writeback,discard=on,size=32G,serial=ROOT%2001
scsi1: /dev/disk/by-id/ata-X,size=1T
scsihw: virtio-scsi-single
serial0: socket
serial1: /dev/ttyS0
smbios1: uuid=3f2d1c0b-aaaa-4bbb-8ccc-0123456789ab,manufacturer=QUNNRQ==,base64=1
sockets: 2
tpmstate0: local-lvm:vm-100-disk-2,size=4M,version=v2.0
unused0: local-lvm:vm-100-disk-9
vga: qxl2,memory=32
vmgenid: 11111111-2222-3333-4444-555555555555

[clean]
#after the installation
cores: 1
memory: 2048
scsi0: local-lvm:vm-100-disk-0,size=32G
snaptime: 1714564800

[patched]
cores: 2
memory: 4096
parent: clean
scsi0: local-lvm:vm-100-disk-0,size=32G
snaptime: 1717230600
vmstate: local-lvm:vm-100-state-patched

[PENDING]
memory: 8192
"""


def _read(text: str) -> Machine:
    (machine,) = proxmox.read(text.encode(), "100.conf")
    return machine


def _written(machine: Machine) -> str:
    return proxmox.write(machine).data.decode()


def test_a_configuration_of_a_host_is_read_with_all_that_the_model_has() -> None:
    machine = _read(CONF)
    assert machine.name == "web-01.example.org"
    assert machine.description == "Web server: production\nsecond line, 100%"
    assert machine.uuid == "3f2d1c0b-aaaa-4bbb-8ccc-0123456789ab"
    assert machine.chipset == "q35"
    assert machine.firmware == Firmware("uefi", True, "2.0", "local-lvm:vm-100-disk-1")
    assert machine.cpus == CPUs(4, 2, 2, 1, "host")
    assert machine.memory == 4096 << 20
    assert machine.controllers == (Controller("scsi", 0, "virtio-scsi"),)
    assert machine.drives == (
        Drive("cdrom", "ide", 1, 0, "local/iso/debian-12.iso", "volume", "", 628 << 20, 2),
        Drive("disk", "scsi", 0, 0, "local-lvm/vm-100-disk-0", "volume", "", 32 << 30, 1,
              False, "ROOT 01"),
        Drive("disk", "scsi", 0, 1, "/dev/disk/by-id/ata-X", "block", "", 1 << 40),
    )  # fmt: skip
    assert machine.networks == (
        Network("virtio", "bc:24:11:aa:bb:cc", "bridge", "vmbr0", True, 3),
        Network("e1000", "bc:24:11:aa:bb:cd", "user", "", False),
    )
    assert machine.serials == (Serial("pty"), Serial("device", "/dev/ttyS0"))
    assert machine.display == Display("qxl", 32 << 20, 2)
    assert machine.sound == ("ich9",)


def test_snapshots_are_the_sections_and_parent_is_where_the_machine_stands() -> None:
    clean, patched = _read(CONF).snapshots
    assert (clean.id, clean.description, clean.created, clean.parent, clean.current) == (
        "clean", "after the installation", "2024-05-01T12:00:00Z", "", False,
    )  # fmt: skip
    assert (patched.parent, patched.current, patched.memory) == (
        "clean", True, "local-lvm:vm-100-state-patched",
    )  # fmt: skip
    assert [drive.path for drive in clean.drives] == ["local-lvm/vm-100-disk-0"]


def test_what_a_host_wrote_is_written_back_line_for_line() -> None:
    machine = _read(CONF)
    written = proxmox.write(machine)
    assert written.losses == ()
    back = written.data.decode()

    def lines(text: str, section: str) -> set[tuple[str, ...]]:
        part = f"\n{text}".split(f"\n[{section}]\n")[1] if section else text
        return {
            (key, *sorted(value.strip().split(",")))
            for key, _, value in (line.partition(":") for line in part.split("\n[")[0].split("\n"))
            if key
        }

    for section in ("", "clean", "patched", "PENDING"):
        assert lines(back, section) == lines(CONF, section)
    assert _read(back) == machine


def test_a_boot_order_of_letters_is_read_as_the_devices_meant() -> None:
    machine = _read(
        "boot: dcn\nbootdisk: virtio1\nide2: none,media=cdrom\nmemory: 512\n"
        "net0: virtio=00:11:22:33:44:55\nvirtio0: local:a.raw\nvirtio1: local:b.raw\n"
    )
    assert [drive.boot for drive in machine.drives] == [1, 0, 2]
    assert machine.networks[0].boot == 3


def test_a_name_becomes_one_of_dns_and_says_so() -> None:
    losses = {loss.key: loss for loss in proxmox.write(RICH).losses}
    assert losses["name"].instead == "Buro-Server-Nr-3-test-Sohne"
    assert "name: Buro-Server-Nr-3-test-Sohne\n" in _written(RICH)


def test_a_description_is_encoded_as_proxmox_decodes_it() -> None:
    machine = replace(SMALL, description="100% für: Büro\nzweite")
    head = [line[1:] for line in _written(machine).split("\n") if line.startswith("#")]
    assert [unquote(line) for line in head] == ["100% für: Büro", "zweite"]
    assert all(line.isascii() and "%" in line for line in head[:1])


def test_what_proxmox_cannot_say_has_plain_reasons() -> None:
    machine = replace(
        RICH,
        drives=(Drive("floppy", "floppy", path="a.img"), Drive(path="a,b.raw", bus="virtio"),
                Drive(path="nbd://h/x", source="network", bus="virtio"),
                Drive(path="v:1.raw", bus="scsi")),
    )  # fmt: skip
    written = proxmox.write(machine)
    reasons = {loss.key: loss.reason for loss in written.losses}
    assert reasons["drives[0]"] == "Proxmox has no floppy drives"
    assert reasons["drives[1]"] == "a file of Proxmox's has no commas in its name"
    assert reasons["drives[2]"].startswith("Proxmox has files, devices and volumes")
    assert "scsi0: ./v:1.raw" in written.data.decode()
    assert reasons["usb[0]"] == "Proxmox brings USB controllers by itself"


def test_an_option_of_a_device_that_is_gone_is_told() -> None:
    machine = _read(CONF)
    written = proxmox.write(replace(machine, networks=()))
    told = {loss.value for loss in written.losses}
    assert {"net0.firewall = 1", "net0.tag = 20"} <= told
    assert proxmox.read(written.data, "x")[0] == without(
        replace(machine, networks=()), written.losses
    )


def test_a_container_is_no_machine() -> None:
    with pytest.raises(UnsupportedFeature, match="container"):
        _read("arch: amd64\nhostname: ct\nrootfs: local:vm-101-disk-0,size=8G\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no settings"),
        ("memory 512\n", "line 1 is not"),
        ("memory: lots\n", "the memory"),
        ("memory: " + "9" * 30 + "\n", "the memory"),
        ("cores: 99999999\n", "cores"),
        ("scsi0: a:b,size=1e9\n", "size of scsi0"),
        ("scsi0: a:b,size=99999999999999999T\n", "size of scsi0"),
        ("memory: 1\n[a]\nsnaptime: x\n", "time of snapshot a"),
        ("memory: 1\n[a]\nsnaptime: 1\n[a]\nsnaptime: 2\n", "two with the name a"),
        ("memory: 1\nvga: std,memory=x\n", "video card"),
        ("memory: 1\n" + "x" * (2 << 20), "too many"),
    ],
)
def test_a_configuration_that_breaks_the_rules_is_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said) as raised:
        proxmox.read(text.encode(), "evil.conf")
    assert str(raised.value).startswith("evil.conf: ") and "\n" not in str(raised.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(FormatError, match="UTF-8"):
        proxmox.read(b"name: \xff\xfe\n", "x")
