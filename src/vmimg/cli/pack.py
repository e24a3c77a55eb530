"""``vmimg pack``: disks and a machine become an appliance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import click

from vmimg.cli.machine import machines_in
from vmimg.cli.options import PATH, SIZE
from vmimg.cli.packing import Making, bundle_options, making_options
from vmimg.cli.verb import Verb, examples
from vmimg.errors import OptionError

if TYPE_CHECKING:
    from vmimg.machines.model import Machine

__all__ = ["command"]


@click.command(
    "pack",
    cls=Verb,
    epilog=examples(
        "vmimg pack disk.qcow2 -o web.ova",
        "vmimg pack disk.qcow2 --cpus 2 --memory 4G --firmware uefi -o web.ova",
        "vmimg pack root.qcow2 data.raw --machine web.vmx -O vagrant -o web.box",
        "vmimg pack -O help",
    ),
)
@bundle_options
@click.option(
    "--machine",
    "described",
    type=PATH,
    metavar="FILE",
    help="Description of the machine: a .vmx, an .ovf, a bundle; `vmimg machine dialects`.",
)
@click.option("--name", metavar="NAME", help="The machine's name; by the bundle's where missing.")
@click.option("--cpus", type=click.IntRange(1, 4096), metavar="N", help="Processors (1).")
@click.option("--memory", type=SIZE, metavar="SIZE", help="Memory (1G).")
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), help="What boots it.")
@click.option("--guest", metavar="OS", help="Its system, by libosinfo's short id: debian12.")
@click.option(
    "--bus",
    type=click.Choice(["ide", "sata", "scsi", "virtio", "nvme"]),
    help="Where its disks hang.",
)
@click.option("--nic", metavar="MODEL", help="Model of its network card: virtio, e1000, none.")
@making_options
@click.argument("disks", nargs=-1, type=PATH, metavar="DISK...")
def command(
    making: Making,
    described: str | None,
    name: str | None,
    cpus: int | None,
    memory: int | None,
    firmware: Literal["bios", "uefi"] | None,
    guest: str | None,
    bus: Any,
    nic: str | None,
    disks: tuple[str, ...],
) -> None:
    """Make a bundle of DISKs, of any format, and of the machine that they belong to.

    DISK may be a disk in another bundle (appliance.ova:disk2). Nothing is copied on the way: each
    disk is read once, and written to its place in the bundle. A WIM or ESD is made of a directory.
    """
    if making.target is None:
        raise click.UsageError("Say what to make: -o FILE")
    from vmimg.bundles.packing import pack

    machine = _machine(described, name, cpus, memory, firmware, guest, bus, nic, len(disks))
    making.run(pack, disks, making.target, machine=machine)


def _machine(
    described: str | None,
    name: str | None,
    cpus: int | None,
    memory: int | None,
    firmware: Literal["bios", "uefi"] | None,
    guest: str | None,
    bus: Any,
    nic: str | None,
    disks: int,
) -> Machine | None:
    """What is described, as the options change it; None where nothing is said at all."""
    from vmimg.bundles.packing import DEFAULT_MACHINE
    from vmimg.machines.model import CPUs, Drive, Network

    if not any((described, name, cpus, memory, firmware, guest, bus, nic)):
        return None
    machine = DEFAULT_MACHINE
    if described is not None:
        _, found = machines_in(described, None)
        if len(found) != 1:
            raise OptionError(f"{described}: describes {len(found)} machines, not one")
        machine = found[0]
    if name is not None:
        machine = replace(machine, name=name)
    if cpus is not None:
        machine = replace(machine, cpus=CPUs(count=cpus, model=machine.cpus.model))
    if memory is not None:
        machine = replace(machine, memory=memory)
    if firmware is not None:
        machine = replace(machine, firmware=replace(machine.firmware, kind=firmware))
    if guest is not None:
        machine = replace(machine, guest=guest)
    if bus is not None:
        if described is not None:
            raise OptionError("--bus is for a machine that is not described by a file")
        machine = replace(machine, drives=tuple(Drive(bus=bus, slot=at) for at in range(disks)))
    if nic is not None:
        networks = () if nic == "none" else (Network(model=nic, kind="nat"),)
        machine = replace(machine, networks=networks)
    return machine
