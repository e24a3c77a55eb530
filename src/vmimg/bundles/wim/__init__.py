"""WIM: images of file trees that Windows is installed from; ESD where they are packed as one.

There is no disk in it: images of files, described by an XML document. What is stored without
compression is read with what is here alone, and so are the header, the XML and the table of
checksums; chunks are decompressed by wimlib's libwim. Any file is read in place:

    header | blobs, solid resources | metadata of each image | table of blobs | XML | checksums

Sources: Microsoft's "Windows Imaging File Format (WIM)" white paper; wimlib's documentation and
headers for solid, pipable and split archives. Imports archive, folder; making when one is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from vmimg.bundles.bundle import Bundle, Unpacking, Verdict
from vmimg.bundles.wim.archive import Archive
from vmimg.bundles.wim.describing import described
from vmimg.bundles.wim.folder import WimFolder
from vmimg.errors import OptionError
from vmimg.formats.descriptor import Option

if TYPE_CHECKING:
    from vmimg.bundles.package import How, Made, Package
    from vmimg.probe.claims import Claim
    from vmimg.storage.folder import Folder
    from vmimg.transfer.engine import Progress

__all__ = ["WimBundle", "make", "open"]


class WimBundle(Bundle):
    """The images of an archive; `folder` has the files of all of them."""

    kind: ClassVar[str] = "wim"
    folder: WimFolder
    unpack_options: ClassVar[tuple[Option, ...]] = (
        Option(
            "streams", "further streams of files, as files called file:stream", kind="bool",
            default=False,
        ),
    )  # fmt: skip

    def __init__(self, folder: WimFolder) -> None:
        super().__init__(folder)
        archive = folder.archive
        header = archive.wim.header
        self.images = described(archive.xml(), archive.name)
        self.facts = {
            "compression": archive.wim.compression,
            "solid": bool(archive.wim.solid),
            "guid": archive.wim.guid,
            "part": f"{header.part_number} of {header.total_parts}",
            "boot-index": int(header.boot_index),
            "integrity-table": bool(header.integrity.size),
            **({"encrypted": True} if archive.wim.encrypted else {}),
            "images": list(self.images),
        }

    def count_files(self) -> int:
        return sum(int(image["files"]) for image in self.images)

    def verify(self, *, trust: bytes | None = None) -> Iterator[Verdict]:
        from vmimg.bundles.wim.verifying import verify_blobs, verify_integrity

        yield from verify_integrity(self.folder.archive)
        yield from verify_blobs(self.folder.archive)

    def unpack(
        self,
        target: str,
        part: str | None,
        options: Mapping[str, Any],
        progress: Progress | None,
        *,
        limit: int,
    ) -> Unpacking:
        from vmimg.bundles.wim.extracting import extract

        if part is not None:
            images = {self._image(part): target}
        elif len(self.folder.images()) == 1:
            images = {1: target}
        else:
            images = {image: f"{target}/{image}" for image in self.folder.images()}
        return extract(
            self.folder, images, streams=options["streams"], limit=limit, progress=progress
        )

    def _image(self, name: str) -> int:
        """The number of the image that is called so, or has that number."""
        for number, image in enumerate(self.images, 1):
            if name == image["name"]:
                return number
        if name.isdecimal() and 0 < int(name[:9]) <= len(self.folder.images()):
            return int(name)
        names = ", ".join(image["name"] for image in self.images)
        raise OptionError(f"{self.name}: there is no image '{name}' in it; there is: {names}")


class EsdBundle(WimBundle):
    """One whose blobs are packed together."""

    kind: ClassVar[str] = "esd"


def open(folder: Folder, claim: Claim) -> WimBundle:
    """The archive that is `Folder.index`; the other parts of a split one lie beside it."""
    archive = Archive(folder, folder.index)
    try:
        kind = EsdBundle if archive.wim.solid else WimBundle
        return kind(WimFolder(archive, folder))
    except BaseException:
        archive.close()
        raise


def make(package: Package, target: str, how: How) -> Made:
    """An archive of one image, of the files in `Package.directory`."""
    from vmimg.bundles.wim.making import make_wim

    return make_wim(package, target, how)
