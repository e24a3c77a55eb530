"""Format: what vmimg knows of a disk format before loading any of its code.

Descriptors are plain data. The comparison matrix, the option help, the README table and the
documentation are generated from them, so each claim is a field that a test checks against the
implementation. Imports errors and units; the implementation is loaded on first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from vmimg.errors import OptionError
from vmimg.units import parse_size

if TYPE_CHECKING:
    from vmimg.formats.driver import Driver

__all__ = ["Capabilities", "Format", "Limits", "Magic", "Option", "OptionValue"]

OptionValue = str | int | bool


@dataclass(frozen=True, slots=True)
class Option:
    """A creation option, by qemu-img's name.

    ``kind`` says how its text is read: "size" takes 64k, "bool" takes on and off. ``default`` None
    means that it is not set.
    """

    name: str
    help: str
    kind: Literal["str", "size", "int", "bool"] = "str"
    default: OptionValue | None = None
    choices: tuple[OptionValue, ...] = ()

    def parse(self, text: OptionValue) -> OptionValue:
        """The value of ``text``, or OptionError that says what may be given."""
        value: OptionValue = text
        if self.kind == "bool" and isinstance(text, str):
            if text.lower() not in ("on", "off", "true", "false", "yes", "no"):
                raise OptionError(f"option {self.name} is on or off, not '{text}'")
            value = text.lower() in ("on", "true", "yes")
        elif self.kind == "size" and isinstance(text, str):
            value = parse_size(text)
        elif self.kind == "int" and isinstance(text, str):
            if not text.isdigit():
                raise OptionError(f"option {self.name} is a whole number, not '{text}'")
            value = int(text)
        if self.choices and value not in self.choices:
            names = ", ".join(str(choice) for choice in self.choices)
            raise OptionError(f"option {self.name} is one of {names}, not '{text}'")
        return value


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the implementation can do. ``snapshots``: "", "internal". ``compression``: coders.
    ``parent_format``: the only format that a parent may have; "" where it may be any.
    ``encryption``: "", "read", "option" (images can be made encrypted) or "always".
    """

    read: bool = True
    write: bool = False
    create: bool = False
    convert: bool = False
    parent: bool = False
    check: bool = False
    snapshots: str = ""
    compression: tuple[str, ...] = ()
    parent_format: str = ""
    encryption: Literal["", "read", "option", "always"] = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_size`` in virtual bytes; ``block_sizes``: (smallest, largest) in bytes, or None.
    ``larger``: name of a format of the same world that holds more.
    """

    max_size: int
    block_sizes: tuple[int, int] | None = None
    larger: str = ""


@dataclass(frozen=True, slots=True)
class Magic:
    """Bytes that give a format away: ``data`` at ``offset`` (from the end where negative)."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Format:
    """One disk format."""

    name: str
    title: str
    implementation: str
    """``module:Class`` of its Driver."""
    extensions: tuple[str, ...]
    capabilities: Capabilities
    limits: Limits
    spec: str
    aliases: tuple[str, ...] = ()
    subformats: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    magic: tuple[Magic, ...] = ()
    index: str = ""
    """Name of the file that an image of this format begins with where it is a directory."""
    notes: str = field(default="", kw_only=True)

    def driver(self) -> Driver:
        """The implementation, imported now if it was not yet."""
        module, _, name = self.implementation.partition(":")
        driver: type[Driver] = getattr(import_module(module), name)
        return driver()

    def parse_options(self, given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
        """Values of all options that are set or have a default, by name.

        Raises OptionError for an unknown name (listing the known ones) and for a bad value.
        """
        known = {option.name: option for option in self.options}
        values = {o.name: o.default for o in self.options if o.default is not None}
        for name, text in given.items():
            if name not in known:
                names = ", ".join(known) or "none"
                raise OptionError(f"{self.name} has no option '{name}'; it has: {names}")
            values[name] = known[name].parse(text)
        return values
