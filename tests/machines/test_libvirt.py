"""Domain XML: what libvirt's own schema and parser, and virt-install, say of it.

The domains written out here follow https://libvirt.org/formatdomain.html and what virt-manager and
oVirt leave in /etc/libvirt/qemu.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

import peers
from machine_samples import RICH, SMALL, machines
from rounds import rounds
from vmimg.errors import FormatError, UnsupportedFeature, VmimgError
from vmimg.machines.dialects import libvirt
from vmimg.machines.losses import without
from vmimg.machines.model import Controller, CPUs, Drive, Firmware, Machine, Network, Serial

_steadily = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def _domain(
    devices: str = "", *, os: str = "<type>hvm</type>", kind: str = "kvm", more: str = ""
) -> bytes:
    return (
        f"<domain type='{kind}'><name>demo</name><memory unit='MiB'>512</memory>{more}"
        f"<os>{os}</os><features><acpi/><apic/></features><devices>{devices}</devices></domain>"
    ).encode()


DOMAIN = _domain(
    "<emulator>/usr/bin/qemu-system-x86_64</emulator>\n"
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>"
    "<source file='/a.qcow2'/><target dev='vda' bus='virtio'/><address type='pci'/></disk>\n"
    "<disk type='block' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>\n"
    "<controller type='usb' index='0' model='qemu-xhci' ports='15'/>\n"
    "<controller type='scsi' index='0' model='virtio-scsi'/><controller type='pci' index='0'/>\n"
    "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>\n"
    "<interface type='network'><source network='lan'/><mtu size='9000'/></interface>\n"
    "<console type='pty'><target type='serial' port='0'/></console>\n"
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\n"
    "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>\n"
    "<graphics type='spice' autoport='yes'><listen type='address'/></graphics>\n"
    "<video><model type='qxl' ram='65536' vram='65536' heads='1'/></video>\n"
    "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/></source></hostdev>\n",
    os="<type arch='x86_64' machine='pc-q35-7.2'>hvm</type><boot dev='hd'/><boot dev='cdrom'/>",
    more="<vcpu placement='static'>4</vcpu><currentMemory>1024</currentMemory>"
    "<cpu mode='host-model'><topology sockets='1' dies='2' cores='2' threads='1'/></cpu>"
    "<clock offset='utc'><timer name='rtc'/></clock>",
)
"""A domain with something of most kinds that the model has no word for."""


def _read(data: bytes) -> Machine:
    (machine,) = libvirt.read(data, "demo.xml")
    return machine


def _absolute(machine: Machine) -> Machine:
    """libvirt's schema takes no relative paths of files; where they lie, the caller knows."""
    drives = tuple(
        replace(drive, path="/images/" + drive.path)
        if drive.source == "file" and drive.path and not drive.path.startswith("/")
        else drive
        for drive in machine.drives
    )
    firmware = replace(
        machine.firmware,
        loader=machine.firmware.loader and "/f/" + machine.firmware.loader,
        variables=machine.firmware.variables and "/f/" + machine.firmware.variables,
    )
    return replace(machine, drives=drives, firmware=firmware)


@pytest.mark.peer("virt-xml-validate")
@settings(_steadily, max_examples=rounds(15))
@given(machine=machines())
def test_libvirts_own_schema_accepts_whatever_is_written(tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / "domain.xml"
    path.write_bytes(libvirt.write(_absolute(machine)).data)
    peers.run("virt-xml-validate", path, "domain")


@pytest.mark.peer("virt-xml-validate")
def test_snapshots_lie_beside_the_domain_and_follow_libvirts_schema(tmp_path: Path) -> None:
    files = libvirt.write(_absolute(RICH)).files
    assert list(files) == ["snapshots/1.xml", "snapshots/2.xml", "snapshots/3.xml"]
    for at, data in enumerate(files.values()):
        path = tmp_path / f"{at}.xml"
        path.write_bytes(data)
        peers.run("virt-xml-validate", path, "domainsnapshot")
    (then,) = libvirt.read(files["snapshots/1.xml"], "1.xml")
    assert then.name == RICH.name
    (snapshot,) = then.snapshots
    assert (snapshot.id, snapshot.description, snapshot.created) == (
        "clean", "after the installation", "2024-05-01T12:00:00Z",
    )  # fmt: skip


@pytest.mark.peer("virsh")
@pytest.mark.parametrize("machine", [SMALL, RICH], ids=["small", "rich"])
def test_libvirt_defines_the_domain_and_gives_the_same_machine_back(
    tmp_path: Path, machine: Machine
) -> None:
    machine = replace(_absolute(machine), uuid=RICH.uuid, cpus=RICH.cpus, clock="utc")
    if machine.name == "small":  # libvirt boots from the first disk if nothing is said
        machine = replace(machine, drives=(replace(machine.drives[0], boot=1),))
    written = libvirt.write(machine)
    path = tmp_path / "domain.xml"
    path.write_bytes(written.data.replace(b'type="kvm"', b'type="test"', 1))
    said = peers.run(
        "virsh", "-q", "-c", "test:///default", f"define {path}; dumpxml --inactive {machine.uuid}"
    ).stdout
    found = _read(said[said.index(b"<domain") :])
    expected = without(machine, written.losses)
    # libvirt sorts disks, and adds the controllers and the sound that it takes by itself.
    plain = {"extras": {}, "controllers": (), "sound": (), "usb": (), "drives": ()}
    assert replace(found, **plain) == replace(expected, **plain, architecture=found.architecture)
    assert set(found.drives) == set(expected.drives)


_OPTIONS = {
    "linux": [
        "--memory", "2048", "--vcpus", "4,sockets=1,cores=2,threads=2", "--import", "--disk",
        "/tmp/a.qcow2,driver.type=qcow2,bus=virtio,size=1,serial=ABC", "--network",
        "network=default,model=virtio,mac=52:54:00:aa:bb:cc", "--graphics", "vnc", "--osinfo",
        "debian11",
    ],
    "windows": [
        "--memory", "4096", "--vcpus", "2", "--disk", "/tmp/w.raw,format=raw,bus=sata,size=1",
        "--disk", "device=cdrom", "--network", "user,model=e1000", "--sound", "ich9", "--video",
        "qxl",
        "--osinfo", "win10", "--clock", "offset=localtime", "--import",
    ],
    "uefi": [
        "--memory", "1024", "--disk", "/tmp/s.vmdk,format=vmdk,bus=scsi,size=1",
        "--boot", "loader=/f/CODE.fd,loader.type=pflash,loader.readonly=yes,nvram=/f/VARS.fd",
        "--controller", "scsi,model=virtio-scsi", "--tpm",
        "backend.type=emulator,backend.version=2.0,model=tpm-crb",
        "--network", "bridge=br0,boot.order=1", "--serial", "tcp,host=:4555,mode=bind",
        "--osinfo",
        "detect=off,require=off", "--import", "--rng", "/dev/urandom", "--memballoon", "none",
    ],
    "pxe": ["--memory", "512", "--disk", "none", "--pxe", "--network", "network=default",
            "--osinfo", "detect=off,require=off"],
}  # fmt: skip


@functools.cache
def _virt_install(name: str) -> bytes:
    return peers.run(
        "virt-install", "--connect", "test:///default", "--name", "demo", "--print-xml=1",
        "--dry-run", "--noautoconsole", "--check", "all=off", *_OPTIONS[name],
    ).stdout  # fmt: skip


@pytest.mark.peer("virt-install", "virt-xml-validate")
@pytest.mark.parametrize("name", _OPTIONS)
def test_what_virt_install_makes_is_written_back_whole(name: str, tmp_path: Path) -> None:
    data = _virt_install(name)
    machine = _read(data)
    assert machine.name == "demo" and machine.memory in (512 << 20, 1 << 30, 2 << 30, 4 << 30)
    written = libvirt.write(machine)
    assert _read(written.data) == without(machine, written.losses)
    assert not [loss for loss in written.losses if loss.key.startswith("extras")]
    path = tmp_path / "domain.xml"
    path.write_bytes(written.data.replace(b'type="test"', b'type="kvm"', 1))
    peers.run("virt-xml-validate", path, "domain")
    for word in (b"redirdev", b"urandom", b"emulator", b"spicevmc", b"suspend-to-mem"):
        assert (word in data) == (word in written.data)


@pytest.mark.peer("virt-install")
def test_what_virt_install_was_told_is_in_the_machine() -> None:
    machine = _read(_virt_install("linux"))
    assert machine.cpus == CPUs(4, 1, 2, 2)
    assert machine.guest == "debian11"
    assert machine.drives == (
        Drive("disk", "virtio", 0, 0, "/tmp/a.qcow2", "file", "qcow2", boot=1, serial="ABC"),
    )
    assert machine.networks == (Network("virtio", "52:54:00:aa:bb:cc", "network", "default"),)
    assert machine.serials == (Serial("pty"),)
    uefi = _read(_virt_install("uefi"))
    assert uefi.firmware == Firmware("uefi", None, "2.0", "/f/VARS.fd", "/f/CODE.fd")
    assert uefi.networks[0].boot == 1
    assert Controller("scsi", 0, "virtio-scsi") in uefi.controllers


def test_what_the_model_has_no_word_for_is_written_back_where_it_stood() -> None:
    data = _domain(
        "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>"
        "<source file='/a.raw'/><target dev='vda' bus='virtio'/><iotune><total_iops_sec>5"
        "</total_iops_sec></iotune></disk>"
        "<disk type='file'><source file='/b.raw'/><target dev='vdb' bus='virtio'/></disk>"
        "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='3' slot='0' "
        "function='0'/></source></hostdev>",
        os="<type arch='x86_64' machine='pc-q35-7.2'>hvm</type><bootmenu enable='yes'/>",
        kind="qemu",
    )
    machine = _read(data)
    assert dict(machine.extras["libvirt"])["devices/disk[1]/driver/@cache"] == "none"
    assert dict(machine.extras["libvirt"])["os/type/@machine"] == "pc-q35-7.2"
    assert machine.chipset == "q35"
    back = libvirt.write(machine)
    assert not back.losses
    first, second = back.data.split(b"<disk ")[1:]
    assert b'cache="none"' in first and b"<total_iops_sec>5<" in first and b"iotune" not in second
    for said in (b'<domain type="qemu">', b'machine="pc-q35-7.2"', b"<bootmenu", b"<hostdev "):
        assert back.data.count(said) == 1
    assert _read(back.data) == machine


def test_a_domain_full_of_other_things_comes_back_whole() -> None:
    machine = _read(DOMAIN)
    assert machine.cpus == CPUs(4, 1, 4, 1, "host")
    back = libvirt.write(machine)
    assert not back.losses
    assert _read(back.data) == machine
    for said in (b'dies="2" ', b'cores="2"', b'cache="none"', b'<mtu size="9000"/>', b"<hostdev ",
                 b'mode="host-model"', b"org.qemu.guest_agent.0", b'ram="65536"', b'ports="15"',
                 b'<timer name="rtc"/>', b'<currentMemory>1024<', b'type="direct"'):  # fmt: skip
        assert back.data.replace(b"/>", b" />").count(said.replace(b"/>", b" />")) >= 1, said


def test_what_was_kept_of_a_device_that_is_gone_is_told() -> None:
    machine = _read(
        _domain(
            "<disk type='file'><driver name='qemu' type='raw' io='native'/><source file='/a'/>"
            "<target dev='vda' bus='virtio'/></disk>"
        )
    )
    (loss,) = libvirt.write(replace(machine, drives=())).losses
    assert loss.key == "extras.libvirt[0]" and "io = native" in loss.value


def test_a_domain_without_acpi_does_not_get_it_by_being_written() -> None:
    data = _domain().replace(b"<features><acpi/><apic/></features>", b"")
    assert b"acpi" not in libvirt.write(_read(data)).data


def test_each_kind_of_disk_is_read_as_what_it_is() -> None:
    machine = _read(
        _domain(
            "<disk type='block'><source dev='/dev/vg/a'/><target dev='sda' bus='scsi'/>"
            "<address type='drive' controller='1' bus='0' target='0' unit='4'/></disk>"
            "<disk type='network' device='disk'><source protocol='rbd' name='pool/img'>"
            "<host name='mon1' port='6789'/><host name='mon2' port='6789'/></source>"
            "<target dev='vdc' bus='virtio'/></disk>"
            "<disk type='volume'><source pool='default' volume='v.qcow2'/>"
            "<target dev='sdh' bus='sata'/></disk>"
            "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"
            "<disk type='file' device='floppy'><source file='/f.img'/><target dev='fdb'/></disk>"
            "<disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'/>"
            "<target dev='vdd' bus='virtio'/></disk>"
        )
    )
    places = [(each.bus, each.controller, each.slot) for each in machine.drives]
    assert [
        (each.source, each.path, *place) for each, place in zip(machine.drives, places, strict=True)
    ] == [
        ("block", "/dev/vg/a", "scsi", 1, 4),
        ("network", "rbd://mon1:6789/pool/img", "virtio", 0, 2),
        ("volume", "default/v.qcow2", "sata", 1, 1),
        ("file", "", "ide", 1, 0),
        ("file", "/f.img", "floppy", 0, 1),
    ]  # fmt: skip
    back = libvirt.write(machine)
    assert back.data.count(b'name="mon2"') == 1 and back.data.count(b'type="nvme"') == 1
    assert not back.losses


def test_boot_classes_of_the_os_become_the_order_of_devices() -> None:
    machine = _read(
        _domain(
            "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>"
            "<disk type='file' device='disk'><source file='/a'/><target dev='vda'/></disk>"
            "<disk type='file' device='disk'><source file='/b'/><target dev='vdb'/></disk>"
            "<interface type='user'/>",
            os="<type>hvm</type><boot dev='network'/><boot dev='hd'/><boot dev='cdrom'/>",
        )
    )
    assert [drive.boot for drive in machine.drives] == [3, 2, 0]
    assert machine.networks[0].boot == 1
    assert b"<boot dev=" not in libvirt.write(machine).data


def test_firmware_is_told_by_selection_and_by_its_files() -> None:
    chosen = _read(
        _domain(os="<type>hvm</type><firmware><feature enabled='no' name='secure-boot'/></firmware>"
                "").replace(b"<os>", b"<os firmware='efi'>")
    )  # fmt: skip
    assert chosen.firmware == Firmware("uefi", False)
    named = _read(
        _domain(os="<type>hvm</type><loader readonly='yes' secure='yes' type='pflash'>/C.fd"
                "</loader><nvram template='/T.fd'>/V.fd</nvram>")
    )  # fmt: skip
    assert named.firmware == Firmware("uefi", True, "", "/V.fd", "/C.fd")
    assert b'template="/T.fd"' in libvirt.write(named).data
    bios = _read(_domain(os="<type>hvm</type><loader type='rom'>/bios.bin</loader>"))
    assert bios.firmware == Firmware("bios", loader="/bios.bin")


def test_a_macvtap_interface_keeps_what_it_is_on() -> None:
    machine = _read(
        _domain("<interface type='direct'><mac address='52:54:00:00:00:01'/>"
                "<source dev='eth0' mode='bridge'/><model type='virtio'/></interface>")
    )  # fmt: skip
    assert machine.networks == (Network("virtio", "52:54:00:00:00:01"),)
    back = libvirt.write(machine)
    assert b'<interface type="direct">' in back.data and b'dev="eth0"' in back.data
    assert not back.losses


@pytest.mark.parametrize("kind", ["xen", "bhyve", "qemu", "vmware", "hvf"])
def test_domains_of_other_hypervisors_keep_their_kind(kind: str) -> None:
    disk = "<disk type='file' device='disk'><source file='/a'/><target dev='{}'/></disk>"
    name = "xvda" if kind == "xen" else "hda"
    machine = _read(_domain(disk.format(name), kind=kind))
    assert machine.drives[0].bus == ("xen" if kind == "xen" else "ide")
    back = libvirt.write(machine)
    assert f'<domain type="{kind}">'.encode() in back.data
    assert _read(back.data) == without(machine, back.losses)


def test_a_paravirtual_xen_guest_has_its_chipset() -> None:
    data = (
        b"<domain type='xen'><name>pv</name><memory>131072</memory><bootloader>/usr/bin/pygrub"
        b"</bootloader><os><type arch='x86_64' machine='xenpv'>linux</type></os></domain>"
    )
    machine = _read(data)
    assert machine.chipset == "xenpv"
    assert b"<bootloader>/usr/bin/pygrub</bootloader>" in libvirt.write(machine).data


def test_a_running_domain_is_read_from_its_state() -> None:
    inner = _domain().decode()
    machine = _read(f"<domstatus state='running' pid='7'>{inner}</domstatus>".encode())
    assert machine.name == "demo"


@pytest.mark.parametrize("kind", ["lxc", "openvz"])
def test_a_container_is_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(UnsupportedFeature, match=f"a container .{kind}., not a virtual machine"):
        _read(_domain(os="<type>exe</type><init>/sbin/init</init>", kind=kind))


_BOMB = b"""<!DOCTYPE d [<!ENTITY a "xx"><!ENTITY b "&a;&a;">]><domain><name>&b;</name></domain>"""
_HOSTILE = {
    "another-root": b"<network><name>x</name></network>",
    "entities": _BOMB,
    "cut": _domain()[:80],
    "deep": b"<domain>" + b"<a>" * 400 + b"</a>" * 400 + b"</domain>",
    "memory-is-no-number": _domain().replace(b"512", b"many"),
    "memory-is-huge": _domain().replace(b"512", b"9" * 40),
    "memory-unit": _domain().replace(b"MiB", b"parsec"),
    "processors": _domain(more="<vcpu>999999999</vcpu>"),
    "topology": _domain(more="<cpu><topology sockets='1e9' cores='1' threads='1'/></cpu>"),
    "boot-order": _domain(
        "<disk><source file='/a'/><target dev='vda'/><boot order='-1'/></disk>"
    ),
    "unit": _domain(
        "<disk><target dev='sda' bus='sata'/><address type='drive' unit='99999999999'/></disk>"
    ),
    "devices-twice": _domain().replace(b"</domain>", b"<devices/></domain>"),
    "too-many-devices": _domain("<disk><target dev='vda'/></disk>" * 3000),
    "snapshot-without-domain": b"<domainsnapshot><name>x</name></domainsnapshot>",
    "snapshot-time": b"<domainsnapshot><name>x</name><creationTime>99999999999999999</creationTime>"
    + _domain() + b"</domainsnapshot>",
}  # fmt: skip


@pytest.mark.parametrize("name", _HOSTILE)
def test_a_domain_that_breaks_the_rules_is_one_clear_line(name: str) -> None:
    with pytest.raises(FormatError) as raised:
        libvirt.read(_HOSTILE[name], "evil.xml")
    assert str(raised.value).startswith("evil.xml: ") and "\n" not in str(raised.value)


@settings(_steadily, max_examples=rounds(12))
@given(machine=machines().map(lambda machine: replace(machine, snapshots=())))
def test_a_description_cut_anywhere_is_read_or_refused(machine: Machine) -> None:
    data = libvirt.write(machine).data
    for cut in (len(data) // 3, len(data) // 2, len(data) - 20):
        with pytest.raises(VmimgError):
            libvirt.read(data[:cut], "cut.xml")


def test_kept_elements_that_are_no_xml_are_told_and_left_out() -> None:
    machine = replace(SMALL, extras={"libvirt": (("devices/channel", "<channel"), ("a/b/@c", "1"))})
    written = libvirt.write(machine)
    assert {"extras.libvirt[0]", "extras.libvirt[1]"} <= {loss.key for loss in written.losses}
    assert _read(written.data).extras == {}
