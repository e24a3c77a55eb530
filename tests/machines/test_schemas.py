"""What is written is what the schemas ask for, whatever it came from; and the tables that say so
find what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import ovf_makers
import pytest
from ovf_schema import ovf_faults
from vbox_schema import vbox_faults

from machine_samples import RICH, SMALL
from vmimg.machines import xml
from vmimg.machines.dialects import ovf, vbox
from vmimg.machines.losses import without
from vmimg.machines.model import CPUs, Drive, Machine

GIB = 1 << 30
MAKERS: list[Callable[[], bytes]] = [
    ovf_makers.vmware, ovf_makers.virtualbox, lambda: ovf_makers.virtualbox("2.0"),
    ovf_makers.ovirt, ovf_makers.aws, ovf_makers.xen, ovf_makers.vapp, ovf_makers.old,
]  # fmt: skip
NAMES = ["vmware", "virtualbox", "virtualbox-2.0", "ovirt", "aws", "xen", "vapp", "old"]


@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_machines_of_every_maker_are_written_as_the_schemas_want_them(
    make: Callable[[], bytes],
) -> None:
    found = ovf.read(make(), "theirs")
    assert ovf_faults(ovf.write_all(found).data) == []
    for machine in found:
        assert vbox_faults(vbox.write(machine).data) == []


def _obeys(machine: Machine) -> ovf.Envelope:
    written = ovf.write(machine)
    assert ovf_faults(written.data) == []
    found = ovf.envelope(written.data, "again")
    assert found.machines[0] == without(machine, written.losses)
    return found


def test_a_colon_in_the_name_of_a_file_makes_no_scheme_of_what_is_before_it() -> None:
    machine = replace(SMALL, drives=(Drive(bus="sata", path="disk:1.vmdk"),))
    found = _obeys(machine)
    assert found.files[0].href == "disk%3A1.vmdk"
    assert found.files[0].name == "disk:1.vmdk"


def test_a_section_of_before_the_standard_is_kept_in_its_words() -> None:
    text = ovf_makers.old().replace(
        b"<Info>A virtual machine</Info>",
        b"<Info>A virtual machine</Info>"
        b'<Section xsi:type="ovf:EulaSection_Type"><Info>e</Info><License>Pay</License></Section>',
    )
    machine = ovf.read(text, "old")[0]
    found = _obeys(machine)
    assert found.eulas == ("Pay",)
    (kept,) = (value for key, value in machine.extras["ovf"] if key == "VirtualSystem/EulaSection")
    assert xml.snippet(kept).tag == f"{{{ovf_makers.OVF}}}EulaSection"


@pytest.mark.parametrize("kind", ["ovf:a b_Type", "Item", "ovf:_Type", "", "ovf:{x}y_Type"])
def test_a_section_of_a_kind_that_is_no_name_is_listed_as_lost(kind: str) -> None:
    section = f'<Section xsi:type="{kind}"><Info>e</Info></Section>'.encode()
    text = ovf_makers.old().replace(
        b"<Info>A virtual machine</Info>", b"<Info>A virtual machine</Info>" + section
    )
    machine = ovf.read(text, "old")[0]
    assert any("extras.ovf" in loss.key for loss in ovf.write(machine).losses)
    _obeys(machine)


def test_items_of_2_0_are_kept_as_items_of_1_1() -> None:
    text = ovf_makers.virtualbox("2.0").replace(
        b"</VirtualHardwareSection>",
        b"<StorageItem><sasd:ResourceType>19</sasd:ResourceType><sasd:InstanceID>90"
        b"</sasd:InstanceID><sasd:Caption>extent</sasd:Caption></StorageItem>"
        b"</VirtualHardwareSection>",
    )
    machine = ovf.read(text, "two")[0]
    (kept,) = (value for key, value in machine.extras["ovf"] if key.endswith("/Item"))
    item = xml.snippet(kept)
    assert [xml.local(each) for each in item] == [
        "Caption", "ElementName", "InstanceID", "ResourceType",
    ]  # fmt: skip
    assert {xml.namespace(each) for each in item} == {
        f"{ovf_makers.CIM}/CIM_ResourceAllocationSettingData"
    }
    assert xml.text(item, "ElementName") == "extent"
    _obeys(machine)


def test_a_section_that_only_2_0_has_is_listed_as_lost() -> None:
    text = ovf_makers.virtualbox("2.0").replace(
        b"<vbox:Machine", b'<PlacementSection ovf:group="g"><Info>p</Info></PlacementSection>'
        b"<vbox:Machine", 1,
    )  # fmt: skip
    machine = ovf.read(text, "two")[0]
    assert any(key == "VirtualSystem/PlacementSection" for key, _ in machine.extras["ovf"])
    assert any("PlacementSection" in loss.value for loss in ovf.write(machine).losses)
    _obeys(machine)


def test_what_the_class_of_resources_does_not_have_is_listed_as_lost() -> None:
    text = ovf_makers.vmware().replace(
        b"<rasd:Address>0</rasd:Address>",
        b"<rasd:Address>0</rasd:Address><rasd:BusNumber>0</rasd:BusNumber>", 1,
    )  # fmt: skip
    machine = ovf.read(text, "web.ovf")[0]
    assert any("BusNumber" in loss.value for loss in ovf.write(machine).losses)
    _obeys(machine)


def test_what_is_kept_of_the_system_stands_in_the_order_of_the_alphabet() -> None:
    text = ovf_makers.vmware().replace(
        b"<vssd:VirtualSystemType>",
        b"<vssd:Notes>n</vssd:Notes><vssd:Caption>c</vssd:Caption><vssd:VirtualSystemType>",
    )
    machine = ovf.read(text, "web.ovf")[0]
    assert ovf.write(machine).losses == ()
    _obeys(machine)


def test_the_configurations_that_items_are_for_are_written_with_them() -> None:
    text = ovf_makers.aws().replace(
        b"<VirtualSystem ",
        b'<DeploymentOptionSection><Info>i</Info><Configuration id="big"><Label>B</Label>'
        b"<Description>b</Description></Configuration></DeploymentOptionSection><VirtualSystem ",
    )
    more = ovf_makers.item(
        InstanceID=2, ResourceType=4, AllocationUnits="byte * 2^30", VirtualQuantity=64,
        attributes=' ovf:configuration="large"',
    )  # fmt: skip
    text = text.replace(b"</Configuration>", b'</Configuration><Configuration id="large"><Label>L'
                        b"</Label><Description>l</Description></Configuration>")  # fmt: skip
    text = text.replace(b"</VirtualHardwareS", more.encode() + b"</VirtualHardwareS")
    found = _obeys(ovf.read(text, "options.ovf")[0])
    assert found.configuration == "big"


def test_the_settings_that_virtualbox_puts_into_an_ovf_become_settings_of_its_own() -> None:
    text = ovf_makers.virtualbox().replace(
        b"<Hardware>", b"<ovf:Info>the complete machine</ovf:Info><Hardware>"
    )
    machine = ovf.read(text, "box.ovf")[0]
    written = vbox.write(machine).data
    assert vbox_faults(written) == []
    root = xml.parse(written, "box.vbox")
    assert xml.find(root, "Machine", "Hardware", "HID") is not None
    assert xml.find(root, "Machine", "Info") is None


def test_virtualbox_has_64_processors_and_two_tebibytes_at_most() -> None:
    machine = replace(SMALL, cpus=CPUs(200), memory=4096 * GIB)
    written = vbox.write(machine)
    assert vbox_faults(written.data) == []
    instead = {loss.key: loss.instead for loss in written.losses}
    assert (instead["cpus.count"], instead["memory"]) == (64, 2048 * GIB)


# The tables themselves: each change is one that the schema forbids.

OURS = ovf.write(
    replace(
        ovf.read(ovf_makers.vmware(), "web.ovf")[0],
        drives=RICH.drives,
        networks=RICH.networks,
    )
).data.decode()
_INFO = "<Info>Virtual disks</Info>"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<References>", "<Info>i</Info><References>", "Envelope: holds Info References"),
        (_INFO, "", "DiskSection: holds Disk"),
        (_INFO, f"{_INFO}<Info>again</Info>", "DiskSection: holds Info Info"),
        (' ovf:id="file1"', "", "File: has no attribute id"),
        ('ovf:id="file1"', 'id="file1"', "File: has no attribute id"),
        ('href="old%20disk.vmdk"', 'href="C:old%20disk.vmdk"', "the attribute href"),
        ('href="old%20disk.vmdk"', 'href="old disk.vmdk"', "the attribute href"),
        ('ovf:capacity="', 'ovf:capacity="x', "the attribute capacity"),
        ('ovf:fileRef="', 'ovf:fileRef="no-', "Disk: there is no file no-file"),
        ('ovf:diskId="vmdisk2"', 'ovf:diskId="vmdisk1"', "two of one disk"),
        ("<Name>", "<Title>t</Title><Name>", "VirtualSystem: holds Info Title"),
        ("<Name>", "<vmw:Thing>t</vmw:Thing><Name>", "VirtualSystem: holds Info other"),
        ('ovf:id="96"', 'ovf:id="many"', "OperatingSystemSection: the attribute id"),
        ("<vssd:InstanceID>0</vssd:InstanceID>", "", "System: holds"),
        ("<rasd:InstanceID>1</rasd:InstanceID>", "", "Item: holds"),
        ("<rasd:ResourceType>3<", "<rasd:ResourceType>three<", "rasd:ResourceType: its text"),
        ("<rasd:ResourceType>3<", "<rasd:ResourceTyp>3<", "mismatched"),
        ("<rasd:VirtualQuantity>4<", "<rasd:VirtualQuantity>-4<", "rasd:VirtualQuantity: its"),
        ("<rasd:AutomaticAllocation>true<", "<rasd:AutomaticAllocation>yes<", "its text is 'yes'"),
        ("<rasd:InstanceID>2</", "<rasd:InstanceID>1</", "two items of one InstanceID"),
        ("<rasd:Parent>", "<rasd:Parent>9", "there is no parent"),
        ("ovf:/disk/vmdisk1", "ovf:/disk/vmdisk9", "there is no disk/vmdisk9"),
        ("<rasd:Connection>", "<rasd:Connection>x", "there is no network"),
        ('<vmw:Config ovf:required="false"', "<vmw:Config", "has to be understood"),
        ("</System>", "</System><vmw:Config/>", "VirtualHardwareSection: holds Info System other"),
        ("<License>", "<Text>", "mismatched"),
        ("envelope/1", "envelope/2", "the root is"),
        ("</Envelope>", "<Strings/><Strings/></Envelope>", ""),
    ],
)
def test_the_table_of_ovf_finds_what_the_schema_forbids(old: str, new: str, words: str) -> None:
    assert ovf_faults(OURS.encode()) == []
    assert old in OURS
    changed = OURS.replace(old, new) if old == "envelope/1" else OURS.replace(old, new, 1)
    try:
        found = "\n".join(ovf_faults(changed.encode()))
    except Exception as error:  # it is no XML any more
        found = str(error)
    assert words in found
    assert bool(found) == bool(words)


SETTINGS = vbox.write(
    replace(RICH, drives=tuple(each for each in RICH.drives if each.source == "file"))
).data.decode()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (' RAMSize="6144"', "", "Memory: has no attribute RAMSize"),
        ('RAMSize="6144"', 'RAMSize="3"', "the attribute RAMSize is '3'"),
        ('CPU count="8"', 'CPU count="65"', "the attribute count is '65'"),
        ("<CPU ", '<CPU count="1"/><CPU ', "CPU may not be there, or not 2 times"),
        ("<Boot>", "<Bot/><Boot>", "Hardware: Bot may not be there"),
        ('position="2"', 'position="1"', "Boot: two of one position"),
        ('device="HardDisk"', 'device="Disk"', "the attribute device is 'Disk'"),
        (' format="VMDK"', "", "HardDisk: has no attribute format"),
        (' type="Normal"', "", "HardDisk: has no attribute type"),
        ('cable="false"', 'kabel="false"', "the attribute kabel may not be there"),
        ('MACAddress="525', 'MACAddress="535', "the attribute MACAddress"),
        ('slot="1"', 'slot="0"', "two of one slot"),
        ('PortCount="', 'PortCount="many', "the attribute PortCount"),
        ('type="AHCI"', 'type="ahci"', "the attribute type is 'ahci'"),
        ('<AttachedDevice type="HardDisk"', '<AttachedDevice type="Disk"', "type is 'Disk'"),
        (' timeStamp="2024-05-01T12:00:00Z"', "", "Snapshot: has no attribute timeStamp"),
        ('hostMode="TCP"', 'hostMode="tcp"', "the attribute hostMode"),
        ("<DVDImages>", "<DVDImages><HardDisk/>", "DVDImages: holds HardDisk"),
        ('uuid="{4c4c4544-', 'uuid="4c4c4544-', "Machine: the attribute uuid"),
        ('currentSnapshot="{', 'currentSnapshot="{0', "the attribute currentSnapshot"),
        ("<Hardware>", '<Hardware xmlns="">', "is of the namespace ''"),
    ],
)
def test_the_table_of_virtualbox_finds_what_the_schema_forbids(
    old: str, new: str, words: str
) -> None:
    assert vbox_faults(SETTINGS.encode()) == []
    assert old in SETTINGS
    assert words in "\n".join(vbox_faults(SETTINGS.replace(old, new, 1).encode()))
