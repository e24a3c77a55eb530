"""check for cloop: do the blocks lie inside the file, one behind the other, and can they be read?

qemu-img has no check for it. A block that does not lie where it can is a corruption, and so is one
that cannot be decompressed; zlib has a checksum for each. Bytes that belong to no block are leaks.
Nothing can be repaired: there is no second copy of anything. Imports the layer.
"""

from __future__ import annotations

from typing import Final

from vmimg.errors import FormatError, StorageError, UnsupportedFeature
from vmimg.formats.cloop import structures as s
from vmimg.formats.cloop.header import CloopHeader, read_header
from vmimg.formats.cloop.layer import CloopLayer
from vmimg.formats.driver import CheckReport
from vmimg.storage.base import Storage

__all__ = ["check_image"]

_READ_BYTES: Final = 4 << 20
_SHOWN: Final = 10


def check_image(storage: Storage, *, repair: str = "") -> CheckReport:
    """What is wrong with ``storage``, whose blocks are all read.

    Raises FormatError for what cannot be read as cloop at all, UnsupportedFeature for ``repair``.
    """
    if repair:
        raise UnsupportedFeature(
            f"{storage.name}: a cloop holds nothing twice, so nothing of it can be repaired"
        )
    header = read_header(storage)
    layer = CloopLayer(storage, header)
    report = CheckReport(
        format="cloop",
        total_clusters=header.blocks,
        allocated_clusters=header.blocks,
        compressed_clusters=header.blocks,
        image_end_offset=storage.size,
    )
    _read_all(layer, report)
    if header.blocks and not report.corruptions and not report.errors:
        _look_for_leaks(layer, header, report)
    if report.corruptions > _SHOWN:
        report.problems.append(f"{report.corruptions - _SHOWN} more blocks that cannot be read")
    return report


def _read_all(layer: CloopLayer, report: CheckReport) -> None:
    """Read everything, and block by block where that fails."""
    block = layer.block_size
    step = max(1, _READ_BYTES // block) * block
    buffer = memoryview(bytearray(min(step, layer.size)))
    for start in range(0, layer.size, step):
        end = min(layer.size, start + step)
        try:
            layer.read_present(start, buffer[: end - start])
            continue
        except FormatError:
            pass
        except UnsupportedFeature as error:
            report.errors += 1
            report.problems.append(str(error))
            return
        for place in range(start, end, block):
            try:
                layer.read_present(place, buffer[: min(block, end - place)])
            except (FormatError, StorageError) as error:
                report.corruptions += 1
                if report.corruptions <= _SHOWN:
                    report.problems.append(str(error).removeprefix(f"{layer.name}: "))
            except UnsupportedFeature as error:
                report.errors += 1
                report.problems.append(str(error))
                return


def _look_for_leaks(layer: CloopLayer, header: CloopHeader, report: CheckReport) -> None:
    begin = int(layer.places(0, 1)[1][0])
    end = int(layer.places(header.blocks - 1, 1)[1][1])
    start = 0 if header.at_end else header.index_end
    stop, padding = _data_end(layer.storage, header)
    if begin < start:
        report.corruptions += 1
        report.problems.append(f"the first block, at {begin}, lies over the index")
    elif begin > start:
        report.leaks += 1
        report.problems.append(f"{begin - start} bytes in front of the first block are not used")
    if end > stop:
        report.corruptions += 1
        report.problems.append(f"the last block ends at {end}, over the index")
    elif end + padding < stop:
        report.leaks += 1
        report.problems.append(f"{stop - end} bytes behind the last block are not used")


def _data_end(storage: Storage, header: CloopHeader) -> tuple[int, int]:
    """Where the data has to end at the latest, and how much padding there may be."""
    if header.version == 3:
        return header.index - s.INDEX3_SIZE, 4095
    return (header.index if header.at_end else storage.size), 0
