"""Descriptions of machines that something has bitten: read or refused, and the law still holds.

Each starts from a real text, in which bytes, numbers and lines are changed; what is read all the
same is a machine that nobody would have thought of, and goes there and back.
"""

from __future__ import annotations

import random
import re
from dataclasses import fields, replace

import pytest
import test_libvirt
import test_proxmox
import test_xapi
import test_xl

from machine_samples import RICH, SMALL
from vmimg.errors import VmimgError
from vmimg.machines.losses import without
from vmimg.machines.model import Machine
from vmimg.machines.registry import DIALECTS

_TEXTS = {
    "libvirt": test_libvirt.DOMAIN,
    "proxmox": test_proxmox.CONF.encode(),
    "xl": test_xl.HVM.encode(),
    "xapi": test_xapi.export(test_xapi.OBJECTS),
}
_NUMBERS = (b"0", b"-1", b"9" * 20, b"4294967296", b"65536", b"255", b"1e9", b"7", b"31")
_BYTES = b"0123456789abcxyz<>\"'=&,:;/[] \n\\-.%\x00\xff"
_ROUNDS = 80


def _mangled(chance: random.Random, text: bytes) -> bytes:
    data = bytearray(text)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(data))
        what = chance.randrange(5)
        if what == 0:
            data[at] = chance.choice(_BYTES)
        elif what == 1 and len(data) > 100:
            del data[at : at + chance.randrange(1, 30)]
        elif what == 2:
            other = chance.randrange(len(data))
            data[at:at] = data[other : other + chance.randrange(1, 60)]
        elif what == 3:
            number = chance.choice([*re.finditer(rb"\d+", data)])
            data[number.start() : number.end()] = chance.choice(_NUMBERS)
        else:
            lines = bytes(data).split(b"\n")
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
            data = bytearray(b"\n".join(lines))
    return bytes(data)


@pytest.mark.parametrize("name", _TEXTS)
def test_a_mangled_text_is_refused_or_obeys_the_law(name: str) -> None:
    dialect = DIALECTS[name]
    chance = random.Random(f"mangled {name}")
    texts = [_TEXTS[name], dialect.write(RICH).data, dialect.write(SMALL).data]
    refused = 0
    for _ in range(_ROUNDS):
        text = _mangled(chance, chance.choice(texts))
        try:
            machines = dialect.read(text, "mangled")
        except VmimgError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        for machine in machines:
            written = dialect.write(machine)
            (found,) = dialect.read(written.data, "again")
            expected = without(machine, written.losses)
            for field in fields(Machine):
                assert getattr(found, field.name) == getattr(expected, field.name), text
    assert 0 < refused < _ROUNDS


_FITTED = (*_TEXTS, "qemu", "cloud-hypervisor", "firecracker", "kubevirt")


@pytest.mark.parametrize("name", _FITTED)
def test_half_a_character_is_told_and_does_not_break_the_writer(name: str) -> None:
    broken = "half \ud83d"
    drives = (replace(SMALL.drives[0], path=broken, format="raw"),)
    machine = replace(SMALL, name=broken, description=broken, drives=drives)
    written = DIALECTS[name].write(machine)
    assert "\ud83d" not in written.data.decode()
    assert {"name", "description"} <= {loss.key for loss in written.losses}


_LOST = {
    "libvirt": r"drives\[\d\]\.(size|bus|controller|slot)|snapshots\[\d\]|controllers.*",
    "proxmox": r"name|firmware\.loader|cpus\.(threads|cores)|guest|drives\[7\]|drives\[0\]\.bus"
    r"|drives\[\d\]\.(readonly|source|slot|controller|bus)|networks\[1\]\.(kind|network)"
    r"|serials\[1\]\.(kind|path)|display\.(remote|accelerated)|usb\[0\]|controllers.*",
    "xl": r"description|architecture|chipset|guest|firmware\..*|cpus\.(sockets|cores|threads|model)"
    r"|controllers\[\d\]|drives\[\d\](\.(bus|controller|slot|size|serial|boot|format))?"
    r"|networks\[\d\]\.(kind|network|connected|boot)|display\.(heads|accelerated)|sound\[0\]"
    r"|snapshots\[\d\]",
    "xapi": r"architecture|chipset|guest|clock|firmware\.(tpm|variables|loader)"
    r"|cpus\.(model|cores|threads)|controllers\[\d\]|drives\[7\]"
    r"|drives\[\d\]\.(bus|controller|slot|path|format|serial|source|boot)"
    r"|networks\[\d\]\.(model|kind|network|connected|boot)|serials\[\d\]|usb\[0\]|sound\[0\]"
    r"|display\.(model|heads|accelerated|remote)|snapshots\[\d\]",
}


@pytest.mark.parametrize("name", _LOST)
def test_a_rich_machine_loses_only_what_the_dialect_has_no_word_for(name: str) -> None:
    lost = {loss.key for loss in DIALECTS[name].write(RICH).losses}
    assert not {key for key in lost if not re.fullmatch(_LOST[name], key)}
