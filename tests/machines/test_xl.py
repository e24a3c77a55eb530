"""Configurations of xl: as xl.cfg(5) and xl-disk-configuration(5) have them."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machine_samples import RICH, SMALL, texts
from vmimg.errors import FormatError
from vmimg.machines.dialects import xl
from vmimg.machines.dialects.xl.syntax import parse, said
from vmimg.machines.losses import without
from vmimg.machines.model import CPUs, Display, Drive, Firmware, Machine, Network, Serial

HVM = r"""
# a guest of Debian's
name = "web \"one\""
builder='hvm'
memory = 0x400 ; vcpus = 4
uuid = "3f2d1c0b-AAAA-4bbb-8ccc-0123456789ab"
bios = "ovmf"
disk = [
    'phy:/dev/vg0/web,xvda,w',
    '/images/data.qcow2,qcow2,xvdb,r',
    'format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/iso/a, b.iso',
    ',,hdd,cdrom',   # empty
]
vif = [ 'mac=00:16:3E:01:02:03, bridge=xenbr1, model=e1000, rate=10Mb/s', 'bridge=br2,type=vif',
        '' ]
boot = "dc"
localtime = 1
serial = ['pty', 'tcp:127.0.0.1:4000,server,nowait']
vnc = 1
vnclisten = '0.0.0.0'
stdvga = 1
videoram = 16
soundhw = 'ac97'
usb = 1
usbversion = 3
on_crash = "preserve"
vnuma = [ [ "pnode=0", "size=512" ], [ "pnode=1" ] ]
"""


def _read(text: str) -> Machine:
    (machine,) = xl.read(text.encode(), "web.cfg")
    return machine


def test_a_whole_guest_is_read_with_all_that_the_model_has() -> None:
    machine = _read(HVM)
    assert machine.name == 'web "one"'
    assert machine.uuid == "3f2d1c0b-aaaa-4bbb-8ccc-0123456789ab"
    assert (machine.chipset, machine.firmware) == ("i440fx", Firmware("uefi"))
    assert (machine.memory, machine.cpus, machine.clock) == (1 << 30, CPUs(4), "localtime")
    assert machine.drives == (
        Drive("disk", "xen", 0, 0, "/dev/vg0/web", "block", boot=2),
        Drive("disk", "xen", 0, 1, "/images/data.qcow2", "file", "qcow2", readonly=True),
        Drive("cdrom", "ide", 1, 0, "/iso/a, b.iso", "file", "raw", boot=1),
        Drive("cdrom", "ide", 1, 1),
    )
    assert machine.networks == (
        Network("e1000", "00:16:3e:01:02:03", "bridge", "xenbr1"),
        Network("xen", "", "bridge", "br2"),
        Network(),
    )
    assert machine.serials == (Serial("pty"), Serial("tcp", "127.0.0.1:4000"))
    assert machine.display == Display("vga", 16 << 20, remote="vnc")
    assert (machine.sound, machine.usb) == (("ac97",), ("xhci",))


def test_what_the_model_has_no_word_for_is_written_back() -> None:
    machine = _read(HVM)
    written = xl.write(machine)
    assert written.losses == ()
    assert _read(written.data.decode()) == machine
    text = written.data.decode()
    for line in ('vnclisten = "0.0.0.0"', 'on_crash = "preserve"', "rate=10Mb/s",
                 'vnuma = [ [ "pnode=0", "size=512" ], [ "pnode=1" ] ]'):  # fmt: skip
        assert line in text


def test_a_paravirtual_guest_keeps_its_kernel_and_has_no_firmware() -> None:
    machine = _read(
        "name='pv'\nmemory=256\nkernel='/boot/vmlinuz'\nextra='root=/dev/xvda1 ro'\n"
        "disk=['file:/a.img,xvda1x,w']\n".replace("xvda1x", "xvda")
    )
    assert machine.chipset == "xenpv"
    assert dict(machine.extras["xl"])["extra"] == '"root=/dev/xvda1 ro"'
    text = xl.write(replace(machine, firmware=Firmware("uefi"))).data.decode()
    assert 'type = "pv"' in text and 'kernel = "/boot/vmlinuz"' in text and "firmware" not in text


def test_another_parser_reads_the_same_values() -> None:
    """xm, before xl, had such files read by Python itself."""
    text = xl.write(RICH).data.decode()
    tree = {
        node.targets[0].id: ast.literal_eval(node.value)  # type: ignore[attr-defined]
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
    }
    assert tree["name"] == RICH.name
    assert tree["memory"] == RICH.memory >> 20
    assert tree["vif"][0] == "mac=52:54:00:12:34:56, bridge=br0, model=virtio-net, type=ioemu"
    assert tree["disk"][-1].endswith("target=fast.qcow2")
    assert tree == parse(text.encode(), "x")


@settings(derandomize=True, deadline=None, database=None)
@given(
    value=st.recursive(
        texts() | st.integers(0, 1 << 60) | st.just("\x07\n\r\x1f"),
        lambda inner: st.lists(inner, max_size=3), max_leaves=6,
    )
)  # fmt: skip
def test_a_value_is_read_as_it_was_written(value: object) -> None:
    assert parse(f"x = {said(value)}\n".encode(), "x") == {"x": value}  # type: ignore[arg-type]


def test_nothing_in_a_configuration_is_run() -> None:
    with pytest.raises(FormatError, match="line 2"):
        _read("name = 'x'\nimport os\n")
    with pytest.raises(FormatError, match="line 1"):
        _read("name = open('/etc/passwd').read()\n")


def test_what_xen_cannot_say_has_plain_reasons() -> None:
    written = xl.write(RICH)
    reasons = {loss.key: loss.reason for loss in written.losses}
    assert reasons["drives[7]"] == "xl has no floppy drives"
    assert reasons["drives[3].bus"] == "Xen has no disks on sata"
    assert reasons["firmware.tpm"] == "xl has none for such a guest"
    assert reasons["networks[2].connected"] == "xl has no cable to pull"
    network = xl.write(
        replace(SMALL, drives=(Drive(path="nbd://h/x", source="network", bus="xen"),))
    )
    assert [loss.reason for loss in network.losses if loss.key == "drives[0]"] == [
        "xl has files and devices"
    ]


def test_a_device_that_is_gone_takes_its_options_along_and_says_so() -> None:
    machine = replace(_read(HVM), networks=())
    written = xl.write(machine)
    assert [loss.value for loss in written.losses] == ["vif[0].rate = 10Mb/s"]
    assert xl.read(written.data, "x")[0] == without(machine, written.losses)


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "name =", "name = 'x", 'name = "a\nb"', "x = [", "x = [1 2]", "= 3",
        "x = [" * 20, "name = 1 2", "memory = 'lots'", "memory = -1", "vcpus = 999999999",
        "disk = ['no disk']", "disk = ['/a,raw,zz,w']", "disk = [['a']]", "x = 'a' b = 'c'",
        "localtime = 7", "a = 1\n" * 150_000, "x" * (2 << 20), "disk = ['" + "a," * 5000 + "']",
    ],
)  # fmt: skip
def test_a_configuration_that_breaks_the_rules_is_one_clear_line(text: str) -> None:
    with pytest.raises(FormatError) as raised:
        xl.read(text.encode(), "evil.cfg")
    assert str(raised.value).startswith("evil.cfg: ") and "\n" not in str(raised.value)
