"""The first inputs of each harness, by the tests' builders: ``python -m fuzz.seeds [NAME...]``.

They go to fuzz/corpus/NAME/, where the fuzzer adds what it finds. Images are packed (fuzz.sparse),
so that their holes take no room; what is still larger than MAX_BYTES is left out.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import hyperv_by_hand
import peers
import vmimg
from adc_by_hand import adc
from fuzz.harnesses import HARNESSES
from fuzz.images import images
from fuzz.sparse import MAX_BYTES, MAX_HELD, SparseStorage, pack
from machines import machine_samples, ovf_makers
from vmimg import storage as storages
from vmimg.bundles.registry import BUNDLES, by_claim
from vmimg.codecs import codec
from vmimg.errors import VmimgError
from vmimg.formats.registry import FORMATS
from vmimg.machines.registry import DIALECTS
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
    elif name.startswith("bundle-"):
        found = _bundles(name.removeprefix("bundle-"))
    elif name.startswith("machine-"):
        found = list(_descriptions(name.removeprefix("machine-")))
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


@cache
def _bundles(kind: str) -> list[bytes]:
    """The samples of tests/probe that are of this kind, and what is made of a small disk."""
    modules = [importlib.import_module(f"probe.samples_{name}") for name in _BUNDLE_SAMPLES]
    samples = [s for module in modules for s in (*module.GOOD, *module.BAD)]
    samples = [s for s in samples if all(map(peers.has, s.peers))]
    like = {"esd": ("esd", "wim")}.get(kind, (kind,))
    own = [s for s in samples if (k := by_claim(s.claim)) is not None and k.name in like]
    found = [_packed_sample(sample, BUNDLES[kind].folder) for sample in own]
    return [*(data for data in found if data is not None), *_made_bundles(kind)]


_BUNDLE_SAMPLES: Final = (*("bundles", "containerdisks", "compressed", "boot", "machines", "wim"),)


def _made_bundles(kind: str) -> Iterator[bytes]:
    if not BUNDLES[kind].makes:
        return
    with tempfile.TemporaryDirectory() as folder:
        disk, target = Path(folder, "disk.raw"), Path(folder, "made", "made.tar")
        target.parent.mkdir()
        disk.write_bytes(b"boot" * 1024 + bytes(60 << 10))
        try:
            vmimg.pack([disk], target, kind=kind)
        except VmimgError:
            return  # what it takes is more than a disk
        made = target.parent
        if target.is_file() and len(list(made.iterdir())) == 1:
            yield _packed_file(target)
            return
        yield _packed_file(_sent(made, Path(folder)))


def _sent(path: Path, folder: Path) -> Path:
    """A directory, or a file of one, as it is sent: in a tar."""
    archive = folder / "sent.tar"
    with tarfile.open(archive, "w") as tar:
        for each in sorted(path.rglob("*")) if path.is_dir() else (path,):
            name = each.relative_to(path if path.is_dir() else path.parent).as_posix()
            tar.add(each, name, recursive=False, filter=_without_owner)
    return archive


def _without_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _descriptions(name: str) -> Iterator[bytes]:
    """What the dialect writes, and the texts of its tests."""
    dialect = DIALECTS[name]
    if dialect.writes:
        for machine in (machine_samples.SMALL, machine_samples.RICH):
            yield dialect.write(machine).data
    if name == "ovf":
        for maker in ("vmware", "virtualbox", "ovirt", "aws", "xen", "vapp", "old"):
            yield getattr(ovf_makers, maker)()
    for tree in (hyperv_by_hand.generation1(), hyperv_by_hand.generation2("a.vhdx")):
        if name == "hyperv-xml":
            yield hyperv_by_hand.xml(tree)
        elif name == "vmcx":
            yield hyperv_by_hand.vmcx(tree)
    if name == "hyperv-exp":
        yield hyperv_by_hand.exp("5D7A2F3C-0D1B-4C55-8E4B-3F8A9E2B1C10")
    test = _TESTS / "machines" / f"test_{name.replace('-', '_')}.py"
    if test.exists():
        yield from _constants(test)


def _constants(path: Path) -> Iterator[bytes]:
    """The long texts in a module, without importing it: descriptions, and not what describes."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str | bytes) and len(value) > 100 and "\n" in str(value):
            yield value.encode() if isinstance(value, str) else value


def _packed_sample(sample: Any, loose: bool = False) -> bytes | None:
    """None for what is too large, and for a folder. ``loose``: files of a folder, which are wanted
    in an archive.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        made = sample.make(Path(folder))
        if loose and (made.is_dir() or not _is_archive(made)):
            made = _sent(made, Path(other))
        if made.is_file() and made.stat().st_blocks * 512 <= MAX_HELD // 4:
            return _packed_file(made)
    return None


def _is_archive(path: Path) -> bool:
    """Whether it is an archive by its first bytes."""
    head = path.read_bytes()[:512]
    return head.startswith(b"PK") or head[257:262] == b"ustar"


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
