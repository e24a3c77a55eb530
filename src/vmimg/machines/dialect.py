"""Dialect: what a description of machines is, before any code of it is loaded.

An implementation is a module with as much of this as its descriptor claims:

    def read(data: bytes, name: str) -> tuple[Machine, ...]      one or more machines
    def write(machine: Machine) -> Written                       raises OptionError where it cannot
    def write_all(machines: Sequence[Machine]) -> Written        where one text holds several

``name`` is for messages. Reading raises FormatError for what breaks the dialect's rules and
UnsupportedFeature for what it does not know; nothing that the text names is opened. Imports the
model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vmimg.errors import OptionError
from vmimg.machines.losses import Loss, graded

if TYPE_CHECKING:
    from vmimg.machines.model import Machine

__all__ = ["Dialect", "Written"]


@dataclass(frozen=True, slots=True)
class Written:
    """A description in a dialect. ``data``: the main file. ``files``: what goes beside it, by name
    (a .vmsd beside a .vmx). ``losses``: everything that a reader will not find as it was.
    """

    data: bytes
    losses: tuple[Loss, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dialect:
    """``name`` as on the command line; ``claims``: names of what `vmimg.detect` calls its files;
    ``extensions`` with the dot; ``implementation``: a module; ``spec``: where it is described.
    """

    name: str
    title: str
    implementation: str
    extensions: tuple[str, ...]
    spec: str
    claims: tuple[str, ...] = ()
    reads: bool = True
    writes: bool = True
    absolute: bool = False
    """Files are named by absolute paths."""
    notes: str = ""

    def read(self, data: bytes, name: str) -> tuple[Machine, ...]:
        """The machines in ``data``; raises OptionError for a dialect that is only written."""
        if not self.reads:
            raise OptionError(f"{self.title} can be written, not read")
        found: tuple[Machine, ...] = self._module().read(data, name)
        return found

    def write(self, machine: Machine) -> Written:
        """``machine`` in this dialect, with what it cannot say."""
        if not self.writes:
            raise OptionError(f"{self.title} can be read, not written")
        written: Written = self._module().write(machine)
        return replace(written, losses=graded(machine, written.losses))

    def _module(self) -> Any:
        return import_module(self.implementation)
