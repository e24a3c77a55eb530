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

    from vmimg.bundles.bundle import Bundle, BundleDisk, Verdict
    from vmimg.bundles.opening import open_bundle
    from vmimg.bundles.packing import Packed, pack, repack
    from vmimg.bundles.registry import BUNDLES
    from vmimg.bundles.unpacking import Unpacked, unpack
    from vmimg.bundles.verbs import compare, convert, dd, measure
    from vmimg.bundles.verbs import open_disk as open
    from vmimg.bundles.virtual import VirtualOva, streamed_ova, virtual_ova
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
    from vmimg.formats.registry import FORMATS
    from vmimg.formats.vetting import Finding, Severity
    from vmimg.machines.dialect import Dialect, Written
    from vmimg.machines.losses import Loss
    from vmimg.machines.model import Machine
    from vmimg.machines.reading import Description, read_machines, write_machine
    from vmimg.machines.registry import DIALECTS
    from vmimg.probe.claims import Claim
    from vmimg.probe.detecting import Detection, detect
    from vmimg.probe.inspector import Inspector
    from vmimg.probe.policy import Policy
    from vmimg.probe.vetting import Report, vet
    from vmimg.transfer.compare import CompareResult
    from vmimg.transfer.convert import ConvertResult
    from vmimg.transfer.create import create
    from vmimg.transfer.measure import MeasureResult
    from vmimg.transfer.streamed import streamed_image
    from vmimg.transfer.virtual import VirtualImage, virtual_image

__version__ = "0.1.0"

__all__ = [
    "BUNDLES",
    "DIALECTS",
    "FORMATS",
    "Bundle",
    "BundleDisk",
    "ChainError",
    "CheckReport",
    "Claim",
    "CompareResult",
    "ConvertResult",
    "Description",
    "Detection",
    "Dialect",
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
    "Loss",
    "Machine",
    "MeasureResult",
    "OptionError",
    "Packed",
    "ParentPolicy",
    "ParentRef",
    "Policy",
    "Report",
    "SeedResult",
    "Severity",
    "Snapshot",
    "StorageError",
    "Unpacked",
    "UnsafeImage",
    "UnsupportedFeature",
    "Verdict",
    "VirtualImage",
    "VirtualOva",
    "VmimgError",
    "Written",
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
    "open_bundle",
    "pack",
    "read_machines",
    "repack",
    "streamed_image",
    "streamed_ova",
    "unpack",
    "vet",
    "virtual_image",
    "virtual_ova",
    "write_machine",
]

# Where the public names are, by module; those that have another name there stand in _RENAMED.
_MODULES = {
    "bundles.bundle": ("Bundle", "BundleDisk", "Verdict"),
    "bundles.opening": ("open_bundle",),
    "bundles.packing": ("Packed", "pack", "repack"),
    "bundles.registry": ("BUNDLES",),
    "bundles.unpacking": ("Unpacked", "unpack"),
    "bundles.verbs": ("compare", "convert", "dd", "measure", "open"),
    "bundles.virtual": ("VirtualOva", "streamed_ova", "virtual_ova"),
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
    "formats.registry": ("FORMATS",),
    "formats.vetting": ("Finding", "Severity"),
    "machines.dialect": ("Dialect", "Written"),
    "machines.losses": ("Loss",),
    "machines.model": ("Machine",),
    "machines.reading": ("Description", "read_machines", "write_machine"),
    "machines.registry": ("DIALECTS",),
    "probe.claims": ("Claim",),
    "probe.detecting": ("Detection", "detect"),
    "probe.inspector": ("Inspector",),
    "probe.policy": ("Policy",),
    "probe.vetting": ("Report", "vet"),
    "transfer.compare": ("CompareResult",),
    "transfer.convert": ("ConvertResult",),
    "transfer.create": ("create",),
    "transfer.measure": ("MeasureResult",),
    "transfer.streamed": ("streamed_image",),
    "transfer.virtual": ("VirtualImage", "virtual_image"),
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
