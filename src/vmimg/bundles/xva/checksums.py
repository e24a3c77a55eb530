"""Checksums of the blocks in an XVA, and whether they hold.

SHA-1 in lower case up to XenServer 8.2, XXH64 in capitals from then on: several times as fast.
Source: xen-api, ocaml/xapi/stream_vdi.ml. Imports storage; `xxhash` where it is wanted.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from vmimg.bundles.bundle import Verdict
from vmimg.bundles.xva.members import CHECKSUMS, Blocks
from vmimg.errors import UnsupportedFeature, VmimgError
from vmimg.extras import require
from vmimg.storage.base import Buffer
from vmimg.storage.folder import Folder
from vmimg.transfer.engine import default_threads

__all__ = ["checksum", "verify_blocks"]

_MAX_BLOCK: Final = 256 << 20
_MAX_TEXT: Final = 128
# Blocks up to this size wait for a thread; there are none that are larger in any real export.
_SMALL: Final = 4 << 20
# Blocks that get a verdict of their own; the rest are counted.
_MAX_TOLD: Final = 64


def checksum(kind: str) -> Callable[[Buffer], str]:
    """What computes the checksum of a block as text: ``kind`` is "sha1" or "xxhash".

    Raises UnsupportedFeature where the library is missing.
    """
    if kind == "sha1":
        return lambda data: hashlib.sha1(data, usedforsecurity=False).hexdigest()
    library: Any = require("xxhash", "xva", "checksums of blocks by XXH64")
    return lambda data: str(library.xxh64_hexdigest(data)).upper()


def verify_blocks(folder: Folder, blocks: Blocks) -> Iterator[Verdict]:
    """Reads every block of a disk: a verdict for each of those that are not as their checksum says,
    and one for the whole disk.
    """
    said = dict[int, str]()
    for extension, listed in blocks.checksums.items():
        said |= dict.fromkeys(listed, extension)
    kinds = sorted({CHECKSUMS[extension] for extension in said.values()})
    try:
        sums = {kind: checksum(kind) for kind in kinds}
    except UnsupportedFeature as error:
        yield Verdict(blocks.directory, "unknown", "xxhash", str(error))
        return
    numbers = sorted(blocks.numbers)
    wrong = 0
    for verdict in _wrong(folder, blocks, numbers, said, sums):
        wrong += 1
        if wrong <= _MAX_TOLD:
            yield verdict
    what = " and ".join(kinds)
    if not said:
        yield Verdict(blocks.directory, "unlisted", "", "its blocks have no checksums")
    elif wrong:
        yield Verdict(blocks.directory, "bad", what, f"{wrong} of its {len(numbers)} blocks")
    else:
        yield Verdict(blocks.directory, "good", what, f"{len(numbers)} blocks")


def _wrong(
    folder: Folder,
    blocks: Blocks,
    numbers: list[int],
    said: dict[int, str],
    sums: dict[str, Callable[[Buffer], str]],
) -> Iterator[Verdict]:
    """The blocks that are not as they should be. They are read in the order in which they lie
    there, for an archive may be compressed, and summed up in parallel.
    """
    there = set(numbers)
    for number in sorted(set(said) - there):
        yield Verdict(blocks.name(number), "missing", said[number], "only its checksum is there")
    threads = default_threads()
    working: deque[tuple[str, str, str, Future[str]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for number in numbers:
            name = blocks.name(number)
            if number not in said:
                yield Verdict(name, "unlisted", "", "no checksum says what it should be")
                continue
            kind = CHECKSUMS[said[number]]
            try:
                data = folder.read(name, _MAX_BLOCK)
                text = folder.read(f"{name}.{said[number]}", _MAX_TEXT)
            except VmimgError as error:
                yield Verdict(name, "unknown", kind, str(error))
                continue
            wanted = text.decode("ascii", "replace").strip()
            working.append((name, kind, wanted, pool.submit(sums[kind], data)))
            while len(working) > (2 * threads if len(data) <= _SMALL else 0):
                yield from _judged(*working.popleft())
        while working:
            yield from _judged(*working.popleft())


def _judged(name: str, kind: str, wanted: str, found: Future[str]) -> Iterator[Verdict]:
    value = found.result()
    if value.lower() != wanted.lower():
        yield Verdict(name, "bad", kind, f"it is {value}, and should be {wanted[:64]!a}")
