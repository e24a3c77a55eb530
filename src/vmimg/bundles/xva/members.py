"""The members of an XVA by what they are: blocks of disks, and checksums of blocks.

    ova.xml
    Ref:4/00000000            the first MiB of a disk
    Ref:4/00000000.checksum   SHA-1 of it in hexadecimal; or .xxhash: XXH64
    Ref:4/00000007            what is in between reads as zeros

Source: xen-api, ocaml/xapi/stream_vdi.ml. Imports storage, and no numpy: `vmimg info` ends here.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from vmimg.errors import FormatError

__all__ = ["CHECKSUMS", "Blocks", "block_name", "blocks_of"]

CHECKSUMS: Final = {"checksum": "sha1", "xxhash": "xxhash"}
"""Extensions of files with checksums, and what they are of."""
_NAME: Final = re.compile(r"([^/]+)/(\d{8,12})(?:\.(checksum|xxhash))?", re.ASCII)
_SAFE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:.+ -]{0,127}", re.ASCII)


@dataclass(slots=True)
class Blocks:
    """The blocks in a directory: ``numbers`` in the order in which they lie there. ``checksums``:
    for each kind of them the numbers of the blocks that have one. ``prefix``: of their names.
    """

    directory: str
    prefix: str
    numbers: array[int] = field(default_factory=lambda: array("q"))
    checksums: dict[str, array[int]] = field(default_factory=dict)

    def name(self, number: int) -> str:
        """What the member with that block is called."""
        return block_name(self.prefix, number)


def block_name(prefix: str, number: int) -> str:
    """What xapi calls a block."""
    return f"{prefix}/{number:08d}"


def blocks_of(names: Iterable[str], where: str) -> dict[str, Blocks]:
    """The disks among the members of an archive, by directory, in the order of their first blocks.

    Raises FormatError for names that no exporter gives, and for a block that is there twice.
    """
    found = dict[str, Blocks]()
    for name in names:
        match = _NAME.fullmatch(name.removeprefix("./"))
        if match is None:
            continue
        directory, digits, kind = match.groups()
        if len(digits) > 8 and digits[0] == "0":
            raise FormatError(f"{where}: a block is called '{name[:64]}', which is no number")
        blocks = found.get(directory)
        if blocks is None:
            if not _SAFE.fullmatch(directory):
                raise FormatError(f"{where}: '{directory[:64]!a}' is no name of a disk")
            blocks = found[directory] = Blocks(directory, directory)
            if name != match[0]:
                blocks.prefix = f"./{directory}"
        if kind is None:
            blocks.numbers.append(int(digits))
        else:
            blocks.checksums.setdefault(kind, array("q")).append(int(digits))
    return {name: blocks for name, blocks in found.items() if blocks.numbers}
