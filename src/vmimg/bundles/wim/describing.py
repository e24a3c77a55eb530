"""What the XML of a WIM says of its images, for people and scripts.

Source: the white paper (its XML), Windows ADK's "WIM image properties" for the numbers of
architectures. Imports machines.xml.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from vmimg.bundles.wim.structures import EPOCH
from vmimg.errors import FormatError
from vmimg.machines.xml import Element, attribute, children, find, number, parse, text

__all__ = ["MAX_IMAGES", "described"]

MAX_IMAGES: Final = 4096
_ARCHITECTURES: Final = {0: "x86", 5: "arm", 6: "ia64", 9: "x86_64", 12: "aarch64"}
_MAX_TEXT: Final = 256


def described(data: bytes, name: str) -> tuple[dict[str, Any], ...]:
    """Facts of each image, in the order of the document; ``name``: the archive's, for messages.

    Raises FormatError for what is no such document, or has entities.
    """
    root = parse(data, f"{name}: the description of its images", root="WIM")
    images = [dict(_facts(image, name)) for image in children(root, "IMAGE")]
    if len(images) > MAX_IMAGES:
        raise FormatError(f"{name}: describes {len(images)} images")
    return tuple(images)


def _facts(image: Element, name: str) -> Iterator[tuple[str, Any]]:
    yield "index", number(attribute(image, "INDEX"), "INDEX", name, high=MAX_IMAGES)
    yield "name", _short(text(image, "NAME"))
    for key, path in (
        ("description", ("DESCRIPTION",)),
        ("edition", ("WINDOWS", "EDITIONID")),
        ("installation", ("WINDOWS", "INSTALLATIONTYPE")),
    ):
        value = _short(text(image, *path))
        if value:
            yield key, value
    version = _version(image)
    if version:
        yield "windows-version", version
    architecture = text(image, "WINDOWS", "ARCH")
    if architecture.isdecimal() and len(architecture) < 6:
        yield "architecture", _ARCHITECTURES.get(int(architecture), architecture)
    languages = find(image, "WINDOWS", "LANGUAGES")
    if languages is not None:
        names = [_short(text(each)) for each in list(children(languages, "LANGUAGE"))[:32]]
        yield "languages", " ".join(names)
    for key, tag in (("total-size", "TOTALBYTES"), ("files", "FILECOUNT"), ("dirs", "DIRCOUNT")):
        yield key, number(text(image, tag), tag, name, high=(1 << 64) - 1)
    created = _time(image)
    if created:
        yield "created", created


def _version(image: Element) -> str:
    parts = [
        text(image, "WINDOWS", "VERSION", each) for each in ("MAJOR", "MINOR", "BUILD", "SPBUILD")
    ]
    return ".".join(each[:16] for each in parts if each.isdecimal())


def _time(image: Element) -> str:
    """When it was made: two halves of a number, in hexadecimal."""
    halves = [text(image, "CREATIONTIME", each) for each in ("HIGHPART", "LOWPART")]
    try:
        high, low = (int(each[:10], 16) for each in halves)
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            microseconds=((high << 32 | low) - EPOCH) // 10
        )
    except (ValueError, OverflowError):
        return ""
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _short(value: str) -> str:
    return value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}..."
