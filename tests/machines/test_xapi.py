"""ova.xml of XenServer: read as its hosts export it, and by Python's own XML-RPC as well.

The export written out here has the objects and fields that xen-api's export.ml puts into one.
"""

from __future__ import annotations

import xmlrpc.client
from dataclasses import replace
from typing import Any

import pytest

from machine_samples import RICH, SMALL
from vmimg.errors import FormatError
from vmimg.machines.dialects import xapi
from vmimg.machines.losses import without
from vmimg.machines.model import CPUs, Display, Drive, Firmware, Machine, Network

_VM: dict[str, Any] = {
    "uuid": "3f2d1c0b-aaaa-4bbb-8ccc-0123456789ab", "name_label": "web <1>",
    "name_description": "two\nlines", "is_a_template": False, "is_control_domain": False,
    "is_a_snapshot": False, "memory_static_max": "2147483648", "VCPUs_max": "4",
    "VBDs": ["Ref:4", "Ref:6", "Ref:9"], "VIFs": ["Ref:1"], "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"order": "cdn", "firmware": "uefi"}, "parent": "Ref:20",
    "platform": {"acpi": "true", "apic": "true", "nx": "true", "pae": "true", "viridian": "true",
                 "cores-per-socket": "2", "secureboot": "true", "vga": "std", "videoram": "8"},
    "other_config": {"base_template_name": "Debian 12"}, "domain_type": "hvm", "domid": "7",
    "power_state": "Running", "resident_on": "OpaqueRef:1234", "tags": ["prod"],
    "HVM_shadow_multiplier": 1.0,
}  # fmt: skip
_SNAPSHOT = {
    **_VM, "uuid": "aaaaaaaa-0000-4000-8000-000000000001", "is_a_snapshot": True,
    "snapshot_of": "Ref:0", "name_label": "before", "name_description": "", "VBDs": ["Ref:21"],
    "VIFs": [], "parent": "OpaqueRef:NULL",
    "snapshot_time": xmlrpc.client.DateTime("20240501T12:00:00Z"),
}  # fmt: skip
OBJECTS: list[tuple[str, str, dict[str, Any]]] = [
    ("VM", "Ref:0", _VM),
    ("VIF", "Ref:1", {"MAC": "AA:BB:CC:00:11:22", "network": "Ref:2", "device": "0",
                      "MTU": "9000"}),
    ("network", "Ref:2", {"name_label": "LAN", "bridge": "xenbr0"}),
    ("VBD", "Ref:6", {"VDI": "Ref:7", "userdevice": "1", "mode": "RO", "type": "Disk"}),
    ("VBD", "Ref:4", {"VDI": "Ref:5", "userdevice": "0", "mode": "RW", "type": "Disk"}),
    ("VDI", "Ref:5", {"virtual_size": "10737418240", "name_label": "root"}),
    ("VDI", "Ref:7", {"virtual_size": "1048576", "name_label": "data"}),
    ("VBD", "Ref:9", {"VDI": "OpaqueRef:NULL", "userdevice": "3", "mode": "RO", "type": "CD",
                      "empty": True}),
    ("VM", "Ref:20", _SNAPSHOT),
    ("VBD", "Ref:21", {"VDI": "Ref:22", "userdevice": "0", "mode": "RW", "type": "Disk"}),
    ("VDI", "Ref:22", {"virtual_size": "10737418240", "name_label": "root then"}),
    ("VM", "Ref:30", {**_VM, "is_control_domain": True}),
]  # fmt: skip


def export(objects: list[tuple[str, str, dict[str, Any]]]) -> bytes:
    """As xapi writes it: a bare <value>, which Python's marshaller makes."""
    listed = [{"class": kind, "id": ref, "snapshot": record} for kind, ref, record in objects]
    document = {"version": {"export_vsn": "2"}, "objects": listed}
    text = xmlrpc.client.dumps((document,), encoding="UTF-8", allow_none=True)
    start, end = text.index("<param>\n") + 8, text.rindex("</param>")
    return text[start:end].encode()


def _by_python(data: bytes) -> dict[str, Any]:
    """What Python's XML-RPC reads in an ova.xml."""
    text = data.decode().partition("?>")[2]
    wrapped = f"<methodResponse><params><param>{text}</param></params></methodResponse>"
    ((document,), _) = xmlrpc.client.loads(wrapped)
    assert isinstance(document, dict)
    return document


def _read(data: bytes) -> Machine:
    (machine,) = xapi.read(data, "ova.xml")
    return machine


def test_an_export_is_read_with_all_that_the_model_has() -> None:
    machine = _read(export(OBJECTS))
    assert (machine.name, machine.description) == ("web <1>", "two\nlines")
    assert machine.uuid == "3f2d1c0b-aaaa-4bbb-8ccc-0123456789ab"
    assert (machine.chipset, machine.firmware) == ("i440fx", Firmware("uefi", True))
    assert (machine.cpus, machine.memory) == (CPUs(4, 2, 2, 1), 2 << 30)
    assert machine.display == Display("vga", 8 << 20)
    assert machine.networks == (Network("xen", "aa:bb:cc:00:11:22", "network", "LAN", True, 3),)
    assert machine.drives == (
        Drive("disk", "xen", 0, 0, "Ref:5", "file", "raw", 10 << 30, 1),
        Drive("disk", "xen", 0, 1, "Ref:7", "file", "raw", 1 << 20, 0, True),
        Drive("cdrom", "xen", 0, 3, boot=2),
    )


def test_a_snapshot_is_one_of_its_machine_and_dom0_is_none() -> None:
    machine = _read(export(OBJECTS))
    (snapshot,) = machine.snapshots
    assert (snapshot.name, snapshot.created, snapshot.current) == (
        "before", "2024-05-01T12:00:00Z", True,
    )  # fmt: skip
    assert [drive.path for drive in snapshot.drives] == ["Ref:22"]


def test_what_the_model_has_no_word_for_is_written_back() -> None:
    machine = _read(export(OBJECTS))
    kept = dict(machine.extras["xapi"])
    assert kept["VM.platform.viridian"] == "<value>true</value>"
    assert "VIF[0].MTU" in kept and not any("resident_on" in key for key in kept)
    written = xapi.write(machine)
    assert not [loss for loss in written.losses if loss.key.startswith("extras")]
    assert _read(written.data) == without(machine, written.losses)
    vm = _by_python(written.data)["objects"][0]["snapshot"]
    assert vm["platform"]["viridian"] == "true"
    assert vm["other_config"] == {"base_template_name": "Debian 12"}
    assert vm["tags"] == ["prod"]


def test_what_is_written_is_whole_for_another_reader() -> None:
    document = _by_python(xapi.write(RICH).data)
    assert document["version"]["export_vsn"] == "2"
    records = {each["id"]: each for each in document["objects"]}
    assert len(records) == len(document["objects"])
    vm = records["Ref:0"]["snapshot"]
    assert vm["name_label"] == RICH.name and vm["is_a_snapshot"] is False
    disks = 0
    for ref in vm["VBDs"]:
        vbd = records[ref]
        assert vbd["class"] == "VBD" and vbd["snapshot"]["VM"] == "Ref:0"
        if not vbd["snapshot"]["empty"]:
            vdi = records[vbd["snapshot"]["VDI"]]
            assert vdi["class"] == "VDI" and vdi["snapshot"]["VBDs"] == [ref]
            assert records[vdi["snapshot"]["SR"]]["class"] == "SR"
            disks += vbd["snapshot"]["type"] == "Disk"
    assert disks == 5
    for ref in vm["VIFs"]:
        assert records[records[ref]["snapshot"]["network"]]["class"] == "network"


def test_where_the_data_of_a_disk_belong_is_in_its_path() -> None:
    written = xapi.write(RICH)
    places = {loss.key: loss.instead for loss in written.losses if loss.key.endswith(".path")}
    found = _read(written.data).drives
    disks = [drive.path for drive in found if drive.device == "disk"]
    assert set(disks) <= set(places.values()) and len(set(disks)) == 5
    assert all(path.startswith("Ref:") for path in disks)
    assert [drive.size for drive in found if drive.device == "disk"] == [
        drive.size for drive in RICH.drives if drive.device == "disk"
    ]


def test_an_appliance_of_xenserver_4_is_read() -> None:
    machine = _read(
        b'<appliance version="0.1"><vm name="vm"><label>Old &amp; good</label><shortdesc>from 2006'
        b'</shortdesc><config mem_set="268435456" vcpus="2"/><hacks is_hvm="false" '
        b'kernel_boot_cmdline="root=/dev/sda1 ro "/><vbd device="sdb" function="data" mode="ro" '
        b'vdi="vdi_b"/><vbd device="sda" function="root" mode="w" vdi="vdi_a"/></vm>'
        b'<vdi name="vdi_a" size="5368709120" source="file://sda" type="dir-gzipped-chunks"/>'
        b'<vdi name="vdi_b" size="1048576" source="file://sdb" type="dir-gzipped-chunks"/>'
        b"</appliance>"
    )
    assert (machine.name, machine.description, machine.chipset) == (
        "Old & good", "from 2006", "xenpv",
    )  # fmt: skip
    assert (machine.memory, machine.cpus) == (256 << 20, CPUs(2))
    assert machine.drives == (
        Drive("disk", "xen", 0, 1, "sdb", "file", "raw", 1 << 20, 0, True),
        Drive("disk", "xen", 0, 0, "sda", "file", "raw", 5 << 30, 1),
    )
    back = xapi.write(machine)
    assert b"root=/dev/sda1 ro" in back.data


def test_an_export_of_several_machines_gives_each() -> None:
    second = ("VM", "Ref:40", {**_VM, "name_label": "db", "VBDs": [], "VIFs": []})
    found = xapi.read(export([*OBJECTS, second]), "ova.xml")
    assert [machine.name for machine in found] == ["web <1>", "db"]


def test_what_xenserver_cannot_say_has_plain_reasons() -> None:
    reasons = {loss.key: loss.reason for loss in xapi.write(RICH).losses}
    assert reasons["drives[7]"] == "XenServer has no floppy drives"
    assert reasons["firmware.tpm"] == "the state of a TPM is not exported"
    assert reasons["sound[0]"] == "XenServer has no sound"
    user = replace(SMALL, networks=(Network("virtio", kind="user"),))
    assert {loss.key for loss in xapi.write(user).losses} >= {
        "networks[0].model", "networks[0].kind", "networks[0].network",
    }  # fmt: skip


_HOSTILE = {
    "another-root": b"<methodCall/>",
    "no-objects": b"<value><struct/></value>",
    "a-string": b"<value>Ref:0</value>",
    "no-machine": export([("VDI", "Ref:1", {"virtual_size": "1"})]),
    "object-without-record": b"<value><struct><member><name>objects</name><value><array><data>"
    b"<value>x</value></data></array></value></member></struct></value>",
    "memory": export([("VM", "Ref:0", {**_VM, "memory_static_max": "much"})]),
    "size": export([*OBJECTS[:5], ("VDI", "Ref:5", {"virtual_size": "9" * 40})]),
    "slot": export([*OBJECTS[:4], ("VBD", "Ref:4", {"VDI": "Ref:5", "userdevice": "999"})]),
    "processors": export([("VM", "Ref:0", {**_VM, "VCPUs_max": "-4"})]),
    "deep": b"<value><array><data>" * 300,
    "unknown-type": b"<value><pickle>x</pickle></value>",
    "entities": b'<!DOCTYPE a [<!ENTITY b "c">]><value>&b;</value>',
    "empty-appliance": b'<appliance version="0.1"/>',
    "old-size": b'<appliance><vm/><vdi name="a" size="x"/></appliance>',
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_an_export_that_breaks_the_rules_is_one_clear_line(name: str) -> None:
    with pytest.raises(FormatError) as raised:
        xapi.read(_HOSTILE[name], "evil.xml")
    assert str(raised.value).startswith("evil.xml: ") and "\n" not in str(raised.value)


def test_references_that_lead_round_or_nowhere_are_harmless() -> None:
    vm = {**_VM, "VBDs": ["Ref:0", "Ref:99", "Ref:4"], "VIFs": ["Ref:4"], "parent": "Ref:0"}
    machine = _read(
        export([("VM", "Ref:0", vm), ("VBD", "Ref:4", {"VDI": "Ref:0", "VM": "Ref:4"})])
    )
    assert len(machine.drives) == 1 and machine.drives[0].size == 0


def test_what_xml_cannot_hold_is_told_and_breaks_nothing() -> None:
    machine = replace(
        SMALL,
        name="web",
        uuid="8c6a\0e9b3",
        drives=(Drive("cdrom", "xen", 0, 3, "in\x1cstall.iso"),),
        networks=(Network("xen", "aa\x01", "bridge", "br\x1c0"),),
    )
    written = xapi.write(machine)
    lost = {loss.key for loss in written.losses}
    assert {"uuid", "drives[0].path", "networks[0].mac", "networks[0].network"} <= lost
    assert xapi.read(written.data, "web") == (without(machine, written.losses),)
