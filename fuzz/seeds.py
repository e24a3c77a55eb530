"""The first inputs of each harness, by the tests' builders: ``python -m fuzz.seeds [NAME...]``.

They go to fuzz/corpus/NAME/, where the fuzzer adds what it finds. Images are packed (fuzz.sparse),
so that their holes take no room; what is still larger than MAX_BYTES is left out.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import peers
from adc_by_hand import adc
from fuzz.harnesses import HARNESSES
from fuzz.images import images
from fuzz.sparse import MAX_BYTES, MAX_HELD, SparseStorage, pack
from vmimg import storage as storages
from vmimg.codecs import codec
from vmimg.formats.registry import FORMATS
from vmimg.probe import policy

__all__ = ["CORPUS", "fill", "seeds"]

CORPUS: Final = Path(__file__).with_name("corpus")
_TESTS: Final = Path(__file__).parent.parent / "tests"


def fill(name: str) -> Path:
    """Write the seeds of the harness ``name``; its folder. What lies there already stays."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for data in seeds(name):
        path = folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()
        if not path.exists():
            path.write_bytes(data)
    return folder


def seeds(name: str) -> Iterator[bytes]:
    """The inputs that the harness ``name`` begins with."""
    if name in FORMATS:
        found = _images(name) + _samples(name)
    elif name.startswith("probe-"):
        found = _samples(name.removeprefix("probe-"))
    elif name in ("detect", "feed"):
        found = [data for format in FORMATS for data in _images(format)[:4]] + _samples("")
    else:
        found = list(_texts(name))
    # An empty input shows what is done without one, and there is always one to begin with.
    for data in dict.fromkeys((b"", *found)):
        if len(data) <= MAX_BYTES:
            yield data


@cache
def _images(format: str) -> list[bytes]:
    return [_packed(data) for _, data in images(format)]


def _packed(data: bytes) -> bytes:
    image = SparseStorage(len(data))
    image.write(0, data)
    return pack(image)


# What stands in a module of another name.
_TOGETHER: Final = {
    "raw": "contents",
    "cow": "qcow",
    "qed": "qcow",
    "cloop": "parallels",
    "bochs": "parallels",
    "split": "parallels",
    "cpio": "boot",
    "firmware": "boot",
    "states": "machines",
    "texts": "machines",
}


@cache
def _samples(family: str) -> list[bytes]:
    """The samples of tests/probe of one family; of a family that has none, one for each claim."""
    own = _TESTS / "probe" / f"samples_{_TOGETHER.get(family, family)}.py"
    paths = [own] if own.exists() else sorted(own.parent.glob("samples_*.py"))
    modules: list[Any] = [importlib.import_module(f"probe.{path.stem}") for path in paths]
    samples = [sample for module in modules for sample in module.GOOD]
    if own.exists():
        samples += modules[0].BAD
    else:
        samples = list({sample.claim: sample for sample in samples}.values())
    samples = [sample for sample in samples if all(map(peers.has, sample.peers))]
    # Programs that make them wait: sgdisk sleeps for a second.
    with ThreadPoolExecutor(8) as pool:
        return [data for data in pool.map(_packed_sample, samples) if data is not None]


def _packed_sample(sample: Any) -> bytes | None:
    """None for a folder, and for what is too large."""
    with tempfile.TemporaryDirectory() as folder:
        made = sample.make(Path(folder))
        if made.is_file() and made.stat().st_blocks * 512 <= MAX_HELD // 4:
            return _packed_file(made)
    return None


def _packed_file(path: Path) -> bytes:
    with storages.open(os.fspath(path), lock=False) as file:
        image = SparseStorage(file.size)
        for start, end, is_hole in file.extents(0, file.size):
            for at in range(start, end if not is_hole else start, 1 << 20):
                image.write(at, file.read(at, min(1 << 20, end - at)))
    return pack(image)


def _texts(name: str) -> Iterator[bytes]:
    """Of the harnesses that take no image."""
    text = b"abracadabra, " * 30 + bytes(range(100))
    size = (-(-len(text) // 4)).to_bytes(2, "little")
    if name == "codec-adc":
        yield size + adc(text)
    elif name == "codec-lzfse":
        yield size + _lzfse(text)
        yield size + _lzfse(text * 20)
    elif name == "codec-zlib":
        yield size + zlib.compress(text)
        yield size + bytes(codec("zlib").compress(text))
    elif name == "codec-lz4":
        yield size + b"\x35abcabc\x03\0\xf0\x05" + text[:20]
    elif name == "codec-lzo":
        yield size + bytes([17 + len(text[:20])]) + text[:20] + b"\x11\0\0"
        yield size + b"\x15abcd\x20\x05\x0c\0\x11\0\0"
    elif name == "vmdk-text":
        yield from (d for d in _images("vmdk") if d.startswith(b"# Disk DescriptorFile"))
        yield _DESCRIPTOR
    elif name == "parallels-bundle":
        yield from (d for d in _images("parallels") if d.lstrip().startswith(b"<"))
    elif name == "qcow2-names":
        for backing in (b"base.qcow2", b'json:{"driver":"raw","file.filename":"x"}', b"nbd://h/x"):
            yield b"\xff".join((backing, b"qcow2", b"data.raw"))
        yield b"\xffqcow2\xff/etc/passwd"
    elif name == "xml":
        yield from (d for d in _images("parallels") if d.lstrip().startswith(b"<"))
        yield b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a x="&b;">&b;</a>'
    elif name == "policy":
        for path in sorted(Path(policy.__file__).with_name("policies").glob("*.toml")):
            yield path.read_bytes()


_DESCRIPTOR: Final = b"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=0a1b2c3d
parentCID=89abcdef
createType="twoGbMaxExtentSparse"
parentFileNameHint="base.vmdk"
RW 64 SPARSE "disk-s001.vmdk"
RW 64 ZERO
RW 128 FLAT "disk-f001.vmdk" 0
RDONLY 1 VMFS "/etc/passwd" 0
ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "16"
"""


def _lzfse(data: bytes) -> bytes:
    packed: bytes = importlib.import_module("lzfse").compress(data)
    return packed


def main() -> None:
    for name in sys.argv[1:] or HARNESSES:
        folder = fill(name)
        print(f"{name}: {len(list(folder.iterdir()))} inputs")


if __name__ == "__main__":
    main()
