"""A real Linux goes through one package after the other, and is the same machine at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

import vmimg
from linux import PATIENCE, Alpine, boots
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network

_MACHINE = Machine(
    name="alpine",
    architecture="x86_64",
    firmware=Firmware(kind="bios"),
    cpus=CPUs(count=2),
    memory=512 << 20,
    drives=(Drive(bus="scsi"),),
    networks=(Network(model="e1000", mac="00:0c:29:12:34:56", kind="nat"),),
)
# Kinds in the order of the journey; what is made of each is made of the one before.
_JOURNEY = (
    ("ova", "alpine.ova", {}),
    ("vagrant", "alpine.box", {}),
    ("xva", "alpine.xva", {}),
    ("vmware", "alpine.vmwarevm", {}),
    ("pvm", "alpine.pvm", {}),
)


def travel(alpine: Alpine, folder: Path) -> list[Path]:
    """All stops of the journey."""
    stops: list[Path] = []
    for kind, name, options in _JOURNEY:
        target = folder / name
        if stops:
            vmimg.repack(stops[-1], target, kind=kind, options=options)
        else:
            vmimg.pack([alpine.qcow2], target, kind=kind, machine=_MACHINE, options=options)
        stops.append(target)
    return stops


def test_the_disk_and_the_machine_survive_every_packaging(alpine: Alpine, tmp_path: Path) -> None:
    stops = travel(alpine, tmp_path)
    for stop in stops:
        assert vmimg.compare(stop, alpine.qcow2).identical, stop.name
        with vmimg.open_bundle(stop) as bundle:
            machine = bundle.machines[0]
        assert (stop.name, machine.cpus.count) == (stop.name, 2)
        assert (stop.name, machine.memory) == (stop.name, 512 << 20)
        assert (stop.name, len(machine.networks)) == (stop.name, 1)
        assert (stop.name, machine.networks[0].mac) == (stop.name, "00:0c:29:12:34:56")
    vmimg.convert(stops[-1], tmp_path / "alpine.raw")
    assert vmimg.compare(tmp_path / "alpine.raw", alpine.qcow2).identical


def test_nothing_is_copied_besides_the_package(alpine: Alpine, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    vmimg.pack([alpine.qcow2], tmp_path / "alpine.ova", machine=_MACHINE)
    vmimg.convert(tmp_path / "alpine.ova", tmp_path / "alpine.qcow2")
    made = {path.name for path in tmp_path.iterdir()} - before
    assert made == {"alpine.ova", "alpine.qcow2"}


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 120)
def test_the_linux_at_the_end_of_the_journey_boots(alpine: Alpine, tmp_path: Path) -> None:
    stops = travel(alpine, tmp_path)
    vmimg.convert(stops[-1], tmp_path / "alpine.raw")
    assert boots(alpine, tmp_path / "alpine.raw", "raw", tmp_path / "console.log")
