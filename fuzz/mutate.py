"""How inputs are changed: bytes as libFuzzer does it, numbers in the structures that vmimg reads,
and checksums set right afterwards.

What libFuzzer does to a whole file mostly hits data, and what it does to a header mostly breaks a
checksum. So an image is changed in its pieces, often in a field of a structure (`fields`), and
repaired (`repair`) before it is run. Imports the seeds' packing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from fuzz.fields import Field, Place, fields_of, places
from fuzz.repair import repair
from fuzz.sparse import SparseStorage, pack, unpack

__all__ = ["Mutator", "boundary"]

_TAIL: Final = 4096
# An image does not grow beyond this: checks read all of it.
_LARGEST: Final = 64 << 20

Mutate = Callable[[bytes, int], bytes]


class Mutator:
    """Changes the inputs of one harness. ``run``: what the harness does with an input; ``seeds``:
    where structures are, is learnt from them; ``mutate``: libFuzzer's own mutation.
    """

    def __init__(
        self, run: Callable[[SparseStorage], object], seeds: Iterable[bytes], mutate: Mutate
    ) -> None:
        self._mutate = mutate
        known: dict[tuple[str, int, bool], tuple[Field, int]] = {}
        for seed in seeds:
            image = unpack(seed)
            for place in places(image, run):
                for field, at in _fields(place, image.size):
                    known[f"{place.structure.__qualname__}.{field.name}", at, at < 0] = (field, at)
        self._fields = list(known.values())

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Another input, like ``data``."""
        dice = random.Random(seed)
        image = unpack(data)
        way = dice.random()
        if way < 0.1 or not image.size:
            return self._mutate(data, max_size)
        if way < 0.55 and self._fields:
            for _ in range(dice.choice((1, 1, 1, 2, 4))):
                self._change_field(image, dice)
        elif way < 0.9:
            self._change_piece(image, dice)
        else:
            self._change_size(image, dice)
        if dice.random() < 0.9:
            repair(image)
        changed = pack(image)
        return changed if len(changed) <= max_size else self._mutate(data, max_size)

    def _change_field(self, image: SparseStorage, dice: random.Random) -> None:
        field, at = dice.choice(self._fields)
        place = at if at >= 0 else image.size + at
        if place < 0 or place + field.size > image.size:
            return
        old = image.read(place, field.size)
        if field.number:
            image.write(place, field.pack(boundary(field, old, image.size, dice)))
        else:
            changed = self._mutate(old.rstrip(b"\0") or b"\1", field.size)
            image.write(place, changed[: field.size].ljust(field.size, b"\0"))

    def _change_piece(self, image: SparseStorage, dice: random.Random) -> None:
        pieces = list(image.pieces())
        if not pieces:
            return
        # Tables and headers are in front or at the end; most of what is in between is data.
        number = dice.choice((0, 0, len(pieces) - 1, dice.randrange(len(pieces))))
        offset, piece = pieces[number]
        start = dice.choice((0, dice.randrange(len(piece))))
        part = piece[start : start + dice.choice((16, 64, 512, 4096))]
        changed = self._mutate(part, len(part) + 16)[: max(1, image.size - offset - start)]
        if changed:
            image.write(offset + start, changed)

    def _change_size(self, image: SparseStorage, dice: random.Random) -> None:
        size = dice.choice((
            dice.randrange(image.size), image.size - 1, image.size + 1, image.size + 512,
            image.size & ~511, image.size * 2,
        ))  # fmt: skip
        if size <= max(image.size, _LARGEST):
            image.resize(max(1, size))


def boundary(field: Field, old: bytes, size: int, dice: random.Random) -> int:
    """A number that is likely to do harm in place of ``old``, in a file of ``size`` bytes."""
    bits = 8 * field.size
    value = field.value(old)
    return dice.choice((
        0, 1, 2, (1 << bits) - 1, (1 << bits) - 2, 1 << (bits - 1), (1 << (bits - 1)) - 1,
        value + 1, value - 1, value * 2, value ^ (1 << dice.randrange(bits)), value << 8,
        1 << dice.randrange(bits), dice.getrandbits(bits), size, size // 512, size - 1,
        dice.randrange(1 << min(bits, 16)),
    ))  # fmt: skip


def _fields(place: Place, size: int) -> Iterable[tuple[Field, int]]:
    """The fields with their offsets in the file: from its end, for what is nearer to that."""
    for field in fields_of(place.structure, place.offset):
        at_end = place.offset > _TAIL and place.offset > size - _TAIL
        yield field, field.offset - size if at_end else field.offset
