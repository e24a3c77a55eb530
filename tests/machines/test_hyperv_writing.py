"""Hyper-V's .xml is written as Windows Server 2012 R2 writes it, and kept what only it says."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from typing import Any

import pytest
from lxml import etree

import hyperv_by_hand as by_hand
from machine_samples import MIB, RICH, SMALL
from vmimg.machines.losses import without
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network, Serial
from vmimg.machines.registry import DIALECTS
from vmimg.probe.detecting import detect_storage
from vmimg.storage.memory import MemoryStorage

_DIALECT = DIALECTS["hyperv-xml"]
_WEB = Machine(
    name="web",
    uuid="7ffee066-9755-4950-9a16-4c94ac67ad00",
    architecture="x86_64",
    firmware=Firmware("bios"),
    cpus=CPUs(2),
    memory=1536 * MIB,
    drives=(Drive(bus="ide", path="D:\\web\\a.vhdx", format="vhdx"), Drive("cdrom", "ide", 1, 0)),
    networks=(Network("netvsc", "52:54:00:12:34:56", "network", "LAN"),),
)


def _tree(machine: Machine) -> etree._Element:
    return etree.fromstring(_DIALECT.write(machine).data)


def _lost(machine: Machine) -> dict[str, Any]:
    return {loss.key: loss.instead for loss in _DIALECT.write(machine).losses}


def _back(machine: Machine) -> Machine:
    return _DIALECT.read(_DIALECT.write(machine).data, "again")[0]


def _at(machine: Machine, path: str) -> str | None:
    return _tree(machine).xpath(f"string({path})") or None


def test_the_file_is_utf_16_with_a_mark_and_lines_of_windows() -> None:
    data = _DIALECT.write(RICH).data
    assert data.startswith(b"\xff\xfe<\0?\0x\0m\0l\0")
    text = data.decode("utf-16")
    assert text.count("\n") == text.count("\r\n") > 100
    assert text.startswith('<?xml version="1.0" encoding="UTF-16" standalone="yes"?>\r\n<config')


def test_every_leaf_has_a_type_that_its_text_is_of() -> None:
    for leaf in _tree(RICH).iter():
        if len(leaf):
            assert not leaf.attrib
            continue
        kind, text = leaf.get("type"), leaf.text or ""
        if kind == "integer":
            int(text)
        elif kind == "bool":
            assert text in ("True", "False")
        elif kind == "bytes":
            assert base64.b64decode(text, validate=True)
        else:
            assert kind == "string", leaf.tag


def test_elements_stand_in_the_order_of_their_names_as_hyper_v_has_them() -> None:
    for element in _tree(RICH).iter():
        names = [child.tag for child in element]
        assert names == sorted(names)


def test_what_is_written_is_detected_with_its_name_and_version() -> None:
    data = _DIALECT.write(RICH).data
    best = detect_storage(MemoryStorage(data, "x.xml")).best
    assert best.name == "hyperv-xml"
    assert best.details["machine"] == RICH.name
    assert best.details["version"] == "1280"


def test_the_manifest_counts_its_devices_and_every_instance_is_its_own() -> None:
    devices = _tree(RICH).xpath("manifest/*[starts-with(name(), 'vdev')]")
    assert _at(RICH, "manifest/size") == str(len(devices))
    instances = [device.findtext("instance") for device in devices]
    assert len(set(instances)) == len(instances)
    names = [device.findtext("name") for device in devices]
    assert names.count("Synthetic Ethernet Port") == len(RICH.networks)
    assert "Synthetic SCSI Controller" in names


def test_a_machine_of_generation_1_says_all_that_hyper_v_has() -> None:
    assert _lost(_WEB) == {
        # Hyper-V has an order of all kinds of devices, and one card for the screen.
        "drives[0].boot": 1, "drives[1].boot": 2, "networks[0].boot": 3,
        "display": _back(_WEB).display, "controllers": _back(_WEB).controllers,
    }  # fmt: skip
    assert _at(_WEB, "properties/subtype") == "0"
    assert _at(_WEB, "settings/processors/count") == "2"
    assert _at(_WEB, "settings/memory/bank/size") == "1536"
    assert _at(_WEB, "*/bios_guid") == "{7FFEE066-9755-4950-9A16-4C94AC67AD00}"
    assert _at(_WEB, "*/MacAddress") == "52-54-00-12-34-56"
    assert _at(_WEB, "*/Connection/AltSwitchName") == "LAN"


def test_a_machine_of_generation_2_has_its_disks_on_scsi_and_no_floppy() -> None:
    drives = (
        Drive("cdrom", "ide", 0, 0, "a.iso"),
        Drive("disk", "sata", 0, 0, "a.vhdx", boot=1),
        Drive("floppy", "floppy", 0, 0, "a.vfd"),
    )
    machine = replace(_WEB, firmware=Firmware("uefi", True), drives=drives)
    found = _back(machine)
    assert found.firmware == Firmware("uefi", True)
    assert [(each.bus, each.device, each.path) for each in found.drives] == [
        ("scsi", "cdrom", "a.iso"), ("scsi", "disk", "a.vhdx"),
    ]  # fmt: skip
    assert _at(machine, "properties/subtype") == "1"
    assert not _tree(machine).xpath("_83f8638b-8dca-4152-9eda-2ca8b33039b4_")


@pytest.mark.parametrize("kind", ["bios", "uefi"])
def test_drives_that_move_keep_their_order(kind: Any) -> None:
    drives = (
        Drive("cdrom", "sata", 0, 0, "a.iso"), Drive("disk", "sata", 0, 1, "root.vhdx"),
        Drive("cdrom", "sata", 0, 2, "b.iso"), Drive("disk", "sata", 0, 3, "data.vhdx"),
    )  # fmt: skip
    machine = replace(_WEB, firmware=Firmware(kind), drives=drives)
    assert [each.path for each in _back(machine).drives] == [each.path for each in drives]
    assert "drives" not in _lost(machine)


@pytest.mark.parametrize("bus", ["scsi", "sata", "virtio", ""])
def test_the_disk_that_a_bios_boots_comes_on_ide(bus: Any) -> None:
    drives = (Drive(bus=bus, path="data.vhdx"), Drive(bus=bus, slot=1, path="root.vhdx", boot=1))
    found = _back(replace(_WEB, drives=drives)).drives
    assert (found[0].bus, found[0].path, found[0].boot) == ("ide", "root.vhdx", 1)
    assert {each.path for each in found} == {"data.vhdx", "root.vhdx"}


def test_disks_for_which_ide_has_no_room_go_to_scsi() -> None:
    disks = tuple(Drive(bus="sata", slot=at, path=f"{at}.vhdx") for at in range(6))
    machine = replace(_WEB, drives=(*disks, Drive("cdrom", "sata", 0, 6, "a.iso")))
    found = _back(machine).drives
    assert {each.path for each in found} == {each.path for each in machine.drives}
    assert [each.bus for each in found] == ["ide"] * 4 + ["scsi"] * 3
    assert next(each for each in found if each.device == "cdrom").bus == "ide"


def test_what_windows_server_2012_r2_has_not_is_told() -> None:
    machine = replace(
        RICH, cpus=CPUs(96), memory=1000 * MIB + 1, firmware=Firmware("uefi", True, "2.0")
    )
    lost = _lost(machine)
    assert lost["cpus.count"] == 64
    assert lost["memory"] == 1002 * MIB
    assert lost["firmware.tpm"] is None
    assert "snapshots[0]" in lost and "sound[0]" in lost


def test_two_ports_are_named_pipes_and_others_are_told() -> None:
    pipes = tuple(Serial("pipe", f"\\\\.\\pipe\\{at}") for at in range(3))
    machine = replace(_WEB, serials=(pipes[0], Serial("pty"), *pipes[1:]))
    assert _back(machine).serials == pipes[:2]
    assert {"serials[1]", "serials[3]"} <= _lost(machine).keys()


def test_a_card_without_a_switch_is_on_none_and_keeps_its_address() -> None:
    machine = replace(_WEB, networks=(Network("netvsc", "52:54:00:12:34:56", "nat"),))
    assert _back(machine).networks == (
        Network("netvsc", "52:54:00:12:34:56", "none", "", False, 3),
    )
    assert _at(machine, "*/IsConnected") == "False"
    unset = replace(_WEB, networks=(Network("netvsc", "", "network", "LAN"),))
    assert _at(unset, "*/MacAddressIsStatic") == "False"
    assert _back(unset).networks[0].mac == ""


def test_machines_have_identifiers_made_of_what_they_are() -> None:
    first, second = replace(_WEB, uuid=""), replace(_WEB, uuid="", name="db")
    assert _DIALECT.write(first) == _DIALECT.write(first)
    ids = {_at(each, "properties/global_id") for each in (_WEB, first, second)}
    assert len(ids) == 3
    # What Hyper-V calls the machine is not what its guest sees.
    assert _WEB.uuid.upper() not in ids


def test_a_machine_of_hyper_v_comes_back_as_it_was() -> None:
    switched = {"bank": {"dynamic_memory_enabled": True, "limit": 8192, "size": 1536}}
    tree = by_hand.generation1(
        scsi={"controller0": {"drive7": {"pathname": "D:\\b.vhdx", "type": "VHD", "weight": 50}}}
    )
    tree["settings"]["memory"] = switched
    card = next(tree[key] for key in tree if "55225880" in key)
    card |= {"AllowPacketDirect": True, "Blob": b"\x01\x02", "Label": "17"}
    (machine,) = _DIALECT.read(by_hand.xml(tree), "first")
    written = _DIALECT.write(machine)
    assert not written.losses
    assert _DIALECT.read(written.data, "second") == (machine,)
    text = written.data.decode("utf-16")
    for kept in (
        '<dynamic_memory_enabled type="bool">True</dynamic_memory_enabled>',
        '<limit type="integer">8192</limit>',
        '<weight type="integer">50</weight>',
        '<AllowPacketDirect type="bool">True</AllowPacketDirect>',
        '<Blob type="bytes">AQI=</Blob>',
        '<Label type="string">17</Label>',
    ):
        assert kept in text, kept
    # They lie with the card and the controller that are written, which have other identifiers.
    new = etree.fromstring(written.data)
    assert new.xpath("*[AllowPacketDirect and MacAddress]/Blob")
    assert new.xpath("*[ChannelInstanceGuid]/controller0/drive7[weight='50']")


def test_a_device_that_no_machine_of_ours_has_stays_in_the_manifest() -> None:
    tree = by_hand.generation1()
    instance = "0ABCDEF0-1111-4222-8333-444455556666"
    tree["manifest"]["vdev004"] = {
        "device": "4d46d139-7821-4dc4-98a3-01e98a586a44", "flags": 1, "instance": instance,
        "name": "Some Device of Theirs",
    }  # fmt: skip
    tree[f"_{instance.lower()}_"] = {"Mode": "fast"}
    (machine,) = _DIALECT.read(by_hand.xml(tree), "first")
    assert _DIALECT.write(machine).losses == ()
    new = _tree(machine)
    assert new.xpath(f"manifest/*[instance='{instance}']/name")[0].text == "Some Device of Theirs"
    assert new.findtext(f"_{instance.lower()}_/Mode") == "fast"


@pytest.mark.parametrize(
    "extra",
    [
        ("properties/name", "another"),
        ("settings/processors/count", "9"),
        ("properties", "no room"),
        ("settings/memory/bank/size/more", "1"),
        ("no name/x", "1"),
        ("network7/Mode", "1"),
        ("manifest/x", "y"),
        ("a/b", "control \x01"),
        ("", ""),
    ],
)
def test_what_would_make_another_machine_of_it_is_left_out_and_told(extra: Any) -> None:
    fine = ("settings/memory/bank/priority", "9000")
    machine = replace(_WEB, extras={"hyperv-xml": (extra, fine)})
    written = _DIALECT.write(machine)
    assert "extras.hyperv-xml[0]" in {loss.key for loss in written.losses}
    (found,) = _DIALECT.read(written.data, "again")
    assert found == without(machine, written.losses)
    assert found.extras == {"hyperv-xml": (fine,)}


def test_a_file_of_which_nothing_can_be_put_back_is_written_soon() -> None:
    odd = "".join(f'<é{at} type="string">x</é{at}>' for at in range(20_000))
    text = f"<configuration><properties><name>web</name></properties>{odd}</configuration>"
    (machine,) = _DIALECT.read(text.encode(), "odd")
    assert len(machine.extras["hyperv-xml"]) == 20_000
    begin = time.process_time()
    written = _DIALECT.write(machine)
    assert time.process_time() - begin < 20
    assert len([loss for loss in written.losses if loss.key.startswith("extras")]) == 20_000


def test_secure_boot_of_linux_names_whose_signatures_the_firmware_takes() -> None:
    linux = replace(_WEB, firmware=Firmware("uefi", True), guest="debian12")
    assert _at(linux, "*/secure_boot_template") == "MicrosoftUEFICertificateAuthority"
    for other in (replace(linux, guest="win2k22"), replace(linux, firmware=Firmware("uefi"))):
        assert _at(other, "*/secure_boot_template") is None


def test_what_vagrants_import_asks_for_is_there_once() -> None:
    """The queries of New-VagrantVMXML in plugins/providers/hyperv (VagrantVM.psm1)."""
    for machine in (_WEB, replace(_WEB, firmware=Firmware("uefi", True))):
        tree = _tree(machine)
        first = tree.xpath("//boot/device0")
        assert [each.text for each in first] == ["HardDrive"]
        assert len(tree.xpath("//memory")) == len(tree.xpath("//notes")) == 1
        said = str(machine.firmware.kind == "uefi")
        assert [each.text for each in tree.xpath("//secure_boot_enabled")] == [said]
        disks = [
            (drive.getparent().getparent().find("ChannelInstanceGuid") is not None,
             drive.getparent().tag)
            for drive in tree.xpath("//*[starts-with(name(.), 'controller')]/*[pathname != '']")
            if drive.findtext("type") == "VHD"
        ]  # fmt: skip
        assert disks == [(machine.firmware.kind == "uefi", "controller0")]


def test_a_machine_of_which_little_is_said_is_one_that_runs() -> None:
    found = _back(SMALL)
    assert (found.cpus.count, found.memory, found.firmware.kind) == (1, 512 * MIB, "bios")
    assert found.uuid and found.drives[0].bus == "ide"
