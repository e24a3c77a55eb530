"""What tests of machines' own directories share: disks with parents, a directory packed."""

from __future__ import annotations

import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path

import vmimg
from samples import awkward_disk
from vmimg.disk.policy import ParentPolicy

SIZE = 3 << 20


def chain(folder: Path, format: str, *names: str, seed: int = 7) -> bytes:
    """Images in ``folder``, each the parent of the next; what the last one reads as."""
    content = bytearray(awkward_disk(SIZE, seed=seed))
    raw = folder / "raw.tmp"
    raw.write_bytes(content)
    folder.joinpath(names[0]).parent.mkdir(parents=True, exist_ok=True)
    vmimg.convert(raw, folder / names[0], format=format)
    raw.unlink()
    for at, (below, name) in enumerate(pairwise(names), 1):
        child = folder / name
        child.parent.mkdir(parents=True, exist_ok=True)
        vmimg.create(child, format=format, backing=str(folder / below), backing_format=format)
        piece = f"change {at}".encode().ljust(1024, b"!")
        with vmimg.open(child, writable=True, policy=ParentPolicy(allowed=(folder,))) as disk:
            disk.write(at * 70_000 // 512 * 512, piece)
        start = at * 70_000 // 512 * 512
        content[start : start + len(piece)] = piece
    return bytes(content)


def packings(folder: Path, target: Path) -> list[Path]:
    """``folder`` as a directory, a zip (stored and deflated), a tar and a tar.gz of it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    made = [folder]
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("small.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(target / name, "w", method) as archive:
            for path in files:
                archive.write(path, str(path.relative_to(folder.parent)))
        made.append(target / name)
    for name, mode in (("machine.tar", "w"), ("machine.tar.gz", "w:gz")):
        with tarfile.open(target / name, mode) as tar:  # type: ignore[call-overload]
            for path in files:
                tar.add(path, str(path.relative_to(folder.parent)))
        made.append(target / name)
    return made
