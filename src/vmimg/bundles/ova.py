"""OVA: an OVF package in one tar, the descriptor first. `vmimg.bundles.ovf` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmimg.bundles.bundle import Bundle
    from vmimg.bundles.package import How, Made, Package
    from vmimg.probe.claims import Claim
    from vmimg.storage.folder import Folder

__all__ = ["make", "open"]


def open(folder: Folder, claim: Claim) -> Bundle:
    """The appliance in ``folder``."""
    from vmimg.bundles.ovf.reading import OvaBundle

    return OvaBundle(folder)


def make(package: Package, target: str, how: How) -> Made:
    """Write an appliance; its options are those of an OVF package."""
    from vmimg.bundles.ovf.writing import make_ova

    return make_ova(package, target, how)
