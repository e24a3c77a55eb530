"""machines/dialects/ovf: descriptors of every maker are read, ours are what the schema wants."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import ovf_makers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ovf_schema import ovf_faults

from machine_samples import RICH, SMALL, machines
from vmimg.errors import FormatError, OptionError, VmimgError
from vmimg.machines.dialects import ovf
from vmimg.machines.losses import without
from vmimg.machines.model import Controller, CPUs, Display, Drive, Machine, Network

GIB = 1 << 30
MAKERS: list[Callable[[], bytes]] = [
    ovf_makers.vmware, ovf_makers.virtualbox, ovf_makers.ovirt, ovf_makers.aws,
    ovf_makers.xen, ovf_makers.vapp, ovf_makers.old,
]  # fmt: skip


def test_a_descriptor_of_vmware_is_understood() -> None:
    found = ovf.envelope(ovf_makers.vmware(), "web.ovf")
    assert (found.version, found.flavour) == ("1.1", "vmware")
    assert found.files[0] == ovf.File("file1", "web%20server-disk1.vmdk", 123456789)
    assert found.files[0].name == "web server-disk1.vmdk"
    first, second = found.disks
    assert (first.capacity, first.populated, first.format_name) == (40 * GIB, 2 * GIB, "vmdk")
    assert (second.file, second.capacity) == ("", 100 * GIB)  # the default of its property
    assert found.file_of(first) == found.files[0]
    assert found.eulas == ("Do no harm.",)
    assert found.annotations == ("Serves.\nTwo lines.",)
    assert found.products[0].vendor == "Example"
    assert found.products[0].properties[0].user_configurable
    assert found.places == {(0, 1): "vmdisk1", (0, 2): "vmdisk2"}

    machine = found.machines[0]
    assert machine.name == "web server"
    assert machine.description == "Serves.\nTwo lines."
    assert (machine.guest, machine.architecture) == ("debian11", "x86_64")
    assert machine.cpus == CPUs(4, 2, 2, 1)
    assert machine.memory == 8 * GIB
    firmware = machine.firmware
    assert (firmware.kind, firmware.secure_boot, firmware.tpm) == ("uefi", True, "2.0")
    assert firmware.variables == "web-server.nvram"
    assert machine.controllers == (Controller("scsi", 0, "pvscsi"), Controller("sata", 0, "ahci"))
    assert machine.drives == (
        Drive("cdrom", "sata", 0, 0),
        Drive("disk", "scsi", 0, 0, "web server-disk1.vmdk", "file", "vmdk", 40 * GIB, 1),
        Drive("disk", "scsi", 0, 1, "", "file", "vmdk", 100 * GIB),
    )
    assert machine.networks == (Network("vmxnet3", "", "network", "VM Network", True, 2),)
    assert machine.display == Display(memory=16 << 20)
    kept = [key for key, _ in machine.extras["ovf"]]
    assert kept == [
        "System/VirtualSystemType", "VirtualHardwareSection@transport", "controllers[0]/Config",
        "networks[0]/Config", "VirtualHardwareSection/Item", "VirtualHardwareSection/Config",
        "VirtualHardwareSection/ExtraConfig", "VirtualSystem/EulaSection",
        "VirtualSystem/ProductSection",
    ]  # fmt: skip


def test_a_descriptor_of_vmware_is_written_back_without_any_loss() -> None:
    machine = ovf.read(ovf_makers.vmware(), "web.ovf")[0]
    written = ovf.write(machine)
    assert written.losses == ()
    assert ovf.read(written.data, "again.ovf") == (machine,)
    for kept in (b"vmx-19", b"com.vmware.guestInfo", b"vmware.vmci", b"Do no harm.", b"data.size"):
        assert kept in written.data


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_descriptor_of_virtualbox_is_understood_with_its_settings(version: str) -> None:
    found = ovf.envelope(ovf_makers.virtualbox(version), "box.ovf")
    assert (found.version, found.flavour) == (version, "virtualbox")
    machine = found.machines[0]
    assert (machine.name, machine.guest) == ("box", "ubuntu22.04")
    assert (machine.cpus.count, machine.memory) == (2, 2 * GIB)
    assert (machine.chipset, machine.firmware.kind, machine.clock) == ("q35", "uefi", "utc")
    assert machine.uuid == "0f3c9e68-27b5-4a45-9f0e-3b1f0a0a5d21"
    assert machine.display == Display("vmvga", 16 << 20)
    assert [drive.path for drive in machine.drives] == ["box-disk001.vmdk", ""]
    assert machine.drives[0].size == 20 * GIB
    assert (machine.drives[1].bus, machine.drives[1].controller) == ("ide", 1)
    assert machine.networks[0].kind == "nat"
    assert (machine.sound, machine.usb) == (("ac97",), ("ohci",))
    assert "Hardware/HID" in dict(machine.extras["vbox"])


def test_what_ovirt_keeps_in_its_storage_domains_is_understood() -> None:
    found = ovf.envelope(ovf_makers.ovirt(), "vm.ovf")
    assert found.flavour == "ovirt"
    assert found.disks[0].capacity == 10 * GIB
    machine = found.machines[0]
    assert (machine.name, machine.description) == ("vm-on-ovirt", "made by oVirt")
    assert (machine.guest, machine.architecture) == ("rhel9-unknown", "x86_64")
    assert machine.cpus == CPUs(4, 2, 1, 2)
    assert machine.memory == 4 * GIB
    assert (machine.chipset, machine.firmware.kind) == ("q35", "uefi")
    assert machine.firmware.secure_boot is True
    disk = machine.drives[0]
    assert (disk.bus, disk.format, disk.size, disk.boot) == ("scsi", "qcow2", 10 * GIB, 1)
    assert disk.path == found.files[0].href
    assert found.places == {(0, 0): found.disks[0].id}
    assert machine.networks == (Network("virtio", "56:6f:1a:2b:00:01", "network", "ovirtmgmt"),)
    assert machine.display == Display("qxl", 0, 1, remote="spice")
    assert any("i6300esb" in value for _, value in machine.extras["ovirt"])
    # None of that has a place in the OVF that others read: it is told.
    assert {loss.key.split("[")[0] for loss in ovf.write(machine).losses} >= {"extras.ovirt"}


def test_a_descriptor_of_aws_may_use_an_id_twice() -> None:
    machine = ovf.read(ovf_makers.aws(), "export.ovf")[0]
    assert machine.name == "EC2-import"
    assert machine.controllers == (Controller("scsi", 0, "lsilogic"),)
    assert machine.drives[0].size == 8 * GIB
    assert machine.guest == "linux-unknown"


def test_chunks_compression_and_parents_of_disks_are_told() -> None:
    found = ovf.envelope(ovf_makers.xen(), "x.ovf")
    assert found.flavour == "xen"
    file = found.files[0]
    assert (file.compression, file.chunk_size) == ("gzip", 2000)
    assert file.chunks == tuple(f"disk.vhd.gz.{number:09}" for number in range(3))
    assert found.disks[1].parent == "d1"
    assert found.disks[0].format_name == "vhd"


def test_a_vapp_is_several_machines_however_deep() -> None:
    found = ovf.envelope(ovf_makers.vapp(), "shop.ovf")
    assert found.collection == "Shop"
    assert found.system_ids == ("front", "back")
    assert [machine.name for machine in found.machines] == ["front", "back"]
    assert found.places == {(0, 0): "d1", (1, 0): "d2"}
    written = ovf.write_all(found.machines)
    again = ovf.envelope(written.data, "again.ovf")
    assert again.machines == found.machines
    assert written.losses == ()


def test_what_vmware_wrote_before_the_standard_is_read() -> None:
    found = ovf.envelope(ovf_makers.old(), "old.ovf")
    assert (found.version, found.flavour) == ("0.9", "")
    machine = found.machines[0]
    assert (machine.name, machine.memory) == ("old one", 256 << 20)
    assert machine.drives == (Drive("disk", "scsi", 0, 0, "old.vmdk", "file", "vmdk", GIB),)


def test_of_several_configurations_the_default_counts() -> None:
    data = ovf_makers.aws().replace(
        b"<DiskSection>",
        b'<DeploymentOptionSection><Info>i</Info><Configuration ovf:id="small"/>'
        b'<Configuration ovf:id="big" ovf:default="true"/></DeploymentOptionSection><DiskSection>',
    )
    big = ovf_makers.item(
        InstanceID=2, ResourceType=4, AllocationUnits="byte * 2^30", VirtualQuantity=64,
        attributes=' ovf:configuration="big"',
    )  # fmt: skip
    tiny = big.replace("64", "1").replace("big", "small")
    data = data.replace(
        b"</VirtualHardwareSection>", (big + tiny).encode() + b"</VirtualHardwareSection>"
    )
    machine = ovf.read(data, "options.ovf")[0]
    assert machine.memory == 64 * GIB
    assert [key for key, _ in machine.extras["ovf"]] == [
        "VirtualHardwareSection/Item", "Envelope/DeploymentOptionSection",
    ]  # fmt: skip


# What is written.


@pytest.mark.parametrize("machine", [SMALL, RICH, Machine()], ids=["small", "rich", "bare"])
def test_what_is_written_meets_the_schema(machine: Machine) -> None:
    assert ovf_faults(ovf.write(machine).data) == []


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(machine=machines())
def test_any_machine_is_written_so_that_it_meets_the_schema_and_the_law(machine: Machine) -> None:
    written = ovf.write(machine)
    assert ovf_faults(written.data) == []
    assert ovf.read(written.data, "again")[0] == without(machine, written.losses)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_the_law_holds_for_machines_of_every_maker(make: Callable[[], bytes]) -> None:
    for machine in ovf.read(make(), "theirs"):
        written = ovf.write(machine)
        assert ovf_faults(written.data) == []
        assert ovf.read(written.data, "again")[0] == without(machine, written.losses)


def test_what_vmware_has_is_written_without_loss() -> None:
    machine = Machine(
        name="appliance",
        description="of several\nlines",
        architecture="x86_64",
        cpus=CPUs(4, 2, 2, 1),
        memory=4 * GIB,
        guest="debian12",
        controllers=(Controller("scsi", 0, "pvscsi"),),
        drives=(Drive("disk", "scsi", 0, 0, "d.vmdk", "file", "vmdk", 8 * GIB, 1),),
        networks=(Network("vmxnet3", "00:50:56:00:00:01", "network", "VM Network"),),
    )
    assert ovf.write(machine).losses == ()


def test_what_the_guest_drives_instead_is_told() -> None:
    machine = Machine(
        name="kvm", drives=(Drive(bus="virtio", path="d.qcow2", format="qcow2"),),
        networks=(Network("virtio", kind="nat"),),
    )  # fmt: skip
    said = {loss.key: loss.instead for loss in ovf.write(machine).losses}
    assert said["drives[0].bus"] == "sata"
    assert said["networks[0].model"] == "e1000"
    assert said["cpus.count"] == 1


def test_a_package_says_which_disk_is_whose() -> None:
    files = [ovf.File("f1", "a.vmdk", 111), ovf.File("f2", "b.vmdk", 222, compression="gzip")]
    uri = ovf.format_uri("vmdk")
    disks = [
        ovf.OvfDisk("x", "f2", 2 * GIB, uri, populated=5),
        ovf.OvfDisk("y", "f1", GIB, uri),
        ovf.OvfDisk("z", "", 3 * GIB, uri),
    ]
    machine = replace(SMALL, drives=(
        Drive(bus="sata", slot=0, path="a.vmdk"), Drive(bus="sata", slot=1, path="elsewhere"),
        Drive(bus="sata", slot=2),
    ))  # fmt: skip
    written = ovf.write_envelope(
        [machine], files, disks, places={(0, 1): "x", (0, 2): "z"},
        networks=[ovf.Network("lan", "the office")],
        products=[ovf.Product(product="P", vendor="V", properties=(ovf.Property("k", value="v"),))],
        eulas=["Read me"],
    )  # fmt: skip
    assert ovf_faults(written.data) == []
    found = ovf.envelope(written.data, "p.ovf")
    assert found.files == tuple(files)
    assert found.disks == tuple(disks)
    assert found.places == {(0, 0): "y", (0, 1): "x", (0, 2): "z"}
    assert found.networks == (ovf.Network("lan", "the office"),)
    assert (found.eulas, found.products[0].vendor) == (("Read me",), "V")
    assert [drive.size for drive in found.machines[0].drives] == [GIB, 2 * GIB, 3 * GIB]


def test_losses_of_several_machines_say_whose_they_are() -> None:
    written = ovf.write_envelope([SMALL, replace(SMALL, name="other")], collection="both")
    assert ovf.envelope(written.data, "b.ovf").collection == "both"
    assert any(loss.key == "machines[1].cpus.count" for loss in written.losses)


def test_two_machines_of_one_name_have_ids_of_their_own() -> None:
    found = ovf.envelope(ovf.write_all([SMALL, SMALL]).data, "b.ovf")
    assert found.system_ids == ("small", "small-2")


def test_versions_that_are_not_written_are_refused() -> None:
    with pytest.raises(OptionError, match="OVF 2\\.0 is not written"):
        ovf.write_envelope([SMALL], version="2.0")
    with pytest.raises(OptionError, match="at least one machine"):
        ovf.write_envelope([])


@pytest.mark.peer("dissect.hypervisor")
def test_dissect_finds_the_disks_that_we_write() -> None:
    from dissect.hypervisor.descriptor.ovf import OVF

    # It stumbles over disks without a file.
    machine = replace(RICH, drives=tuple(each for each in RICH.drives if each.source == "file"))
    found = list(OVF(io.StringIO(ovf.write(machine).data.decode())).disks())
    assert found == ["old%20disk.vmdk", "data%20&%20more.raw", "/images/system.qcow2",
                     "fast.qcow2"]  # fmt: skip


# Strangers.


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'ovf:capacity="8"', b'ovf:capacity="-1"', "the capacity of disk 'vmdisk1' is -1"),
        (b'ovf:capacity="8"', b'ovf:capacity="9e9"', "the capacity of disk 'vmdisk1' is no number"),
        (b'ovf:capacity="8"', b'ovf:capacity="9223372036854775807"', "the capacity"),
        (b'Units="GB"', b'Units="byte * 2^99"', "too large"),
        (b'Units="GB"', b'Units="furlong"', "no unit of bytes: 'furlong'"),
        (b'ovf:size="999"', b'ovf:size="-5"', "the size of file 'file1' is -5"),
        (b'ovf:size="999"', b'ovf:size="999999" ovf:chunkSize="1"', "more than 10000 chunks"),
        (b'ovf:id="file1"', b"", "no id or no href"),
        (b"<References>", b'<References><File ovf:id="file1" ovf:href="x"/>', "two files have"),
        (b"Quantity>1024<", b"Quantity>-4<", "the memory is -4"),
        (b"Quantity>1024<", b"Quantity>99999999999999<", "the memory is"),
        (b"Type>3<", b"Type>three<", "the ResourceType of item"),
        (b"envelope/1", b"envelope/7", "an envelope of an unknown kind"),
        (b"<Envelope", b"<!DOCTYPE x><Envelope", "document type"),
        (b'ovf:id="36"', b'ovf:id="many"', "the id of the guest system is no number"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_in_one_line(
    old: bytes, new: bytes, words: str
) -> None:
    data = ovf_makers.aws()
    assert old in data
    with pytest.raises(FormatError, match=words) as caught:
        ovf.envelope(data.replace(old, new), "bad.ovf")
    assert "\n" not in str(caught.value)


def test_too_many_items_files_and_disks_are_refused() -> None:
    data = ovf_makers.aws()
    item = b"<Item><rasd:InstanceID>9</rasd:InstanceID></Item>"
    with pytest.raises(FormatError, match="more than 2000 items"):
        ovf.read(data.replace(b"</VirtualHardwareS", item * 2001 + b"</VirtualHardwareS", 1), "x")
    files = b"".join(b'<File ovf:id="%d" ovf:href="a"/>' % number for number in range(2001))
    with pytest.raises(FormatError, match="more than 2000 files"):
        ovf.read(data.replace(b"</References>", files + b"</References>"), "x")


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_a_descriptor_that_was_tampered_with_is_read_or_refused(data: st.DataObject) -> None:
    text = bytearray(data.draw(st.sampled_from([make() for make in MAKERS])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=4))
    try:
        found = ovf.envelope(bytes(text), "fuzzed")
        for machine in found.machines:
            ovf.write(machine)
    except VmimgError as error:
        assert "\n" not in str(error)
