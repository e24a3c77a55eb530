"""Boot entries: what a boot loader's text has it load, and with which command line.

Read line by line, as far as it is plain; conditions, loops and variables are not followed. Sources:
see the package. Imports nothing but texts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from vmimg.bundles.texts import textual

__all__ = ["BootEntry", "entries_of"]

_MAX_LINES: Final = 10_000
_MAX_ENTRIES: Final = 256
_MAX_LINE: Final = 8192
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/]*", re.IGNORECASE)
# A variable in front stands for a place: ${base-url}, $prefix, ($root).
_VARIABLE: Final = re.compile(r"\$\{[^}]*\}|\$[A-Za-z_]\w*|\([^)]*\)")
_IPXE: Final = "#!ipxe"


@dataclass(slots=True)
class BootEntry:
    """``loader``: "ipxe", "grub", "pxelinux" or "loader-entry"; ``file`` that it stands in.
    ``kernel`` and ``initrds`` as they are named there; ``missing``: those of
    them that are not in the set.
    """

    loader: str
    file: str
    label: str = ""
    kernel: str = ""
    initrds: list[str] = field(default_factory=list)
    command_line: str = ""
    missing: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything that is set, with hyphens in the names."""
        facts: dict[str, Any] = {
            "loader": self.loader,
            "file": textual(self.file),
            "label": textual(self.label),
            "kernel": textual(self.kernel),
            "initrds": [textual(name) for name in self.initrds[:16]],
            "command-line": textual(self.command_line, 2048),
            "missing": [textual(name) for name in self.missing[:16]],
        }
        return {key: value for key, value in facts.items() if value}


def entries_of(text: str, file: str, names: Iterable[str]) -> tuple[BootEntry, ...]:
    """The entries in a text called ``file``; ``names``: what there is beside it."""
    lines = [line.strip() for line in text.split("\n", _MAX_LINES)[:_MAX_LINES]]
    lines = [line for line in lines if 0 < len(line) <= _MAX_LINE]
    if text.lstrip("\ufeff").startswith(_IPXE):
        found = _ipxe(lines, file)
    elif any(re.match(r"(label|default|ui|menu)\s", line, re.IGNORECASE) for line in lines):
        found = _pxelinux(lines, file)
    elif any(line.startswith("menuentry") for line in lines):
        found = _grub(lines, file)
    elif any(line.startswith(("linux ", "linux\t", "efi ")) for line in lines):
        found = _loader_entry(lines, file)
    else:
        return ()
    entries: list[BootEntry] = []
    there = set(names)
    bases = {name.rpartition("/")[2] for name in there}
    for entry in found:
        if entry.kernel and len(entries) < _MAX_ENTRIES:
            named = [entry.kernel, *entry.initrds]
            entry.missing = [each for each in named if not _is_there(each, file, there, bases)]
            entries.append(entry)
    return tuple(entries)


def _is_there(named: str, file: str, names: set[str], bases: set[str]) -> bool:
    """Whether what a text names is in the set: at that place, or anywhere by that name, for where a
    server has its root is not known.
    """
    path = unquote(_SCHEME.sub("", named).partition("?")[0])
    plain = _VARIABLE.sub("", path).lstrip("/")
    folder = file.rpartition("/")[0]
    near = f"{folder}/{plain}" if folder else plain
    base = plain.rpartition("/")[2]
    return plain in names or near in names or (bool(base) and base in bases)


def _ipxe(lines: list[str], file: str) -> Iterator[BootEntry]:
    entry = BootEntry("ipxe", file)
    label = ""
    for line in lines:
        words = line.split("#", 1)[0].split() if not line.startswith("#") else []
        if not words:
            continue
        if words[0].startswith(":"):
            label = words[0][1:]
            continue
        arguments = _without_options(words[1:])
        if words[0] in ("kernel", "imgload", "imgexec", "chain", "imgfetch") and arguments:
            if words[0] != "kernel":
                continue
            if entry.kernel:
                yield entry
            entry = BootEntry("ipxe", file, label, arguments[0])
            entry.command_line = " ".join(arguments[1:])
        elif words[0] == "initrd" and arguments:
            entry.initrds.append(arguments[0])
        elif words[0] == "imgargs" and len(arguments) > 1:
            entry.command_line = " ".join(arguments[1:])
        elif words[0] == "boot" and entry.kernel:
            yield entry
            entry = BootEntry("ipxe", file)
    if entry.kernel:
        yield entry


def _without_options(words: list[str]) -> list[str]:
    """The arguments behind options, of which --name and --timeout have a value."""
    while words and words[0].startswith("-"):
        takes = words[0] in ("--name", "-n", "--timeout", "-t")
        words = words[2:] if takes else words[1:]
    return words


def _pxelinux(lines: list[str], file: str) -> Iterator[BootEntry]:
    entry = BootEntry("pxelinux", file)
    for line in lines:
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        word, rest = word.lower(), rest.strip()
        if word == "label":
            if entry.kernel:
                yield entry
            entry = BootEntry("pxelinux", file, rest)
        elif word in ("kernel", "linux"):
            # Modules of SYSLINUX are no kernels.
            entry.kernel = "" if rest.lower().endswith((".c32", ".0")) else rest
        elif word == "initrd":
            entry.initrds += rest.split(",")
        elif word == "append":
            words = []
            for each in rest.split():
                if each.startswith("initrd="):
                    entry.initrds += each.partition("=")[2].split(",")
                else:
                    words.append(each)
            entry.command_line = " ".join(words)
    if entry.kernel:
        yield entry


def _grub(lines: list[str], file: str) -> Iterator[BootEntry]:
    entry = BootEntry("grub", file)
    for line in lines:
        words = _words(line)
        if not words:
            continue
        if words[0] == "menuentry":
            if entry.kernel:
                yield entry
            entry = BootEntry("grub", file, words[1] if len(words) > 1 else "")
        elif words[0] in ("linux", "linuxefi", "linux16") and len(words) > 1:
            entry.kernel = words[1]
            entry.command_line = " ".join(words[2:])
        elif words[0] in ("initrd", "initrdefi", "initrd16"):
            entry.initrds += words[1:]
    if entry.kernel:
        yield entry


def _loader_entry(lines: list[str], file: str) -> Iterator[BootEntry]:
    entry = BootEntry("loader-entry", file)
    for line in lines:
        word, *rest = line.split(None, 1)
        value = rest[0] if rest else ""
        if word == "title":
            entry.label = value
        elif word in ("linux", "efi"):
            entry.kernel = value
        elif word == "initrd":
            entry.initrds.append(value)
        elif word == "options":
            entry.command_line = f"{entry.command_line} {value}".strip()
    yield entry


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()
