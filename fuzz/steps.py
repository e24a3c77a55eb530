"""What a reader does with a stranger's bytes, step by step, and what must hold of each step.

Anything but a VmimgError is a bug, and so is an error that is no sentence in one line, a step that
takes longer than MAX_SECONDS, a write to what is open for reading, and a map with gaps. The reads
are those of the tests of malformed images (tests/formats/ordeal.py). Imports the formats.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Final

from fuzz.sparse import SparseStorage
from ordeal import KEY, MIB, read_extents, read_places
from vmimg.disk.layer import Layer
from vmimg.disk.stack import Disk
from vmimg.errors import UnsafeImage, VmimgError
from vmimg.formats.descriptor import Format
from vmimg.formats.detect import detect
from vmimg.formats.dmg import encryption
from vmimg.formats.driver import Companions, ImageInfo
from vmimg.formats.info import DiskInfo
from vmimg.formats.keys import as_keys
from vmimg.formats.luks import keyslots
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import CODES, Finding, of_info
from vmimg.storage.base import Storage

__all__ = ["MAX_SECONDS", "Broken", "attempt", "listed", "no_companions", "through"]

MAX_SECONDS: Final = 2.0
"""Of processor time, for a step; what is instrumented runs several times slower than else."""
_MAX_EXTENTS: Final = 5000
_READ_BYTES: Final = 2 * MIB

# With a passphrase, its sender decides what it costs to try it, up to a minute. Nothing to learn
# from that here.
_CHEAP: Final = (
    (keyslots, "_MAX_ITERATIONS", 5000),
    (keyslots, "_MAX_ARGON2_WORK", 1024),
    (encryption, "_MAX_ITERATIONS", 5000),
)


class Broken(AssertionError):
    """What must hold of every input does not hold of this one."""


@contextmanager
def _cheap_keys() -> Iterator[None]:
    """Refuse keys that cost more, for as long as this lasts: others live in the same process."""
    usual = [getattr(module, name) for module, name, _ in _CHEAP]
    for module, name, value in _CHEAP:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(_CHEAP, usual, strict=True):
            setattr(module, name, value)


@_cheap_keys()
def through(
    format: Format,
    image: SparseStorage,
    companions: Companions | None = None,
    *,
    seconds: float = MAX_SECONDS,
) -> None:
    """Everything that can be done with one image of ``format``. ``companions``: what opens the
    files that it names; where None, nothing does. ``seconds``: what a step may take.
    """
    driver = format.driver()
    opener = companions or no_companions
    image.writable = False
    # Some need it, none may keep it: a list, so that each step can be attempted by itself.
    infos: list[ImageInfo] = []

    def recognise() -> None:
        confidence = driver.probe(image)
        if not 0 <= confidence <= 100:
            raise Broken(f"probe says {confidence}")
        if confidence:
            for evidence in driver.evidence(image):
                _check_text(evidence.meaning)

    def inform() -> None:
        info = driver.inspect(image)
        infos.append(info)
        parent = None if info.parent is None else info.parent.path
        whole = DiskInfo(image.name, image.size, image.size, info, parent, tuple(detect(image)))
        json.dumps(whole.to_json())
        if info.virtual_size < 0:
            raise Broken(f"a disk of {info.virtual_size} bytes")
        listed(of_info(info))

    def vet() -> None:
        listed(driver.vet(image))

    def look(keys: bytes | None = None, snapshot: str | None = None) -> None:
        given = None if keys is None else as_keys(keys)
        layer = driver.open(image, writable=False, companions=opener, snapshot=snapshot, keys=given)
        with Disk(_layers(layer)) as disk:
            _check_map(disk)
            for read in (read_places, lambda disk: read_extents(disk, _READ_BYTES)):
                try:
                    read(disk)
                except VmimgError as error:
                    _check_text(str(error))

    def look_at_snapshots() -> None:
        for snapshot in infos[0].snapshots[:3] if infos else ():
            attempt(partial(look, snapshot=snapshot.id), "snapshot", seconds=seconds)

    def check() -> None:
        json.dumps(driver.check(image, companions=opener).to_json(image.name))

    def repair() -> None:
        copy = image.copy()
        driver.check(copy, companions=opener, repair="all")

    def change() -> None:
        layer = driver.open(
            image.copy(), writable=True, companions=opener, snapshot=None, keys=as_keys(KEY)
        )
        with Disk(_layers(layer)) as disk:
            if disk.size >= 100_000:
                disk.write(100, b"x" * 70_000)
                disk.zero(disk.size - 5000, 5000)
                disk.discard(0, 4096)
                disk.flush()

    for step in (recognise, inform, vet, look, look_at_snapshots, check, change):
        attempt(step, seconds=seconds)
    # Checks several times, and writes: nobody repairs what a stranger has sent, unseen.
    attempt(repair, seconds=4 * seconds)
    if infos and infos[0].encrypted:
        attempt(lambda: look(keys=KEY), "unlock", seconds=seconds)


def attempt(step: Callable[[], object], name: str = "", *, seconds: float = MAX_SECONDS) -> None:
    """Do ``step``; an error of vmimg's ends it, as it may."""
    began = time.process_time()
    try:
        step()
    except VmimgError as error:
        _check_text(str(error))
    spent = time.process_time() - began
    if spent > seconds:
        raise Broken(f"{name or step.__name__} took {spent:.1f} s")


def listed(findings: Iterable[Finding]) -> list[Finding]:
    """``findings``, each as it must be, and no more than anybody reads."""
    found = list(islice(findings, 2000))
    if len(found) == 2000:
        raise Broken("there is no end of findings")
    for finding in found:
        if finding.code not in CODES:
            raise Broken(f"there is no code {finding.code}")
        for text in (finding.message, finding.evidence):
            if not text.isprintable():
                raise Broken(f"a finding that is not printable: {text!r}")
        json.dumps(finding.to_json())
    return found


def no_companions(named: str, role: str, *, read_only: bool = False) -> Storage:
    """Opens nothing, as for images that came through a pipe."""
    raise UnsafeImage(f"input: its {role} {named!r} is not opened")


def _layers(layer: Layer) -> list[Layer]:
    """``layer`` above what is part of it, or above a parent that is shorter and says nothing."""
    layers = [layer]
    while layers[-1].beneath is not None and len(layers) < 600:
        layers.append(layers[-1].beneath)
    if layers[-1].is_child:
        raw, nothing = FORMATS["raw"].driver(), SparseStorage(65536, "parent")
        layers.append(raw.open(nothing, writable=False, companions=no_companions))
    return layers


def _check_map(disk: Disk) -> None:
    """Whether the map is of the whole disk, without gaps."""
    for pieces in (_starts(disk.map()), islice(disk.spans(), _MAX_EXTENTS)):
        at = count = 0
        for start, end, _ in pieces:
            count += 1
            if start != at or end <= start:
                raise Broken(f"the map goes on at {start} with {end - start} bytes, not at {at}")
            at = end
        if at != disk.size and count < _MAX_EXTENTS:
            raise Broken(f"the map ends at {at}, the disk at {disk.size}")


def _starts(extents: Iterable[Any]) -> Iterable[tuple[int, int, Any]]:
    return ((e.start, e.end, e.kind) for e in islice(extents, _MAX_EXTENTS))


def _check_text(text: str) -> None:
    if not text or "\n" in text or "\r" in text or "\0" in text or "\x1b" in text:
        raise Broken(f"not a sentence in one line: {text!r}")
