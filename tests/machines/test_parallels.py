"""Parallels' config.pvs and Snapshots.xml, as Parallels Desktop 10 and 18 write them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from machine_samples import RICH, SMALL
from vmimg.errors import FormatError
from vmimg.machines.dialects.parallels import read_with
from vmimg.machines.losses import without
from vmimg.machines.model import Controller, Drive, Firmware, Machine, Network, Serial
from vmimg.machines.reading import read_machines
from vmimg.machines.registry import DIALECTS

MIB = 1 << 20


def _device(tag: str, index: int, path: str = "", kind: int = 1, **more: object) -> str:
    values = {
        "Index": index, "Enabled": 1, "Connected": 1, "EmulatedType": kind, "SystemName": path,
        "UserFriendlyName": path, "Remote": 0, **more,
    }  # fmt: skip
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in values.items())
    return (
        f'<{tag} id="{index}" dyn_lists="">{inner}<DeviceDescription></DeviceDescription></{tag}>'
    )


def _config(
    devices: str = "", *, bios: str = "<EfiEnabled>0</EfiEnabled>", os: int = 2314, cpu: str = "",
    boots: tuple[tuple[int, int, int], ...] = (), hardware: str = "", settings: str = "",
) -> bytes:  # fmt: skip
    """A config.pvs with the elements that Parallels Desktop 18 writes; the facts are from one that
    the devtools for Visual Studio Code carry, and one of Flatcar's build_library.
    """
    order = "".join(
        f'<BootDevice id="{at}" dyn_lists=""><Index>{index}</Index><Type>{kind}</Type>'
        f"<BootingNumber>{at}</BootingNumber><InUse>{used}</InUse></BootDevice>"
        for at, (kind, index, used) in enumerate(boots)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ParallelsVirtualMachine schemaVersion="1.0" dyn_lists="VirtualAppliance 0">
   <AppVersion>18.1.1-53328</AppVersion>
   <ValidRc>0</ValidRc>
   <Identification dyn_lists="">
      <VmUuid>{{9C27AE79-FBE5-4C84-9CDC-E1459F642B91}}</VmUuid>
      <VmName>Büro &amp; Söhne</VmName>
      <LinkedVmUuid></LinkedVmUuid>
   </Identification>
   <Settings dyn_lists="">
      <General dyn_lists="PrevOsNumber">
         <OsType>{os >> 8}</OsType><OsNumber>{os}</OsNumber>
         <VmDescription>two
lines</VmDescription>
      </General>
      <Startup AutoStart_patch="2" dyn_lists="">
         <BootingOrder dyn_lists="BootDevice {len(boots)}">{order}</BootingOrder>
         <Bios dyn_lists="">{bios}</Bios>
      </Startup>
      <Tools dyn_lists=""><IsolatedVm>1</IsolatedVm></Tools>
      <UsbController dyn_lists="" UhcEnabled_patch="1">
         <UhcEnabled>0</UhcEnabled><EhcEnabled>1</EhcEnabled><XhcEnabled>1</XhcEnabled>
      </UsbController>{settings}
   </Settings>
   <Hardware dyn_lists="Fdd 0 CdRom 1 Hdd 9">
      <Cpu dyn_lists=""><Number>4</Number>{cpu}</Cpu>
      <Chipset dyn_lists=""><Type>1</Type><Version>3</Version></Chipset>
      <Memory dyn_lists=""><RAM>8192</RAM></Memory>
      <Video dyn_lists=""><Enabled>1</Enabled><VideoMemorySize>32</VideoMemorySize>
         <Enable3DAcceleration>0</Enable3DAcceleration><MaxDisplays>0</MaxDisplays></Video>
      {devices}{hardware}
   </Hardware>
</ParallelsVirtualMachine>
""".encode()


_DEVICES = (
    _device("CdRom", 0, InterfaceType=2, StackIndex=1)
    + _device("Hdd", 0, "harddisk.hdd", InterfaceType=2, StackIndex=0, Size=262144, SubType=0)
    + _device("Hdd", 1, "data.hdd", InterfaceType=1, StackIndex=3, Size=1024, SubType=2)
    + _device("Hdd", 2, "/dev/disk2", 0, InterfaceType=0, StackIndex=3)
    + _device(
        "NetworkAdapter",
        0,
        "eth0",
        MAC="001C42F11C90",
        AdapterType=3,
        AdapterName="Default Adapter",
    )
    + _device("NetworkAdapter", 1, "eth1", 2, MAC="001C42F11C91", AdapterType=2, AdapterName="en0")
    + _device("NetworkAdapter", 2, "eth2", 0, MAC="001C42F11C92", AdapterType=4, Connected=0)
    + _device("Serial", 0, "/tmp/log", 1)
)
_BOOTS = ((6, 0, 1), (5, 0, 1), (15, 0, 1), (8, 1, 1), (8, 0, 0))


def _read(data: bytes) -> Machine:
    return DIALECTS["parallels"].read(data, "config.pvs")[0]


def test_a_machine_of_parallels_desktop_is_read() -> None:
    machine = _read(_config(_DEVICES, boots=_BOOTS))
    assert machine.name == "Büro & Söhne"
    assert machine.description == "two\nlines"
    assert machine.uuid == "9c27ae79-fbe5-4c84-9cdc-e1459f642b91"
    assert (machine.cpus.count, machine.memory) == (4, 8192 * MIB)
    assert machine.architecture == "x86_64"
    assert machine.firmware == Firmware("bios")
    assert machine.guest == "ubuntu-unknown"
    assert machine.usb == ("ehci", "xhci")
    assert machine.controllers == (Controller("scsi", 0, "lsisas1068"),)
    assert machine.drives == (
        Drive("disk", "ide", 1, 1, "/dev/disk2", "block"),
        Drive("disk", "sata", 0, 0, "harddisk.hdd", format="parallels", size=262144 * MIB, boot=1),
        Drive("cdrom", "sata", 0, 1, boot=2),
        Drive("disk", "scsi", 0, 3, "data.hdd", format="parallels", size=1024 * MIB),
    )
    assert machine.networks == (
        Network("virtio", "00:1c:42:f1:1c:90", "nat"),
        Network("e1000", "00:1c:42:f1:1c:91", "bridge", "en0", boot=3),
        Network("e1000e", "00:1c:42:f1:1c:92", "hostonly", connected=False),
    )
    assert machine.serials == (Serial("file", "/tmp/log"),)
    assert machine.display is not None and machine.display.memory == 32 * MIB


def test_a_machine_on_apple_silicon_with_a_tpm_is_read() -> None:
    bios = "<EfiEnabled>5</EfiEnabled><EfiSecureBoot>1</EfiSecureBoot>"
    chip = "<TpmChip><Type>2</Type><Policy>3</Policy></TpmChip>"
    machine = _read(_config(bios=bios, cpu="<Type>1</Type>", hardware=chip))
    assert machine.architecture == "aarch64"
    assert machine.firmware == Firmware("uefi", True, "2.0")
    written = DIALECTS["parallels"].write(machine).data.decode()
    assert "<EfiEnabled>5</EfiEnabled>" in written
    # What our number for a TPM does not say is put back.
    assert "<Type>2</Type>" in written and "<Policy>3</Policy>" in written


def test_what_the_model_has_no_word_for_is_kept_and_written_back_where_it_stood() -> None:
    machine = _read(_config(_DEVICES, boots=_BOOTS))
    kept = dict(machine.extras["parallels"])
    assert kept["Settings/Tools/IsolatedVm"] == "1"
    assert kept["Hardware/Chipset/Version"] == "3"
    assert kept["AppVersion"] == "18.1.1-53328"
    assert not [key for key in kept if "dyn_lists" in key or "_patch" in key or "VmName" in key]
    written = DIALECTS["parallels"].write(machine)
    assert not [loss for loss in written.losses if loss.key.startswith("extras")]
    again = _read(written.data)
    assert again == without(machine, written.losses)
    assert b"<IsolatedVm>1</IsolatedVm>" in written.data


def test_what_was_kept_of_a_device_that_is_gone_is_told_and_makes_no_new_one() -> None:
    machine = _read(_config(_DEVICES, boots=_BOOTS))
    smaller = replace(machine, drives=machine.drives[:2], networks=(), serials=())
    written = DIALECTS["parallels"].write(smaller)
    assert any(loss.key.startswith("extras.parallels") for loss in written.losses)
    again = _read(written.data)
    assert again == without(smaller, written.losses)
    assert len(again.networks) == 0 and len(again.drives) == 2


def test_kept_text_that_would_make_another_machine_is_left_out() -> None:
    extras = (("Hardware/Cpu/Number", "64"), ("Settings/Tools/IsolatedVm", "1"))
    machine = replace(SMALL, extras={"parallels": extras})
    written = DIALECTS["parallels"].write(machine)
    assert b"<Number>1</Number>" in written.data
    assert b"<IsolatedVm>1</IsolatedVm>" in written.data
    assert "extras.parallels[0]" in {loss.key for loss in written.losses}


def test_a_disabled_cd_drive_is_one_and_stays_disabled() -> None:
    disabled = _device("CdRom", 0, Enabled=0, InterfaceType=2, StackIndex=1)
    machine = _read(_config(disabled))
    assert machine.drives == (Drive("cdrom", "sata", 0, 1),)
    assert b"<Enabled>0</Enabled>" in DIALECTS["parallels"].write(machine).data


@pytest.mark.peer("dissect.hypervisor")
def test_dissect_finds_the_disks_that_we_write() -> None:
    from dissect.hypervisor.descriptor.pvs import PVS

    data = DIALECTS["parallels"].write(RICH).data
    disks = [each.path for each in _read(data).drives if each.device == "disk"]
    assert sorted(PVS(io.StringIO(data.decode())).disks()) == sorted(disks)


_SNAPSHOTS = """<?xml version="1.0" encoding="UTF-8"?>
<ParallelsSavedStates><SavedStateItem guid=""><Name/><DateTime/>
  <SavedStateItem guid="{0A1B2C3D-0000-4000-8000-000000000001}" state="poweroff">
    <Name>clean</Name><DateTime>2024-11-15 10:30:00</DateTime><Creator/><ScreenShot/>
    <Description>after the installation</Description>
    <SavedStateItem guid="{0a1b2c3d-0000-4000-8000-000000000002}" current="yes">
      <Name>patched</Name><DateTime>2024-11-20 14:45:00</DateTime>
    </SavedStateItem>
    <SavedStateItem guid="{0a1b2c3d-0000-4000-8000-000000000003}"><Name>broken</Name>
    </SavedStateItem>
  </SavedStateItem></SavedStateItem></ParallelsSavedStates>"""


def test_the_tree_of_snapshots_beside_is_read_and_written_back() -> None:
    machine = read_with(_config(), "config.pvs", {"Snapshots.xml": _SNAPSHOTS.encode()})[0]
    first = "0a1b2c3d-0000-4000-8000-000000000001"
    told = [(each.name, each.parent, each.current) for each in machine.snapshots]
    assert told == [("clean", "", False), ("patched", first, True), ("broken", first, False)]
    assert machine.snapshots[0].created == "2024-11-15T10:30:00Z"
    assert machine.snapshots[0].description == "after the installation"
    written = DIALECTS["parallels"].write(machine)
    assert read_with(written.data, "config.pvs", written.files)[0] == machine


def test_a_snapshot_deeper_than_any_reader_goes_is_told() -> None:
    deep = [replace(RICH.snapshots[0], id="0", current=True)]
    for at in range(1, 400):
        deep.append(replace(deep[0], id=str(at), parent=str(at - 1), current=False))
    written = DIALECTS["parallels"].write(replace(SMALL, snapshots=tuple(deep)))
    assert "snapshots" in {loss.key for loss in written.losses}
    assert not written.files


def test_the_dialect_is_found_by_the_content(tmp_path: Path) -> None:
    (tmp_path / "config.pvs").write_bytes(_config(_DEVICES))
    found = read_machines(tmp_path / "config.pvs")
    assert (found.dialect.name, len(found.machines[0].drives)) == ("parallels", 4)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<RAM>8192</RAM>", "<RAM>lots</RAM>", "RAM is no number"),
        ("<RAM>8192</RAM>", f"<RAM>{'9' * 25}</RAM>", "RAM is 9999"),
        ("<Number>4</Number>", "<Number>-4</Number>", "Number is -4"),
        ("<Index>0</Index>", "<Index>99999999</Index>", "Index is 99999999"),
        ("<ParallelsVirtualMachine ", "<!DOCTYPE x><ParallelsVirtualMachine ", "document type"),
        ("<VmName>", "<VmName", "broken in line"),
    ],
)
def test_what_breaks_the_rules_is_one_clear_error(old: str, new: str, said: str) -> None:
    data = _config(_DEVICES).decode().replace(old, new).encode()
    with pytest.raises(FormatError, match=said):
        _read(data)


def test_a_description_that_would_take_all_memory_is_refused() -> None:
    many = "".join(_device("Hdd", at, f"{at}.hdd") for at in range(300))
    with pytest.raises(FormatError, match="has 300 of Hdd, more than 256"):
        _read(_config(many))
    tags = [f"t{at}" + "x" * 20_000 for at in range(100)]
    deep = "".join(f"<{tag}>" for tag in tags) + "<a>1</a>" * 5000
    deep += "".join(f"</{tag}>" for tag in reversed(tags))
    with pytest.raises(FormatError, match="names of its elements are too long"):
        _read(_config(hardware=deep))
