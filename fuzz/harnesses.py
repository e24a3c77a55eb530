"""The harnesses: each takes any bytes and does with them what vmimg does with a stranger's.

One for each disk format of the registry, each kind of bundle, each dialect of machines that is
read, and each family of recognisers, so that a new one is fuzzed without a line here; and a few for
what parses a structure of its own: detection as a whole, streams in chunks, coders, texts,
policies. Imports bundles and below.
"""

from __future__ import annotations

import json
import pkgutil
import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from types import ModuleType
from typing import Final

import vmdk_by_hand
import vmimg.probe.recognisers
import vmimg.probe.vetters
from fuzz import packages, steps
from fuzz.sparse import SparseStorage, unpack
from fuzz.steps import Broken, attempt
from vmimg.bundles.registry import BUNDLES
from vmimg.codecs import codec, lz4, lzo
from vmimg.formats.detect import identify
from vmimg.formats.raw.findings import View
from vmimg.formats.registry import FORMATS
from vmimg.formats.vmdk.descriptor import parse_descriptor
from vmimg.machines.registry import DIALECTS
from vmimg.probe import xml
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import Detection, detect_storage
from vmimg.probe.held import HEAD_BYTES
from vmimg.probe.inspector import Inspector
from vmimg.probe.policy import BUILT_IN, Policy
from vmimg.probe.vetting import vet_storage
from vmimg.storage.base import Storage

__all__ = ["HARNESSES", "Harness"]

_MAX_CLAIMS: Final = 500
_BLOCK: Final = 65536


@dataclass(frozen=True, slots=True)
class Harness:
    """``run`` raises what is wrong with vmimg, and nothing for anything that is wrong with the
    input. ``on_image``: the same of an input that was unpacked (fuzz.sparse), None for a harness
    that takes the bytes as they are.
    """

    name: str
    run: Callable[[bytes], None]
    on_image: Callable[[SparseStorage], None] | None = None


def _family(modules: tuple[ModuleType, ...], image: SparseStorage) -> None:
    """The recognisers and the vetters of one family."""
    image.writable = False
    view = View(image, 0, image.size)

    def recognise() -> None:
        for module in modules:
            for recogniser in getattr(module, "RECOGNISERS", ()):
                _check_claims(islice(recogniser(view), _MAX_CLAIMS))

    attempt(recognise)
    for module in modules:
        # Any bytes, whoever claims them: what is claimed is the sender's to choose.
        for name, vetter in getattr(module, "VETTERS", {}).items():
            attempt(partial(_listed, vetter, view), f"vet {name}")


def _listed(vetter: Callable[[View], Iterable[steps.Finding]], view: View) -> None:
    steps.listed(vetter(view))


def _detect(image: SparseStorage) -> None:
    image.writable = False
    attempt(lambda: identify(image), "identify")
    attempt(lambda: _check_detection(detect_storage(image)), "detect")
    # No error is allowed: what cannot be read is a finding.
    policy = BUILT_IN[image.size % len(BUILT_IN)]
    report = vet_storage(image, policy=Policy.load(policy))
    json.dumps(report.to_json())
    steps.listed(report.findings)


def _feed(image: SparseStorage) -> None:
    """A stream in chunks of any sizes is what the file is, where all of it is held."""
    image.writable = False
    if image.size > 4 * HEAD_BYTES:
        return
    whole = image.read(0, image.size)
    dice = random.Random(zlib.crc32(whole))
    inspector = Inspector("input")
    at = 0
    largest = dice.choice((100, 4096, 65536, 1 << 20))
    if len(whole) // largest > 2000:
        largest = 65536
    while at < len(whole):
        size = dice.randint(1, largest)
        inspector.feed(whole[at : at + size])
        at += size
        _check_claims(inspector.claims)
    streamed = inspector.finish()
    _check_detection(streamed)
    if image.size <= HEAD_BYTES:
        filed = detect_storage(image)
        if streamed.to_json() != filed.to_json():
            raise Broken(f"a stream of {_names(streamed)}, a file of {_names(filed)}")


def _names(detection: Detection) -> str:
    return ", ".join(f"{claim.name} {claim.confidence}" for claim in detection.claims)


def _check_detection(detection: Detection) -> None:
    json.dumps(detection.to_json())
    _check_claims(detection.claims)
    if detection.claims[-1].name != "raw":
        raise Broken("raw, which anything is, is not the last claim")


def _check_claims(claims: Iterable[Claim]) -> None:
    for claim in claims:
        text = json.dumps(claim.to_json())
        if not 0 < claim.confidence <= 100:
            raise Broken(f"a confidence of {claim.confidence}")
        if len(text) > 1 << 20:
            raise Broken(f"a claim of {len(text)} characters")
        if not claim.title.isprintable():
            raise Broken(f"a title that is not printable: {claim.title!r}")
        for evidence in claim.evidence:
            if not evidence.meaning.isprintable():
                raise Broken(f"evidence that is not printable: {evidence.meaning!r}")


def _decode(decoder: Callable[[bytes, int], bytes | bytearray], data: bytes) -> None:
    """The first two bytes are the size of the block, in units that reach a block's limit."""
    size = int.from_bytes(data[:2], "little") * 4

    def decode() -> None:
        if len(decoder(data[2:], size)) > size:
            raise Broken(f"more than {size} bytes")

    attempt(decode)


def _vmdk_text(data: bytes) -> None:
    """A descriptor in a file of its own, with extents that can be opened."""
    attempt(lambda: parse_descriptor(data, "input"), "parse")
    text = data if data.startswith(b"# Disk DescriptorFile") else b"# Disk DescriptorFile\n" + data
    steps.through(FORMATS["vmdk"], _stored(text), _extents)


def _extents(named: str, role: str, *, read_only: bool = False) -> Storage:
    """Opens any name: as a sparse extent or as a flat one."""
    sparse = zlib.crc32(named.encode("utf-8", "replace")) & 1 or "-s0" in named
    file = _stored(_SPARSE_EXTENT if sparse else bytes(_BLOCK))
    file.name = "extent"
    file.writable = not read_only
    return file


_SPARSE_EXTENT: Final = bytes(vmdk_by_hand.hosted(b"extent".ljust(_BLOCK, b"\1"), grain=8))


def _bundle(data: bytes) -> None:
    """The descriptor of a Parallels bundle, whose images are plain ones."""
    steps.through(FORMATS["parallels"], _stored(data), _extents)


def _qcow2_names(data: bytes) -> None:
    """What a qcow2 image says of other files: backing file, its format, data file."""
    backing, _, rest = data.partition(b"\xff")
    format, _, data_file = rest.partition(b"\xff")
    backing = backing[:1023]
    extensions = b""
    for kind, text in ((0xE2792ACA, format), (0x44415441, data_file)):
        if text:
            text = text[:2000]
            head = kind.to_bytes(4, "big") + len(text).to_bytes(4, "big")
            extensions += head + text + bytes(-len(text) % 8)
    place = 112 + len(extensions) + 8
    head = b"QFI\xfb" + b"".join(
        value.to_bytes(width, "big")
        for value, width in (
            (3, 4), (place if backing else 0, 8), (len(backing), 4), (16, 4), (1 << 20, 8),
            (0, 4), (1, 4), (_BLOCK, 8), (2 * _BLOCK, 8), (1, 4), (0, 4), (0, 8),
            (4 if data_file else 0, 8), (0, 8), (0, 8), (4, 4), (112, 4), (0, 8),
        )
    )  # fmt: skip
    image = SparseStorage(4 * _BLOCK)
    image.write(0, head + extensions + bytes(8) + backing)
    image.write(2 * _BLOCK, (3 * _BLOCK).to_bytes(8, "big"))
    image.write(3 * _BLOCK, b"\0\1" * 4)
    steps.through(FORMATS["qcow2"], image)


def _xml(data: bytes) -> None:
    steps.listed(xml.vet_xml(data))
    xml.root_of(data)


def _policy(data: bytes) -> None:
    def parse() -> None:
        policy = Policy.parse(data, "input")
        for code in steps.CODES:
            policy.judge(steps.Finding.of(code))

    attempt(parse)


def _stored(data: bytes) -> SparseStorage:
    image = SparseStorage(len(data))
    image.write(0, data)
    return image


def _families() -> dict[str, tuple[ModuleType, ...]]:
    """Modules with recognisers or vetters, by the name of their family."""
    found: dict[str, tuple[ModuleType, ...]] = {}
    for package in (vmimg.probe.recognisers, vmimg.probe.vetters):
        for info in pkgutil.iter_modules(package.__path__):
            module = import_module(f"{package.__name__}.{info.name}")
            if hasattr(module, "RECOGNISERS") or hasattr(module, "VETTERS"):
                found[info.name] = (*found.get(info.name, ()), module)
    return found


def _harnesses() -> Iterable[Harness]:
    for format in FORMATS.values():
        yield _of_images(format.name, partial(steps.through, format))
    for family, modules in _families().items():
        yield _of_images(f"probe-{family}", partial(_family, modules))
    for kind in BUNDLES.values():
        yield _of_images(f"bundle-{kind.name}", partial(packages.open_as, kind))
    for dialect in DIALECTS.values():
        if dialect.reads:
            yield Harness(f"machine-{dialect.name}", partial(packages.describe, dialect))
    yield _of_images("detect", _detect)
    yield _of_images("feed", _feed)
    for name in ("adc", "lzfse", "zlib"):
        yield Harness(f"codec-{name}", partial(_decode, codec(name).decompress))
    for name, decoder in (("lz4", lz4.decompress), ("lzo", lzo.decompress)):
        yield Harness(f"codec-{name}", partial(_decode, decoder))
    yield Harness("vmdk-text", _vmdk_text)
    yield Harness("parallels-bundle", _bundle)
    yield Harness("qcow2-names", _qcow2_names)
    yield Harness("xml", _xml)
    yield Harness("policy", _policy)


def _of_images(name: str, run: Callable[[SparseStorage], None]) -> Harness:
    return Harness(name, lambda data: run(unpack(data)), run)


HARNESSES: Final = {harness.name: harness for harness in _harnesses()}
"""By name."""
