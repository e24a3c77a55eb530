"""Parallels' machines (.pvm): opened as a directory, by config.pvs, packed; made, opened again."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from folders_by_hand import packings

import vmimg
from samples import awkward_disk, write_sparse
from vmimg.bundles.opening import open_bundle
from vmimg.errors import StorageError, UnsafeImage, VmimgError
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network

_STATE = "0a1b2c3d-0000-4000-8000-000000000001"
_SNAPSHOTS = f"""<?xml version="1.0" encoding="UTF-8"?><ParallelsSavedStates>
<SavedStateItem guid=""><SavedStateItem guid="{{{_STATE}}}" current="yes"><Name>clean</Name>
</SavedStateItem></SavedStateItem></ParallelsSavedStates>"""
MACHINE = Machine(
    name="mac's",
    architecture="x86_64",
    firmware=Firmware("uefi", True),
    cpus=CPUs(4),
    memory=2 << 30,
    guest="win11",
    drives=(Drive(bus="sata", boot=1), Drive("cdrom", "sata", 0, 1), Drive(bus="sata", slot=2)),
    networks=(Network("virtio", "00:1c:42:12:34:56", "nat"),),
)


def _disks(folder: Path, count: int = 2) -> list[Path]:
    return [
        write_sparse(folder / f"{at}.raw", awkward_disk((2 + at) << 20, seed=at))
        for at in range(count)
    ]


def test_a_machine_that_is_made_opens_as_the_same_however_it_is_packed(tmp_path: Path) -> None:
    raw = _disks(tmp_path)
    made = vmimg.pack(raw, tmp_path / "mac.pvm", machine=MACHINE)
    assert made.kind == "pvm"
    assert not [loss for loss in made.losses if loss.key.startswith(("drives", "networks", "cpus"))]
    for path in packings(tmp_path / "mac.pvm", tmp_path):
        with open_bundle(path) as bundle:
            assert (path.name, bundle.kind) == (path.name, "pvm")
            machine = bundle.machines[0]
            assert (machine.name, machine.cpus, machine.memory) == ("mac's", CPUs(4), 2 << 30)
            assert (machine.firmware, machine.guest) == (Firmware("uefi", True), "win11")
            assert machine.networks == MACHINE.networks
            for disk, content in zip(bundle.disks, raw, strict=True):
                with bundle.open_disk(disk.name) as opened:
                    assert opened.read(0, opened.size) == content.read_bytes(), path.name


@pytest.mark.peer("dissect.hypervisor")
def test_dissect_reads_the_disk_and_the_description_that_are_made(tmp_path: Path) -> None:
    from dissect.hypervisor.descriptor.pvs import PVS
    from dissect.hypervisor.disk.hdd import HDD

    (raw,) = _disks(tmp_path, 1)
    vmimg.pack([raw], tmp_path / "mac.pvm", machine=Machine(name="mac", drives=(Drive(),)))
    config = (tmp_path / "mac.pvm" / "config.pvs").read_text()
    (named,) = PVS(io.StringIO(config)).disks()
    stream = HDD(tmp_path / "mac.pvm" / named).open()
    assert stream.read(raw.stat().st_size) == raw.read_bytes()


def test_a_machine_is_opened_by_its_description_and_tells_its_snapshots(tmp_path: Path) -> None:
    (raw,) = _disks(tmp_path, 1)
    vmimg.pack([raw], tmp_path / "mac.pvm", machine=Machine(name="mac", drives=(Drive(),)))
    (tmp_path / "mac.pvm" / "Snapshots.xml").write_text(_SNAPSHOTS)
    with open_bundle(tmp_path / "mac.pvm" / "config.pvs") as bundle:
        (snapshot,) = bundle.machines[0].snapshots
        assert (snapshot.id, snapshot.name, snapshot.current) == (_STATE, "clean", True)
        assert bundle.facts["snapshots"] == "Snapshots.xml"
        with bundle.open_disk() as disk:
            assert disk.read(0, 512) == raw.read_bytes()[:512]


@pytest.mark.parametrize(
    ("named", "said", "error"),
    [
        ("../../etc/passwd", "lies outside of what it came in", UnsafeImage),
        ("/Users/x/disk.hdd", "lies outside of what it came in", UnsafeImage),
        ("C:\\x.hdd", "lies outside of what it came in", UnsafeImage),
        ("gone.hdd", "its disk 'gone.hdd' is not in it", StorageError),
    ],
)
def test_a_disk_elsewhere_or_missing_is_one_clear_error(
    tmp_path: Path, named: str, said: str, error: type[VmimgError]
) -> None:
    (raw,) = _disks(tmp_path, 1)
    vmimg.pack([raw], tmp_path / "mac.pvm", machine=Machine(name="mac", drives=(Drive(),)))
    config = tmp_path / "mac.pvm" / "config.pvs"
    config.write_text(config.read_text().replace("mac-disk1.hdd", named))
    with pytest.raises(error) as caught:
        open_bundle(tmp_path / "mac.pvm")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_link_in_the_machine_that_leads_out_of_it_is_not_followed(tmp_path: Path) -> None:
    (raw,) = _disks(tmp_path, 1)
    vmimg.pack([raw], tmp_path / "mac.pvm", machine=Machine(name="mac", drives=(Drive(),)))
    hds = next((tmp_path / "mac.pvm").rglob("*.hds"))
    hds.rename(tmp_path / "elsewhere.hds")
    hds.symlink_to(tmp_path / "elsewhere.hds")
    with open_bundle(tmp_path / "mac.pvm") as bundle, pytest.raises(vmimg.VmimgError):
        bundle.open_disk()


def test_a_machine_of_parallels_becomes_one_of_virtualbox_and_back(tmp_path: Path) -> None:
    raw = _disks(tmp_path)
    vmimg.pack(raw, tmp_path / "one.pvm", machine=MACHINE)
    vmimg.repack(tmp_path / "one.pvm", tmp_path / "two", kind="virtualbox")
    vmimg.repack(tmp_path / "two", tmp_path / "three.pvm")
    with open_bundle(tmp_path / "three.pvm") as bundle:
        assert bundle.machines[0].networks[0].mac == "00:1c:42:12:34:56"
        for disk, content in zip(bundle.disks, raw, strict=True):
            with bundle.open_disk(disk.name) as opened:
                assert opened.read(0, opened.size) == content.read_bytes()


def test_the_same_machine_gives_the_same_files(tmp_path: Path) -> None:
    raw = _disks(tmp_path)
    for name in ("one.pvm", "two.pvm"):
        vmimg.pack(raw, tmp_path / name, machine=MACHINE)
    one, two = (
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one.pvm", "two.pvm")
    )
    assert one == two


def test_a_machine_is_replaced_only_when_that_is_asked_for(tmp_path: Path) -> None:
    raw = _disks(tmp_path, 1)
    machine = Machine(name="mac", drives=(Drive(),))
    vmimg.pack(raw, tmp_path / "mac.pvm", machine=machine)
    with pytest.raises(vmimg.VmimgError, match="exists"):
        vmimg.pack(raw, tmp_path / "mac.pvm", machine=machine)
    vmimg.pack(raw, tmp_path / "mac.pvm", machine=machine, replace=True)
    with open_bundle(tmp_path / "mac.pvm") as bundle:
        assert len(bundle.disks) == 1
