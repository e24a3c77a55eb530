"""Hyper-V's .vmcx is read: the store, and the machine in it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperv_by_hand as by_hand
from vmimg.errors import FormatError, UnsupportedFeature, VmimgError
from vmimg.formats.raw.findings import View
from vmimg.machines.model import Controller, Drive, Firmware, Machine
from vmimg.machines.reading import read_machines
from vmimg.machines.registry import DIALECTS
from vmimg.probe.hyperv_keys import read_keys
from vmimg.storage.memory import MemoryStorage

_DISKS = ("C:\\VMs\\db.vhdx", "C:\\VMs\\db-log.vhdx")


def _read(data: bytes) -> Machine:
    return DIALECTS["vmcx"].read(data, "machine.vmcx")[0]


def _keys(data: bytes) -> dict[str, object]:
    storage = MemoryStorage(data, "store")
    return dict(read_keys(View(storage, 0, storage.size), "store"))


@pytest.mark.peer("dissect.hypervisor")
@pytest.mark.parametrize("large", [0x800, 8])
def test_the_store_is_read_as_dissect_reads_it(large: int) -> None:
    from dissect.hypervisor.descriptor.hyperv import HyperVFile

    tree = by_hand.generation1()
    data = by_hand.vmcx(tree, large=large)
    theirs = HyperVFile(io.BytesIO(data)).as_dict()
    assert theirs == {"configuration": tree}

    def flat(value: object, path: str) -> dict[str, object]:
        if not isinstance(value, dict):
            return {path: value}
        found: dict[str, object] = {}
        for key, each in value.items():
            found |= flat(each, f"{path}/{key}" if path else str(key))
        return found

    assert _keys(data) == flat(theirs, "")


def test_a_machine_of_generation_2_is_read() -> None:
    machine = _read(by_hand.vmcx(by_hand.generation2(*_DISKS)))
    assert machine.name == "db"
    assert machine.firmware == Firmware("uefi", True, "2.0")
    assert (machine.cpus.count, machine.memory) == (4, 4 << 30)
    assert machine.controllers == (Controller("scsi", 0), Controller("scsi", 1))
    assert machine.drives == (
        Drive("cdrom", "scsi", 0, 5, "D:\\w.iso"),
        Drive("disk", "scsi", 1, 0, _DISKS[0], format="vhdx"),
        Drive("disk", "scsi", 1, 1, _DISKS[1], format="vhdx"),
    )
    assert ("settings/processors/nested_virtualization/enabled", "True") in machine.extras["vmcx"]


def test_the_same_machine_is_read_from_the_store_and_from_the_older_xml() -> None:
    tree = by_hand.generation1()
    ours = _read(by_hand.vmcx(tree))
    theirs = DIALECTS["hyperv-xml"].read(by_hand.xml(tree), "machine.xml")[0]
    for field in ("name", "description", "uuid", "cpus", "memory", "drives", "networks", "serials"):
        assert getattr(ours, field) == getattr(theirs, field)


def test_values_in_objects_of_their_own_are_read() -> None:
    notes = "long " * 2000
    tree = by_hand.generation2(*_DISKS)
    tree["properties"]["notes"] = notes
    assert _read(by_hand.vmcx(tree)).description == notes.strip()


def test_the_newer_of_two_tables_counts() -> None:
    assert _read(by_hand.vmcx(by_hand.generation2(*_DISKS), stale=True)).name == "db"


def test_the_dialect_is_found_by_the_content(tmp_path: Path) -> None:
    path = tmp_path / "A1576C71.vmcx"
    path.write_bytes(by_hand.vmcx(by_hand.generation2(*_DISKS)))
    found = read_machines(path)
    assert (found.dialect.name, found.machines[0].name) == ("vmcx", "db")


def test_a_saved_state_is_no_machine_and_a_log_that_is_not_replayed_is_refused() -> None:
    with pytest.raises(FormatError, match="holds savedstate"):
        _read(by_hand.vmcx({"a": {"b": 1}}, root="savedstate"))
    with pytest.raises(UnsupportedFeature, match="3 changes in its log"):
        _read(by_hand.vmcx(by_hand.generation2(*_DISKS), entries=3))


def test_keys_that_lead_in_a_circle_are_refused() -> None:
    with pytest.raises(FormatError, match="more than 32 deep"):
        _read(by_hand.vmcx(by_hand.generation2(*_DISKS), loop=True))


def test_values_that_lie_about_their_size_are_refused() -> None:
    data = by_hand.vmcx(by_hand.generation2(*_DISKS))
    marked = "db\0".encode("utf-16-le")[:4]
    at = data.index((4).to_bytes(4, "little") + marked, 0x8000)
    broken = data[:at] + (1 << 31).to_bytes(4, "little") + data[at + 4 :]
    with pytest.raises(FormatError, match="the value of 'name' is cut short"):
        _read(broken)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 0xAFFF), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 0xB000),
)
def test_whatever_is_changed_in_a_store_only_errors_of_vmimg_come_out(
    changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(by_hand.vmcx(by_hand.generation2(*_DISKS)))
    for at, value in changes:
        data[at] = value
    try:
        machine = _read(bytes(data[: len(data) - cut if cut < 0x100 else None]))
    except VmimgError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(machine, Machine)
