"""What tests of bundles share: a disk, a machine, packing them; archives put together by hand."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samples import awkward_disk, write_sparse
from vmimg import storage as storages
from vmimg.bundles.bundle import Bundle
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.package import How, Made, Package, PackedDisk
from vmimg.bundles.registry import find
from vmimg.formats.opening import open_disk
from vmimg.machines.model import CPUs, Drive, Machine, Network

SIZE = 3 << 20
MACHINE = Machine(
    name="server",
    description='A "server" #{of} ours',
    architecture="x86_64",
    cpus=CPUs(2),
    memory=2 << 30,
    drives=(Drive(bus="virtio"),),
    networks=(Network(model="virtio", mac="52:54:00:12:34:56", kind="nat"),),
)


def disk_file(folder: Path, name: str = "disk.raw", seed: int = 5, size: int = SIZE) -> Path:
    """A raw disk with text, noise and zeros."""
    return write_sparse(folder / name, awkward_disk(size, seed=seed))


def pack(
    kind: str,
    target: Path,
    disks: list[Path],
    *,
    machine: Machine = MACHINE,
    files: Mapping[str, Path] | None = None,
    format: str = "",
    replace: bool = False,
    threads: int = 0,
    **options: Any,
) -> Made:
    """Make a bundle through its row of the registry, as `vmimg pack` does."""
    row = find(kind)
    opened = [open_disk(path, format="raw") for path in disks]
    carried = {name: storages.open(path) for name, path in (files or {}).items()}
    try:
        packed = tuple(
            PackedDisk(f"server-disk{n}", disk, n - 1) for n, disk in enumerate(opened, 1)
        )
        how = How(
            options=row.parse_options(options), format=format, replace=replace, threads=threads
        )
        return row.make(Package(machine, packed, carried), str(target), how)
    finally:
        for each in (*opened, *carried.values()):
            each.close()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The bundle at ``path``, as every command opens it."""
    with open_bundle(path) as bundle:
        yield bundle


def content(bundle: Bundle, name: str | None = None, **settings: Any) -> bytes:
    """All of a disk in it."""
    with bundle.open_disk(name, **settings) as disk:
        return disk.read(0, disk.size)


def tar_file(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    """A tar by Python's module; ``mode`` "w:gz", "w:xz" and the like compress it."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The same as a directory."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
