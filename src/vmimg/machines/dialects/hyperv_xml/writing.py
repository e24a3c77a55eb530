"""Writing the .xml. Imports fitting, rendering and keeping."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vmimg.machines.dialect import Written
from vmimg.machines.dialects.hyperv_devices import BIOS
from vmimg.machines.dialects.hyperv_xml.fitting import fitted
from vmimg.machines.dialects.hyperv_xml.keeping import OWN, put_back
from vmimg.machines.dialects.hyperv_xml.leaves import serialised
from vmimg.machines.dialects.hyperv_xml.rendering import rendered
from vmimg.machines.guests import is_windows, secure_boot_template
from vmimg.machines.losses import Loss
from vmimg.machines.model import Extra, Machine

__all__ = ["write"]

_TEMPLATE: Final = f"_{BIOS}_/secure_boot_template"


def write(machine: Machine) -> Written:
    """The document."""
    fitting = fitted(machine)
    extras = tuple(machine.extras.get(OWN, ()))
    plain = replace(fitting.fitted, extras={})
    wanted = (*extras, *_template(machine, extras))
    tree, lost = put_back(rendered(plain), wanted, plain)
    told = tuple(sorted(each for each in wanted if each not in lost))
    losses = (*fitting.losses, *_extras_lost(extras, lost, told))
    return Written(serialised(tree), losses)


def _template(machine: Machine, extras: tuple[Extra, ...]) -> tuple[Extra, ...]:
    """Whose signatures the firmware takes, where it is not Windows that boots: of no meaning in
    version 5.0, but Vagrant sets it where the host knows it.
    """
    other = machine.guest and not is_windows(machine.guest)
    if not machine.firmware.secure_boot or not other or any(key == _TEMPLATE for key, _ in extras):
        return ()
    return ((_TEMPLATE, secure_boot_template(machine.guest)),)


def _extras_lost(
    extras: tuple[Extra, ...], lost: set[Extra], told: tuple[Extra, ...]
) -> tuple[Loss, ...]:
    """What becomes of ``extras`` when a reader finds ``told``."""
    if tuple(each for each in extras if each not in lost) == told:
        return tuple(
            Loss(f"extras.{OWN}[{at}]", f"{key} = {value}", "it says another machine")
            for at, (key, value) in enumerate(extras)
            if (key, value) in lost
        )
    said = ", ".join(key for key, _ in extras)
    more = any(each not in extras for each in told)
    reason = "the firmware is told whose signatures to take" if more else "they are sorted"
    return (Loss(f"extras.{OWN}", said, reason, told),)
