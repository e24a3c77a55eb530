"""XVA: what XenServer and XCP-ng export a machine to: a tar, maybe compressed as a whole.

    ova.xml                   the machine and everything that it refers to, as the database has it
    Ref:4/00000000            the first MiB of a disk
    Ref:4/00000000.checksum   SHA-1 of that; newer hosts write .xxhash
    Ref:4/00000007 ...        what is in between reads as zeros; the last one is always there

Before version 4.1 it was another thing: `old`. Sources: xen-api, ocaml/xapi/export.ml,
import.ml and stream_vdi.ml. Imports machines and below; numpy only to read a disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmimg.bundles.bundle import Bundle
    from vmimg.bundles.package import How, Made, Package
    from vmimg.probe.claims import Claim
    from vmimg.storage.folder import Folder

__all__ = ["make", "open"]


def open(folder: Folder, claim: Claim) -> Bundle:
    """The export in ``folder``. Raises FormatError where there is no ova.xml, or it is broken."""
    from vmimg.bundles.xva.reading import XvaBundle

    return XvaBundle(folder)


def make(package: Package, target: str, how: How) -> Made:
    """Write an export that XenServer 6 and later, and XCP-ng, import.

    Options: ``checksum`` ("sha1", "xxhash"), ``compress`` ("none", "gzip", "zstd").
    """
    from vmimg.bundles.xva.writing import make_xva

    return make_xva(package, target, how)
