"""What is done with the bundles and the descriptions of machines that strangers send.

A bundle is opened by each kind whatever it claims to be, for what it claims is the sender's to
choose. Imports bundles and machines.
"""

from __future__ import annotations

import json
import zlib
from itertools import islice
from typing import Final

from fuzz.sparse import SparseStorage
from fuzz.steps import Broken, attempt
from vmimg.bundles.archives import open_folder
from vmimg.bundles.archives.onefile import OneFileFolder
from vmimg.bundles.archives.refusing import Refusing
from vmimg.bundles.bundle import Bundle
from vmimg.bundles.kind import BundleKind
from vmimg.bundles.registry import by_claim
from vmimg.errors import VmimgError
from vmimg.machines.dialect import Dialect
from vmimg.machines.losses import without
from vmimg.machines.model import Machine
from vmimg.machines.registry import DIALECTS
from vmimg.machines.showing import to_json
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import claims_on
from vmimg.storage.folder import Folder

__all__ = ["describe", "open_as"]

_LIMIT: Final = 64 << 20
_MAX_DISKS: Final = 8
_MAX_FACTS: Final = 4 << 20
_WRITERS: Final = [dialect for dialect in DIALECTS.values() if dialect.writes]


def open_as(kind: BundleKind, image: SparseStorage) -> None:
    """Everything that is done with one bundle of ``kind``."""
    image.writable = False
    bundles: list[Bundle] = []

    def enter() -> None:
        folder = _folder(kind, image)
        try:
            bundles.append(kind.open(folder, _claim(kind, image)))
        except BaseException:
            folder.close()
            raise

    def tell() -> None:
        bundle = bundles[0]
        text = json.dumps([bundle.facts, [to_json(machine) for machine in bundle.machines]])
        if len(text) > _MAX_FACTS + 16 * image.size:
            raise Broken(f"facts of {len(text)} characters")
        names = [disk.name for disk in bundle.disks]
        if len(set(names)) != len(names):
            raise Broken(f"disks of one name: {names}")
        for disk in bundle.disks:
            if not disk.name.isprintable() or disk.size < 0:
                raise Broken(f"an odd disk: {disk!r}")
            if disk.drive is not None:
                bundle.machines[disk.drive[0]].drives[disk.drive[1]]

    def read() -> None:
        for disk in bundles[0].disks[:_MAX_DISKS]:
            with bundles[0].open_disk(disk.name) as opened:
                for at in (0, opened.size // 2, max(0, opened.size - 4096)):
                    opened.read(at, min(4096, opened.size - at))
                list(islice(opened.spans(), 1000))

    def verify() -> None:
        for verdict in islice(bundles[0].verify(), 2000):
            json.dumps(verdict.to_json())

    attempt(enter, "open")
    try:
        if bundles:
            for step in (tell, read, verify):
                attempt(step)
            attempt(bundles[0].folder.names)
    finally:
        for bundle in bundles:
            bundle.close()


def _folder(kind: BundleKind, image: SparseStorage) -> Folder:
    """Judged as users' are, or as archives in archives are, which nobody judges. A WIM is a file in
    a folder, where its other parts would be.
    """
    if kind.name in ("wim", "esd"):
        alone = OneFileFolder(image, "input", "input.wim")
        alone.index = "input.wim"
        return alone
    refusing = Refusing("input") if image.size % 2 else None
    return open_folder(image, limit=_LIMIT, refusing=refusing)


def _claim(kind: BundleKind, image: SparseStorage) -> Claim:
    """Its own claim where it has one, for what that says of it is believed."""
    for claim in claims_on(image):
        if by_claim(claim.name) is kind:
            return claim
    return Claim(kind.name, "bundle", kind.title, 100, refines=("tar",))


def describe(dialect: Dialect, data: bytes) -> None:
    """Everything that is done with one description in ``dialect``."""
    found: list[Machine] = []

    def read() -> None:
        found.extend(dialect.read(data, "input"))

    attempt(read)
    for machine in found[:3]:
        text = json.dumps(to_json(machine))
        if len(text) > _MAX_FACTS:
            raise Broken(f"a machine of {len(text)} characters")
        # Its own writer, and one of the others.
        other = _WRITERS[zlib.crc32(data) % len(_WRITERS)]
        for each in {dialect.name: dialect, other.name: other}.values():
            if each.writes:
                attempt(lambda each=each, machine=machine: _write(each, machine), each.name)  # type: ignore[misc]


def _write(dialect: Dialect, machine: Machine) -> None:
    written = dialect.write(machine)
    for loss in written.losses:
        json.dumps(loss.to_json())
    without(machine, written.losses)
    if not dialect.reads:
        return
    try:
        dialect.read(written.data, "written")
    except VmimgError as error:
        raise Broken(f"{dialect.name} does not read what it wrote: {error}") from error
