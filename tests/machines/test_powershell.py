"""The PowerShell script for Hyper-V: what stands in it is data, whatever a machine is called.

No PowerShell runs here. A strict reader of the few words that the script is made of says what each
line would be called with; tree-sitter's grammar of PowerShell, which nobody here wrote, parses all
of it.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machine_samples import RICH, machines
from vmimg.errors import OptionError
from vmimg.machines.dialect import Written
from vmimg.machines.dialects.powershell import quoted
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network, Serial
from vmimg.machines.registry import DIALECTS

# What PowerShell takes for a single quote.
_QUOTES = "'\u2018\u2019\u201a\u201b"
_NASTY = st.text(
    st.sampled_from([*_QUOTES, *'"`$(){};&|<>#@,\\\r\n\0\t -+a1', "\u201c", "é", "\U0001f427"]),
    max_size=24,
)
_EXPRESSION = re.compile(
    r"'((?:[^'\u2018\u2019\u201a\u201b\r\n]|'')*)'"
    r"|\[char\]0x([0-9A-F]{4})|\[char\]::ConvertFromUtf32\(0x([0-9A-F]{5,6})\)"
)
_LINE = re.compile(
    r"(?:\$(?:vm|drive\d+|card\d+) = )?(?:New|Set|Add|Enable)-VM[A-Za-z]*"
    r"(?: -[A-Za-z]+(?: (?:\$vm|-?\d+|[A-Za-z]+|'[ -~]*'|\([ -~]*\)|@\([ -~]*\)))?)*"
)


def _value(text: str) -> str:
    """What an expression of literals comes to; nothing else may be in it."""
    inner = text[1:-1] if text.startswith("(") else text
    found, at = "", 0
    while True:
        part = _EXPRESSION.match(inner, at)
        assert part is not None, text
        if part[1] is not None:
            found += part[1].replace("''", "'")
        else:
            found += chr(int(part[2] or part[3], 16))
        at = part.end()
        if at == len(inner):
            return found
        assert inner.startswith(" + ", at), text
        at += 3


def _write(machine: Machine) -> Written:
    return DIALECTS["powershell"].write(machine)


def _lines(machine: Machine) -> list[str]:
    return _write(machine).data.decode("ascii").split("\r\n")


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(text=_NASTY)
def test_any_text_is_one_literal_of_ascii_that_means_itself(text: str) -> None:
    written = quoted(text)
    assert re.fullmatch("[ -~]+", written)
    assert _value(written) == text


@pytest.mark.peer("tree_sitter", "tree_sitter_powershell")
@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(machine=machines(), name=_NASTY, notes=_NASTY)
def test_an_independent_grammar_finds_the_same_commands_whatever_is_said(
    machine: Machine, name: str, notes: str
) -> None:
    import tree_sitter
    import tree_sitter_powershell

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))

    def commands(of: Machine) -> list[bytes]:
        tree = parser.parse(_write(of).data)
        assert not tree.root_node.has_error
        found, waiting = [], [tree.root_node]
        while waiting:
            node = waiting.pop()
            if node.type == "command_name":
                found.append(node.text or b"")
            waiting += node.children
        return sorted(found)

    tame = replace(machine, name="tame", description="tame")
    assert commands(replace(machine, name=name, description=notes or "x")) == commands(tame)


@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(machine=machines())
def test_every_line_is_one_call_with_literals(machine: Machine) -> None:
    for line in _lines(machine):
        known = ("", "Set-StrictMode -Version 3", "$ErrorActionPreference = 'Stop'")
        if line.startswith("#") or line in known or " | Remove-VM" in line or "while (" in line:
            continue
        assert _LINE.fullmatch(line), line


def _argument(lines: list[str], call: str, name: str) -> list[str]:
    pattern = re.compile(rf" -{name} ('(?:[^']|'')*'|\((?:[^()]|\([^()]*\))*\)|@\([^()]*\)|\S+)")
    return [
        found[1] for line in lines if call in line and (found := pattern.search(line)) is not None
    ]


def test_a_machine_of_generation_2_is_made_with_its_disks_and_cards_in_boot_order() -> None:
    machine = Machine(
        name="it's",
        firmware=Firmware("uefi", True, "2.0"),
        cpus=CPUs(4),
        memory=4 << 30,
        guest="debian12",
        drives=(
            Drive("cdrom", "scsi", 0, 1, "C:\\iso\\d.iso", boot=2),
            Drive("disk", "scsi", 1, 0, "db o'.vhdx", format="vhdx", boot=1),
        ),
        networks=(Network("netvsc", "00:15:5d:01:02:03", "network", "LAN"),),
        serials=(Serial("pipe", "\\\\.\\pipe\\log"),),
    )
    lines = _lines(machine)
    assert _argument(lines, "New-VM", "Name") == ["'it''s'"]
    assert _argument(lines, "New-VM", "Generation") == ["2"]
    assert _argument(lines, "New-VM", "MemoryStartupBytes") == [str(4 << 30)]
    assert _argument(lines, "Set-VMProcessor", "Count") == ["4"]
    assert _argument(lines, "Add-VMDvdDrive", "Path") == ["'C:\\iso\\d.iso'"]
    assert _argument(lines, "Add-VMHardDiskDrive", "Path") == [
        "(Join-Path $PSScriptRoot 'db o''.vhdx')"
    ]
    assert _argument(lines, "Add-VMHardDiskDrive", "ControllerNumber") == ["1"]
    assert any(".Count -lt 2" in line and "Add-VMScsiController" in line for line in lines)
    assert _argument(lines, "Add-VMNetworkAdapter", "SwitchName") == ["'LAN'"]
    assert _argument(lines, "Add-VMNetworkAdapter", "StaticMacAddress") == ["'00155D010203'"]
    assert _argument(lines, "Set-VMComPort", "Path") == ["'\\\\.\\pipe\\log'"]
    assert _argument(lines, "Set-VMFirmware", "BootOrder") == ["@($drive1, $drive0)"]
    assert _argument(lines, "Set-VMFirmware", "SecureBootTemplate") == [
        "'MicrosoftUEFICertificateAuthority'"
    ]
    assert "Enable-VMTPM -VM $vm" in lines


def test_a_machine_with_a_bios_boots_from_ide_and_keeps_its_cd_there() -> None:
    machine = Machine(
        name="old",
        firmware=Firmware("bios"),
        drives=(
            Drive("disk", "virtio", 0, 0, "a.vhd", format="vhd", boot=1),
            Drive("cdrom", "sata", 0, 0, boot=2),
        ),
    )
    lines = _lines(machine)
    assert _argument(lines, "New-VM", "Generation") == ["1"]
    assert _argument(lines, "Add-VMHardDiskDrive", "ControllerType") == ["IDE"]
    assert _argument(lines, "Set-VMBios", "StartupOrder") == [
        "@('IDE', 'CD', 'LegacyNetworkAdapter', 'Floppy')"
    ]
    assert not [line for line in lines if "Firmware" in line]


def test_what_hyperv_cannot_do_is_told() -> None:
    lost = {loss.key: loss for loss in _write(RICH).losses}
    assert {"cpus.model", "sound[0]", "usb[0]", "snapshots[0]", "drives[7]"} <= lost.keys()
    assert lost["networks[0].model"].instead == "netvsc"
    assert "convert it first" in lost["drives[2].format"].reason
    assert lost["drives[5]"].value.count("/dev/vg0/logs")


def test_a_machine_without_secure_boot_told_boots_whatever_is_on_its_disk() -> None:
    written = _write(Machine(name="x", firmware=Firmware("uefi")))
    assert b"-EnableSecureBoot Off" in written.data
    assert "firmware.secure_boot" in {loss.key for loss in written.losses}


def test_a_script_is_not_read() -> None:
    with pytest.raises(OptionError, match="written, not read"):
        DIALECTS["powershell"].read(b"New-VM", "x.ps1")
