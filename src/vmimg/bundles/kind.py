"""BundleKind: what a kind of bundle is, before any code of it is loaded.

An implementation is a module with as much of this as its descriptor claims:

    def open(folder: Folder, claim: Claim) -> Bundle
    def make(package: Package, target: str, how: How) -> Made

Imports errors and storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vmimg.errors import OptionError
from vmimg.formats.descriptor import Option

if TYPE_CHECKING:
    from vmimg.bundles.bundle import Bundle
    from vmimg.bundles.package import How, Made, Package
    from vmimg.probe.claims import Claim
    from vmimg.storage.folder import Folder

__all__ = ["BundleKind", "parse_options"]


@dataclass(frozen=True, slots=True)
class BundleKind:
    """``name`` is what `vmimg.detect` calls it; ``aliases``: what people say on the command line.
    ``folder``: made as a directory. ``files``: has room for a machine's variable store, or kernel,
    beside the disks. ``one_disk``: has room for one. ``formats``: of disks that it can carry when
    it is made, the usual one first; () for any. ``of_files``: made of a directory of files, not of
    disks. ``options``: of making it.
    """

    name: str
    title: str
    implementation: str
    extensions: tuple[str, ...]
    spec: str
    aliases: tuple[str, ...] = ()
    makes: bool = False
    folder: bool = False
    of_files: bool = False
    files: bool = True
    one_disk: bool = False
    formats: tuple[str, ...] = ()
    options: tuple[Option, ...] = field(default=(), kw_only=True)
    notes: str = field(default="", kw_only=True)

    def open(self, folder: Folder, claim: Claim) -> Bundle:
        """The bundle in ``folder``, which belongs to it from then on. Raises FormatError,
        UnsupportedFeature, UnsafeImage.
        """
        bundle: Bundle = self._module().open(folder, claim)
        return bundle

    def make(self, package: Package, target: str, how: How) -> Made:
        """Write ``package`` to ``target``. Raises OptionError for what the kind cannot carry."""
        if not self.makes:
            raise OptionError(f"{self.title}: can be opened, but not made")
        made: Made = self._module().make(package, target, how)
        return made

    def parse_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values of all options that are set or have a default, by name. Raises OptionError."""
        return parse_options(self.name, self.options, given)

    def _module(self) -> Any:
        return import_module(self.implementation)


def parse_options(kind: str, options: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all ``options`` of a kind that are ``given`` or have a default, by name. Raises
    OptionError.
    """
    known = {option.name: option for option in options}
    values = {o.name: o.default for o in options if o.default is not None}
    for name, text in given.items():
        if name not in known:
            names = ", ".join(known) or "none"
            raise OptionError(f"{kind} has no option '{name}'; it has: {names}")
        values[name] = known[name].parse(text)
    return values
