"""A machine as plain data: for JSON, and line by line for people. Imports the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from vmimg.machines.model import Machine
from vmimg.units import format_size

__all__ = ["lines", "to_json"]


def to_json(machine: Machine) -> dict[str, Any]:
    """Everything that is said, with hyphens in the names; what is not said is left out."""
    facts = _plain(machine)
    assert isinstance(facts, dict)
    return facts


def lines(machine: Machine) -> Iterator[tuple[str, str]]:
    """(label, text) of what people ask first; the rest is in `to_json`."""
    if machine.name:
        yield "name", machine.name
    if machine.description:
        yield "description", " ".join(machine.description.split())
    if machine.guest:
        yield "guest", machine.guest
    kind = " ".join(filter(None, (machine.architecture, machine.chipset)))
    if kind:
        yield "machine", kind
    firmware = machine.firmware
    extras = [word for word, on in (("Secure Boot", firmware.secure_boot),) if on]
    extras += [f"TPM {firmware.tpm}"] if firmware.tpm else []
    if firmware.kind or extras:
        yield "firmware", ", ".join([firmware.kind or "unsaid", *extras])
    cpus = machine.cpus
    if cpus.count:
        topology = ""
        if cpus.sockets:
            topology = f" ({cpus.sockets} sockets, {cpus.cores} cores, {cpus.threads} threads)"
        model = f", {cpus.model}" if cpus.model else ""
        yield "processors", f"{cpus.count}{topology}{model}"
    if machine.memory:
        yield "memory", format_size(machine.memory)
    for drive in machine.drives:
        place = f"{drive.bus or 'any bus'} {drive.controller}:{drive.slot}"
        what = drive.path or ("empty" if drive.device != "disk" else "no file")
        size = f", {format_size(drive.size)}" if drive.size else ""
        form = f", {drive.format}" if drive.format else ""
        boot = f", boots {drive.boot}." if drive.boot else ""
        yield drive.device, f"{what} ({place}{form}{size}{boot})"
    for network in machine.networks:
        parts = [
            network.model,
            network.mac,
            " ".join(filter(None, (network.kind, network.network))),
        ]
        yield "network", ", ".join(filter(None, parts)) or "yes"
    for serial in machine.serials:
        yield "serial", " ".join(filter(None, (serial.kind, serial.path)))
    if machine.display is not None:
        parts = [machine.display.model, machine.display.remote]
        yield "display", ", ".join(filter(None, parts)) or "yes"
    if machine.sound:
        yield "sound", ", ".join(machine.sound)
    if machine.usb:
        yield "usb", ", ".join(machine.usb)
    for snapshot in machine.snapshots:
        current = " (current)" if snapshot.current else ""
        yield "snapshot", f"{snapshot.name or snapshot.id}{current} {snapshot.created}".rstrip()
    for dialect, pairs in machine.extras.items():
        yield f"{dialect} only", f"{len(pairs)} settings"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        found = {}
        for field in fields(value):
            inner = _plain(getattr(value, field.name))
            if inner not in ("", 0, None, [], {}) or inner is False or field.name == "index":
                found[field.name.replace("_", "-")] = inner
        return found
    if isinstance(value, Mapping):
        return {name: [[key, text] for key, text in pairs] for name, pairs in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value
