"""Every kind of image that vmimg can make, from the registry: a new format joins by itself.

A kind is a format, or one of its subformats. `qemu_name` says what qemu-img calls a format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmimg.formats.registry import FORMATS

__all__ = ["KINDS", "Kind", "qemu_name", "qemu_view"]

_QEMU_NAMES = {
    "raw": "raw",
    "qcow2": "qcow2",
    "qcow": "qcow",
    "vmdk": "vmdk",
    "vhd": "vpc",
    "vhdx": "vhdx",
    "vdi": "vdi",
    "dmg": "dmg",
    "parallels": "parallels",
    "qed": "qed",
    "luks": "luks",
    "cloop": "cloop",
}
# QEMU has nothing for LZMA; for the other two it has modules that Debian does not build.
_NOT_QEMU = ("UDBZ", "ULFO", "ULMO")


@dataclass(frozen=True, slots=True)
class Kind:
    """A format and, where it has several, one of its subformats."""

    format: str
    subformat: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Creation options that make it."""
        return {} if self.subformat is None else {"subformat": self.subformat}

    def path(self, folder: Path) -> Path:
        """Where to put an image of this kind: with the extension that people give it."""
        return folder / f"disk{FORMATS[self.format].extensions[0]}"

    def __str__(self) -> str:
        return self.format if self.subformat is None else f"{self.format}-{self.subformat}"


def _kinds() -> list[Kind]:
    kinds = []
    for format in FORMATS.values():
        # What is made with random keys is never the same twice: it has tests of its own.
        if not format.capabilities.create or format.capabilities.encryption == "always":
            continue
        choices = [option.choices for option in format.options if option.name == "subformat"]
        if choices:
            kinds += [Kind(format.name, str(subformat)) for subformat in choices[0]]
        else:
            kinds.append(Kind(format.name))
    return kinds


KINDS = _kinds()


def qemu_name(format: str) -> str | None:
    """What qemu-img calls it; None where it does not know the format."""
    return _QEMU_NAMES.get(format)


def qemu_view(kind: Kind, image: Path) -> tuple[str, Path] | None:
    """What qemu-img calls the format of ``image``, and the file that it is given: where the image
    is a directory, the one in it that has the disk. None where qemu-img does not know the format.
    """
    name = qemu_name(kind.format) if kind.subformat not in _NOT_QEMU else None
    if name is None or not image.is_dir():
        return None if name is None else (name, image)
    (file,) = (path for path in image.iterdir() if path.suffix != ".xml")
    return "raw" if kind.subformat == "plain-bundle" else name, file
