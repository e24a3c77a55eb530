"""vmimg: virtual machine images, identified, vetted, read, written, checked and converted.

>>> import vmimg
>>> with vmimg.open("disk.qcow2") as disk:
...     boot_sector = disk.read(0, 512)
>>> vmimg.convert("disk.qcow2", "disk.raw")

Everything here is imported on first use: importing vmimg costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from vmimg.disk.extent import Extent, Kind
    from vmimg.disk.layer import Layer, ParentRef
    from vmimg.disk.policy import ParentPolicy
    from vmimg.disk.stack import Disk
    from vmimg.errors import (
        ChainError,
        FormatError,
        Interrupted,
        InUseError,
        LockedImage,
        OptionError,
        StorageError,
        UnsafeImage,
        UnsupportedFeature,
        VmimgError,
    )
    from vmimg.formats.checking import check
    from vmimg.formats.driver import CheckReport, ImageInfo, Snapshot
    from vmimg.formats.info import DiskInfo, image_info
    from vmimg.formats.iso.making import IsoResult, create_iso
    from vmimg.formats.iso.seed import SeedResult, create_seed
    from vmimg.formats.opening import open_disk as open
    from vmimg.formats.registry import FORMATS
    from vmimg.formats.vetting import Finding, Severity
    from vmimg.probe.claims import Claim
    from vmimg.probe.detecting import Detection, detect
    from vmimg.probe.inspector import Inspector
    from vmimg.probe.policy import Policy
    from vmimg.probe.vetting import Report, vet
    from vmimg.transfer.compare import CompareResult, compare
    from vmimg.transfer.convert import ConvertResult, convert
    from vmimg.transfer.create import create
    from vmimg.transfer.dd import dd
    from vmimg.transfer.measure import MeasureResult, measure

__version__ = "0.1.0"

__all__ = [
    "FORMATS",
    "ChainError",
    "CheckReport",
    "Claim",
    "CompareResult",
    "ConvertResult",
    "Detection",
    "Disk",
    "DiskInfo",
    "Extent",
    "Finding",
    "FormatError",
    "ImageInfo",
    "InUseError",
    "Inspector",
    "Interrupted",
    "IsoResult",
    "Kind",
    "Layer",
    "LockedImage",
    "MeasureResult",
    "OptionError",
    "ParentPolicy",
    "ParentRef",
    "Policy",
    "Report",
    "SeedResult",
    "Severity",
    "Snapshot",
    "StorageError",
    "UnsafeImage",
    "UnsupportedFeature",
    "VmimgError",
    "__version__",
    "check",
    "compare",
    "convert",
    "create",
    "create_iso",
    "create_seed",
    "dd",
    "detect",
    "image_info",
    "info",
    "measure",
    "open",
    "vet",
]

# Where the public names are, by module; those that have another name there stand in _RENAMED.
_MODULES = {
    "disk.extent": ("Extent", "Kind"),
    "disk.layer": ("Layer", "ParentRef"),
    "disk.policy": ("ParentPolicy",),
    "disk.stack": ("Disk",),
    "errors": (
        "ChainError",
        "FormatError",
        "InUseError",
        "Interrupted",
        "LockedImage",
        "OptionError",
        "StorageError",
        "UnsafeImage",
        "UnsupportedFeature",
        "VmimgError",
    ),
    "formats.checking": ("check",),
    "formats.driver": ("CheckReport", "ImageInfo", "Snapshot"),
    "formats.info": ("DiskInfo", "image_info"),
    "formats.iso.making": ("IsoResult", "create_iso"),
    "formats.iso.seed": ("SeedResult", "create_seed"),
    "formats.opening": ("open",),
    "formats.registry": ("FORMATS",),
    "formats.vetting": ("Finding", "Severity"),
    "probe.claims": ("Claim",),
    "probe.detecting": ("Detection", "detect"),
    "probe.inspector": ("Inspector",),
    "probe.policy": ("Policy",),
    "probe.vetting": ("Report", "vet"),
    "transfer.compare": ("CompareResult", "compare"),
    "transfer.convert": ("ConvertResult", "convert"),
    "transfer.create": ("create",),
    "transfer.dd": ("dd",),
    "transfer.measure": ("MeasureResult", "measure"),
}
_RENAMED = {"open": "open_disk"}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def info(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    policy: ParentPolicy | None = None,
    share: bool = False,
) -> DiskInfo:
    """What the image file at ``path`` says of itself; nothing that it names is opened.

    See `image_info`, which lists its whole chain.
    """
    from vmimg.disk.policy import ParentPolicy
    from vmimg.formats.info import image_info

    return image_info(path, format=format, policy=policy or ParentPolicy(), share=share)[0]


if not TYPE_CHECKING:  # for type checkers, only the names above exist

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"vmimg.{_HOMES[name]}"), _RENAMED.get(name, name))
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
