"""create_seed: the disc from which cloud-init's NoCloud configures a machine at its first boot.

A volume named CIDATA with the files user-data and meta-data, network-config and vendor-data where
they are given. What is in them is not parsed: only whether user-data begins as cloud-init expects.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from typing import Final

from vmimg.errors import OptionError
from vmimg.formats.iso.making import source_date, write_disc
from vmimg.formats.iso.tree import Node
from vmimg.storage.output import Output

__all__ = ["SeedResult", "create_seed"]

_LABEL: Final = "CIDATA"
# How user-data may begin, in cloud-init's "User data formats"; case does not matter to it.
_HEADERS: Final = (
    b"#cloud-config",
    b"#!",
    b"## template: jinja",
    b"#include",
    b"#cloud-boothook",
    b"#part-handler",
    b"#upstart-job",
    b"content-type: multipart/",
    b"mime-version:",
    b"\x1f\x8b",  # gzip, of any of these
)
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What was made; ``size`` in bytes. ``instance_id`` is None where meta-data was given.
    ``warnings``: what cloud-init will probably not take, in lines.
    """

    path: str
    size: int
    label: str
    instance_id: str | None
    files: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def create_seed(
    path: str | os.PathLike[str],
    user_data: bytes,
    *,
    meta_data: bytes | None = None,
    network_config: bytes | None = None,
    vendor_data: bytes | None = None,
    instance_id: str | None = None,
    hostname: str | None = None,
    replace: bool = False,
) -> SeedResult:
    """Make the seed image ``path`` of the contents of its files.

    Without ``meta_data`` it is made of ``instance_id`` and ``hostname``. cloud-init runs again when
    the instance's id changes: it is a hash of the contents where none is given, so equal seeds are
    equal files. Needs pycdlib. Raises OptionError, StorageError and UnsupportedFeature.
    """
    target = os.fspath(path)
    if meta_data is not None and (instance_id is not None or hostname is not None):
        raise OptionError("an instance id or host name goes into the meta-data that is given")
    if hostname is not None and not _HOST_NAME.fullmatch(hostname):
        raise OptionError(f"'{hostname}' is not a host name")
    if instance_id is not None and (not instance_id.strip() or not instance_id.isprintable()):
        raise OptionError(f"{instance_id!r} is not an instance id")
    if meta_data is None:
        instance_id = instance_id or _instance_id(user_data, network_config, vendor_data, hostname)
        meta_data = _meta_data(instance_id, hostname)
    files = {
        "user-data": user_data,
        "meta-data": meta_data,
        "network-config": network_config,
        "vendor-data": vendor_data,
    }
    # No file of the user's is copied as such, so there is no time to take over.
    date = source_date() or 0
    root = Node("", stat.S_IFDIR | 0o755, date)
    for name, data in files.items():
        if data is not None:
            root.children.append(
                Node(name, stat.S_IFREG | 0o644, date, source=data, size=len(data))
            )
    with Output(target, replace=replace) as storage:
        size = write_disc(root, storage, label=_LABEL)
    return SeedResult(
        path=target,
        size=size,
        label=_LABEL,
        instance_id=instance_id,
        files=tuple(node.name for node in root.children),
        warnings=tuple(
            f"{name} does not begin as cloud-init expects, {_beginning(data)}: the first line is "
            "#cloud-config, #!/bin/sh, ## template: jinja or the like, with nothing in front"
            for name, data in (("user-data", user_data), ("vendor-data", vendor_data))
            if data is not None and not data.lower().startswith(_HEADERS)
        ),
    )


def _instance_id(*parts: bytes | str | None) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"-" if data is None else b"%d:" % len(data) + data)
    return f"iid-{digest.hexdigest()[:16]}"


def _meta_data(instance_id: str, hostname: str | None) -> bytes:
    # A string of JSON is one of YAML, whatever is in it.
    lines = [f"instance-id: {json.dumps(instance_id)}"]
    if hostname is not None:
        lines.append(f"local-hostname: {json.dumps(hostname)}")
    return "".join(f"{line}\n" for line in lines).encode()


def _beginning(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        return "but with a byte order mark"
    line = data.split(b"\n", 1)[0][:40].decode("utf-8", "replace").strip()
    return f"but with {line!r}" if line else "but with an empty line" if data else "being empty"
