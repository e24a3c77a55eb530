"""OVF packages: a descriptor, the files that it refers to, a manifest of digests, a signature.

    machine.ovf        XML: files, disks, networks, machines
    machine.mf         digests of all other files (`vmimg.bundles.manifest`)
    machine.cert       signature of the manifest (`vmimg.bundles.signing`)
    machine-disk1.vmdk ...

As files in a directory, or in this order in a tar, which is an OVA. Readers take any order. Spec:
DMTF DSP0243 1.1.1 and 2.1.1; the descriptor itself is `vmimg.machines.dialects.ovf`. Imports
machines and below.
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
    """The package in ``folder``: that of the descriptor which it was opened by, or the only one."""
    from vmimg.bundles.ovf.reading import OvfBundle

    return OvfBundle(folder)


def make(package: Package, target: str, how: How) -> Made:
    """Write a package: to the directory ``target``, or, where that ends in .ovf, to the descriptor
    of this name and files beside it.

    Options: ``manifest`` ("sha256", "sha1", "sha512", "off"), ``key`` and ``certificate`` (paths of
    PEM files) to sign it.
    """
    from vmimg.bundles.ovf.writing import make_ovf

    return make_ovf(package, target, how)
