"""Hyper-V's .xml (Windows Server 2008 to 2012 R2) and .exp (2008) are read."""

from __future__ import annotations

from pathlib import Path

import pytest

import hyperv_by_hand as by_hand
from vmimg.errors import FormatError
from vmimg.machines.model import Controller, Drive, Firmware, Machine, Network, Serial
from vmimg.machines.reading import read_machines
from vmimg.machines.registry import DIALECTS

_GUID = "353B3BE8-310C-4CF4-839E-4E1B14616136"


def _read(data: bytes) -> Machine:
    return DIALECTS["hyperv-xml"].read(data, "machine.xml")[0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
def test_a_machine_of_generation_1_is_read(encoding: str) -> None:
    machine = _read(by_hand.xml(by_hand.generation1(), encoding))
    assert machine.name == "web"
    assert machine.description == "serves <pages> & more"
    assert machine.uuid == "7ffee066-9755-4950-9a16-4c94ac67ad00"
    assert machine.firmware == Firmware("bios")
    assert machine.cpus.count == 2
    assert machine.memory == 1536 << 20
    assert machine.drives == (
        Drive("disk", "ide", 0, 0, r"C:\VMs\web\Virtual Hard Disks\web.vhd", format="vhd", boot=2),
        Drive("cdrom", "ide", 1, 0, boot=1),
        Drive("floppy", "floppy", 0, 0, boot=4),
    )
    assert machine.networks == (
        Network("netvsc", "00:15:5d:01:07:dc", "network", "Virtual External Switch", True, 3),
    )
    assert machine.serials == (Serial("pipe", "\\\\.\\pipe\\console"),)
    assert machine.display is not None and machine.display.model == "synthvid"
    assert Controller("scsi", 0) in machine.controllers


def test_disks_on_scsi_hang_on_the_controller_that_the_manifest_numbers() -> None:
    drives = {"controller0": {"drive7": {"pathname": "D:\\data.vhdx", "type": "VHD"}}}
    machine = _read(by_hand.xml(by_hand.generation1(scsi=drives)))
    assert Drive("disk", "scsi", 0, 7, "D:\\data.vhdx", format="vhdx") in machine.drives


def test_what_the_model_has_no_word_for_is_kept_and_what_hyperv_counts_is_not() -> None:
    tree = by_hand.generation1()
    tree["global_settings"]["power"]["host_startup"]["action"] = 2
    kept = dict(_read(by_hand.xml(tree)).extras["hyperv-xml"])
    # And what every machine has is not kept.
    assert kept == {
        "global_settings/power/host_startup/action": "2",
        f"_{by_hand.BIOS}_/num_lock": "True",
    }


def test_the_dialect_is_found_by_the_content(tmp_path: Path) -> None:
    path = tmp_path / "0AA394FA.xml"
    path.write_bytes(by_hand.xml(by_hand.generation1()))
    found = read_machines(path)
    assert (found.dialect.name, found.machines[0].name) == ("hyperv-xml", "web")


def test_numbers_that_are_none_are_refused() -> None:
    for old, new in (("1536", "much"), ("1536", "-1"), ("1536", "9" * 25)):
        text = by_hand.xml(by_hand.generation1(), "utf-8").decode().replace(old, new)
        with pytest.raises(FormatError, match="settings/memory/bank/size"):
            _read(text.encode())


def test_a_configuration_of_something_else_is_refused() -> None:
    with pytest.raises(FormatError, match="no configuration of a machine"):
        _read(b"<configuration><appSettings><add key='a'/></appSettings></configuration>")
    with pytest.raises(FormatError, match="document type"):
        _read(b"<!DOCTYPE configuration [<!ENTITY a 'b'>]><configuration/>")


def test_the_exp_of_windows_server_2008_is_read(tmp_path: Path) -> None:
    path = tmp_path / f"{_GUID}.exp"
    path.write_bytes(by_hand.exp(_GUID))
    machine = read_machines(path).machines[0]
    assert (machine.name, machine.description) == ("old server", "from 2008")
    assert (machine.cpus.count, machine.memory) == (2, 1 << 30)
    assert machine.drives == (Drive("disk", "ide", 1, 1, "E:\\VMs\\old.vhd", format="vhd"),)
    assert machine.networks == (Network("netvsc", "00:15:5d:01:02:03"),)


def test_an_exp_without_a_machine_is_refused() -> None:
    with pytest.raises(FormatError, match="describes no machine"):
        DIALECTS["hyperv-exp"].read(b"<DECLARATIONS><DECLGROUP/></DECLARATIONS>", "a.exp")


def test_a_description_that_would_take_all_memory_is_refused() -> None:
    drives = {f"drive{at}": {"type": "VHD", "pathname": "a.vhd"} for at in range(600)}
    tree = by_hand.generation1(scsi={"controller0": drives, "controller1": drives})
    with pytest.raises(FormatError, match="drives, more than 1024"):
        _read(by_hand.xml(tree, "utf-8"))
    tags = [f"t{at}" + "x" * 20_000 for at in range(100)]
    deep = "".join(f"<{tag}>" for tag in tags) + "<a>1</a>" * 5000
    deep += "".join(f"</{tag}>" for tag in reversed(tags))
    with pytest.raises(FormatError, match="names of its elements are too long"):
        _read(f"<configuration>{deep}</configuration>".encode())
