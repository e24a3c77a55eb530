"""SplitWriter: lays out a raw disk in parts of equal size. There is no metadata.

The parts follow each other in the row of addresses without gaps, so that guest byte n has the
address n, and a block may well begin in one part and end in the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Companion, Writer
from vmimg.formats.split.series import names_from
from vmimg.units import align_up, format_size

__all__ = ["SplitWriter"]

_BLOCK_SIZE: Final = 4096
# What the driver is told where there is no file, as when the size is measured.
_NO_NAME: Final = "disk"


class SplitWriter(Writer):
    """See Writer. ``size`` is the virtual size in bytes; ``options`` are parsed; ``name`` is what
    the first part is called.
    """

    any_block_size = True
    late_metadata = False
    block_size = _BLOCK_SIZE

    def __init__(self, size: int, options: Mapping[str, OptionValue], name: str) -> None:
        part = int(options["part_size"])
        if part < 512 or part % 512:
            raise OptionError(f"part_size is a multiple of 512, not {part}")
        self.preallocation = str(options["preallocation"])
        self.data_limit = size
        count = max(1, -(-size // part))
        refusal = f"the first part of a disk in parts is called {name}.001 (or .000, or .aa)"
        if name == _NO_NAME:
            self.refusal = refusal if count > 1 else ""
            name += ".001"
        try:
            names = list(islice(names_from(name), count + 1))
        except ValueError:
            raise OptionError(f"{refusal}, not {name}") from None
        if len(names) < count:
            least = align_up(-(-size // len(names)), 1 << 20)
            raise OptionError(
                f"there are names for {len(names)} parts from {name} on, and {count} are needed: "
                f"pass a part_size of {format_size(least)} or more"
            )
        self.companions = tuple(
            Companion(name, number * part) for number, name in enumerate(names[1:count], 1)
        )
        self.unwanted = tuple(names[count:])
        if name.endswith(".001"):
            self.unwanted += (f"{name[:-1]}0",)
        self._sizes = [min(part, size - number * part) for number in range(count)]
        self._settled = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return blocks * self.block_size

    @property
    def settled(self) -> int:
        return self._settled

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        self._settled = min(done * self.block_size, self.full_size())
        return iter(())

    def finish(self) -> Iterator[tuple[int, bytes]]:
        self._settled = self.full_size()
        return iter(())

    def full_size(self) -> int:
        return sum(self._sizes)

    @property
    def file_size(self) -> int:
        return self._sizes[0]

    @property
    def companion_sizes(self) -> tuple[int, ...]:
        return tuple(self._sizes[1:])
