"""What members say in JSON and YAML: read with bounds, whoever wrote them.

YAML is read as texts, lists and mappings and nothing else: no types, no tags, no merges, and no
aliases, of which a few lines nest to more than any memory. Sources: RFC 8259; YAML 1.1 as
PyYAML reads it. Imports storage and the model.
"""

from __future__ import annotations

import json
from typing import Any, Final

import yaml

from vmimg.errors import FormatError, StorageError
from vmimg.machines.model import ARCHITECTURES
from vmimg.probe.yaml import LOADER, yaml_problem
from vmimg.storage.folder import Folder

__all__ = [
    "MAX_TEXT",
    "architecture_of",
    "listed",
    "need",
    "read_json",
    "read_text",
    "read_yaml",
    "textual",
]

MAX_TEXT: Final = 4 << 20
"""The largest member that is read as metadata."""
_MAX_NUMBER: Final = 1 << 62


def read_text(folder: Folder, name: str, limit: int = MAX_TEXT) -> bytes:
    """All of a member that is metadata. Raises FormatError where it is larger than that."""
    size = folder.size(name)
    if size > limit:
        raise FormatError(
            f"{folder.name}: its member '{name}' has {size} bytes, "
            f"where metadata has {limit} at most"
        )
    return folder.read(name, limit)


def read_json(folder: Folder, name: str, kind: type | None = dict) -> Any:
    """A member that is JSON, of the ``kind`` that its outermost value must be of. Raises
    FormatError.
    """
    where = f"{folder.name}: its member '{name}'"
    try:
        said = json.loads(read_text(folder, name))
    except (ValueError, RecursionError):
        raise FormatError(f"{where} is no JSON") from None
    if kind is not None and not isinstance(said, kind):
        raise FormatError(f"{where} is JSON of another thing than {_KINDS[kind]}")
    return said


_KINDS: Final[dict[type, str]] = {dict: "an object", list: "a list"}


def read_yaml(data: bytes, where: str) -> dict[str, Any]:
    """A mapping of texts, lists and mappings. ``where``: for messages. Raises FormatError."""
    problem = yaml_problem(data)
    if problem:
        raise FormatError(f"{where}: {problem}")
    try:
        said = yaml.load(data, Loader=LOADER)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise FormatError(f"{where}: is no YAML") from None
    if not isinstance(said, dict):
        raise FormatError(f"{where}: is no mapping")
    return said


# What Go and Docker, Debian and EC2 call them.
_ARCHITECTURES: Final = {
    "amd64": "x86_64", "386": "i686", "i386": "i686", "i586": "i686", "arm64": "aarch64",
    "arm": "armv7l", "armhf": "armv7l", "ppc64el": "ppc64le",
}  # fmt: skip


def architecture_of(name: Any) -> str:
    """By the model's name; "" for one that it does not know."""
    known = _ARCHITECTURES.get(name, name) if isinstance(name, str) else ""
    return known if known in ARCHITECTURES else ""


def textual(value: Any, limit: int = 256) -> str:
    """A text of a stranger, printable and no longer than ``limit``; "" for what is none."""
    if isinstance(value, bool | dict | list) or value is None:
        return ""
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        return ""
    return "".join(c if c.isprintable() else "?" for c in str(value)[:limit])


def listed(folder: Folder) -> dict[str, str]:
    """The names of a folder without a leading ``./``, each with the name that it has there."""
    found: dict[str, str] = {}
    for name in folder.names():
        found.setdefault(name.removeprefix("./"), name)
    return found


def need(folder: Folder, name: str, named_by: str) -> str:
    """``name``, which is there; raises StorageError where it is not."""
    if not folder.exists(name):
        raise StorageError(
            f"{folder.name}: '{named_by}' names '{textual(name)}', which is not in it"
        )
    return name
