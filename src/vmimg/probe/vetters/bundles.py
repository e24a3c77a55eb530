"""Vets bundles: whether what describes them tells the truth about their members, and names nothing
outside.

Descriptions in XML go through `vmimg.probe.xml`, those in JSON are read up to 1 MiB; none is
believed about anything but itself. Sources: DSP0243 2.1, chapters 5 to 7 (references, disks, the
manifest); Docker's image specification 1.2; OCI image layout 1.1; Vagrant's "Box File Format";
LXD's "Image format". Imports the recogniser of bundles and the archive readers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, is_outside, printable
from vmimg.probe.entries import Archive, Entry, base_of
from vmimg.probe.recognisers.bundles import Members
from vmimg.probe.tar import BLOCK, header_of, read_tar
from vmimg.probe.vetters.members import Tally
from vmimg.probe.xml import MAX_BYTES, Element, scan, vet_xml
from vmimg.probe.yaml import yaml_problem
from vmimg.probe.zip import read_zip

__all__ = ["VETTERS", "vet_envelope"]

_MAX_MEMBERS: Final = 4096
_MAX_JSON: Final = 1 << 20
_MAX_DESCRIPTORS: Final = 4
# Names that a manifest or a description may list.
_MAX_LISTED: Final = 4096


def vet_ova(view: View) -> Iterator[Finding]:
    """The OVF descriptor in an archive, and the manifest beside it."""
    members = _members(view)
    if members is None:
        return
    descriptors = members.ending(".ovf", depth=8)
    if len(descriptors) > 1:
        yield Finding.of(
            "copies-disagree",
            f"it has {len(descriptors)} OVF descriptors, and programs differ in which they take",
            offset=descriptors[1].offset,
            evidence=descriptors[1].name,
        )
    for entry in descriptors[:_MAX_DESCRIPTORS]:
        data = _content(members.archive, entry, MAX_BYTES + 1)
        if data is None:
            yield _unread(entry)
            continue
        yield from _vet_ovf(data, members, entry)
    for entry in members.ending(".mf", depth=8)[:_MAX_DESCRIPTORS]:
        data = _content(members.archive, entry, _MAX_JSON)
        yield from _vet_manifest(data, members, entry) if data is not None else (_unread(entry),)


def vet_envelope(view: View) -> Iterator[Finding]:
    """An OVF descriptor by itself: whether its parts fit together."""
    if view.size <= MAX_BYTES:
        yield from _vet_references(view.read(0, MAX_BYTES), None, "", None)


def vet_xva(view: View) -> Iterator[Finding]:
    """The description in an XVA."""
    members = _members(view)
    entry = members.get("ova.xml") if members is not None else None
    if members is not None and entry is not None:
        data = _content(members.archive, entry, MAX_BYTES + 1)
        if data is not None:
            yield from vet_xml(data, where=_where(entry), offset=entry.data)


def vet_vagrant(view: View) -> Iterator[Finding]:
    """A box: its metadata, the OVF in it, and the program that it may bring."""
    members = _members(view)
    if members is None:
        return
    for program in members.ending("vagrantfile", depth=2)[:1]:
        yield Finding.of(
            "runs-program",
            f"its member '{program.name}' is a program in Ruby, which Vagrant runs on the host",
            offset=program.offset,
        )
    entry = members.get("metadata.json")
    if entry is not None:
        said, problem = _json(members, entry)
        if problem is not None:
            yield problem
        disks = said.get("disks") if isinstance(said, dict) else None
        for disk in disks[:64] if isinstance(disks, list) else ():
            path = disk.get("path") if isinstance(disk, dict) else None
            if isinstance(path, str):
                yield from _named(path, members, entry, "a disk")
    if members.ending(".ovf", depth=8):
        yield from vet_ova(view)


def vet_lxd(view: View) -> Iterator[Finding]:
    """The metadata of an image, and the templates that it has put into its container."""
    members = _members(view)
    entry = members.get("metadata.yaml") if members is not None else None
    data = _content(members.archive, entry, _MAX_JSON) if members and entry else None
    problem = yaml_problem(data) if data is not None else ""
    if problem and entry is not None:
        yield Finding.of("malformed", f"{_where(entry)}{printable(problem)}", offset=entry.data)
    for match in list(_TEMPLATE.finditer(data or b""))[:64]:
        name = match.group(1).decode("utf-8", "replace").strip()
        if entry is not None and is_outside(name):
            yield _outside(name, entry, "a template")


# Not \s, which takes the ends of lines too: a text of empty ones would take hours.
_TEMPLATE: Final = re.compile(
    rb'^[ \t]+"?template"?\s*:\s*["\']?([^"\'\r\n#]{1,4096})', re.MULTILINE
)


def vet_docker(view: View) -> Iterator[Finding]:
    """The manifest of a Docker image archive."""
    members = _members(view)
    entry = members.get("manifest.json") if members is not None else None
    if members is None or entry is None:
        return
    said, problem = _json(members, entry)
    if problem is not None:
        yield problem
    tally = Tally()
    for image in said[:64] if isinstance(said, list) else ():
        if not isinstance(image, dict):
            continue
        layers = image.get("Layers")
        names = [image.get("Config"), *(layers if isinstance(layers, list) else ())]
        for name in names[:_MAX_LISTED]:
            if isinstance(name, str):
                for finding in _named(name, members, entry, "a layer or its configuration"):
                    yield from tally.tell(finding)
    yield from tally.rest()


def vet_oci(view: View) -> Iterator[Finding]:
    """The index of an OCI image archive."""
    members = _members(view)
    entry = members.get("index.json") if members is not None else None
    if members is None or entry is None:
        return
    said, problem = _json(members, entry)
    if problem is not None:
        yield problem
    manifests = said.get("manifests") if isinstance(said, dict) else None
    tally = Tally()
    for manifest in manifests[:_MAX_LISTED] if isinstance(manifests, list) else ():
        for finding in _vet_blob(manifest, members, entry):
            yield from tally.tell(finding)
    yield from tally.rest()


def _vet_blob(descriptor: Any, members: Members, entry: Entry) -> Iterator[Finding]:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str):
        yield Finding.of("malformed", f"{_where(entry)}a manifest has no digest")
        return
    if not re.fullmatch(r"[a-z0-9+._-]{1,32}:[A-Za-z0-9=_-]{1,128}", digest):
        yield Finding.of(
            "names-outside", f"{_where(entry)}'{printable(digest)}' is no digest", evidence=digest
        )
        return
    path = "blobs/" + digest.replace(":", "/")
    blob = members.get(path)
    if blob is None:
        if members.archive.complete:
            yield _missing(path, entry)
    elif isinstance(descriptor.get("size"), int) and descriptor["size"] != blob.size:
        yield _other_size(blob, descriptor["size"], entry)


# OVF


def _vet_ovf(data: bytes, members: Members, entry: Entry) -> Iterator[Finding]:
    where = _where(entry)
    yield from vet_xml(data, where=where, offset=entry.data)
    yield from _vet_references(data, members, where, entry)


def _vet_references(
    data: bytes, members: Members | None, where: str, entry: Entry | None
) -> Iterator[Finding]:
    found = scan(data, ("File", "Disk", "HostResource"))
    if found.root != "Envelope":
        if not found.code:
            yield Finding.of("malformed", f"{where}it is no OVF: its root is '{found.root}'")
        return
    tally = Tally()
    files = [e for e in found.elements if e.name == "File" and "References" in e.within]
    disks = [e for e in found.elements if e.name == "Disk" and "DiskSection" in e.within]
    for finding in _vet_files(files, members, where, entry):
        yield from tally.tell(finding)
    # What could not be read to its end lacks what is behind.
    known = {file.attributes.get("id") for file in files}
    for disk in disks if not found.code else ():
        wanted = disk.attributes.get("fileRef")
        if wanted and wanted not in known:
            message = f"{where}a disk is in the file '{printable(wanted)}', which is not listed"
            yield from tally.tell(Finding.of("manifest-lies", message, evidence=wanted))
    for element in found.elements:
        name = element.text.strip()
        if element.name == "HostResource" and _is_hosts(name):
            message = f"{where}an item asks for '{printable(name)}' of the host"
            yield from tally.tell(Finding.of("names-outside", message, evidence=name))
    yield from tally.rest()


def _is_hosts(name: str) -> bool:
    """Whether a HostResource is no part of the package. VirtualBox leaves out the ``ovf:``."""
    if name.startswith(("ovf:", "/disk/", "/file/")):
        return False
    return name.startswith(("/", "\\")) or "://" in name or name[1:2] == ":"


def _vet_files(
    files: list[Element], members: Members | None, where: str, entry: Entry | None
) -> Iterator[Finding]:
    for key in ("id", "href"):
        counts = Counter(file.attributes.get(key) for file in files)
        for value, count in counts.items():
            if value is not None and count > 1:
                message = f"{where}{count} files have the {key} '{printable(value)}'"
                yield Finding.of("manifest-lies", message, evidence=value)
    for file in files:
        href = file.attributes.get("href", "")
        if entry is None or members is None:
            continue
        name = unquote(href)
        if is_outside(href) or is_outside(name):
            yield _outside(href, entry, "a file")
            continue
        if "chunkSize" in file.attributes:
            continue  # in pieces with numbers behind their names
        member = _beside(members, entry, href) or _beside(members, entry, name)
        if member is None:
            if members.archive.complete:
                yield _missing(href, entry)
            continue
        size = file.attributes.get("size", "")
        if size and size != str(member.size) and size.lstrip("0") != str(member.size):
            yield _other_size(member, printable(size), entry)


def _vet_manifest(data: bytes, members: Members, entry: Entry) -> Iterator[Finding]:
    names: list[str] = []
    odd = 0
    for line in data.decode("utf-8", "replace").splitlines()[:_MAX_LISTED]:
        match = _CHECKSUM.fullmatch(line.strip())
        if match is not None:
            names.append(match.group(1))
        elif line.strip():
            odd += 1
    if odd:
        yield Finding.of("odd-field", f"{_where(entry)}{odd} lines are no checksums")
    tally = Tally()
    for name, count in Counter(names).items():
        if count > 1:
            message = f"{_where(entry)}it names '{printable(name)}' {count} times"
            yield from tally.tell(Finding.of("manifest-lies", message, evidence=name))
        for finding in _named(name, members, entry, "a file"):
            yield from tally.tell(finding)
    yield from tally.rest()


_CHECKSUM: Final = re.compile(r"[A-Z]{1,8}-?\d{1,4}\s*\((.{1,1024})\)\s*=\s*[0-9a-fA-F]{1,256}")


# What they have in common


def _members(view: View) -> Members | None:
    block = view.read(0, BLOCK)
    if len(block) == BLOCK and header_of(block) is not None:
        return Members(read_tar(view, _MAX_MEMBERS))
    found = read_zip(view, _MAX_MEMBERS)
    return Members(found) if found.end is not None else None


def _content(archive: Archive, entry: Entry, limit: int) -> bytes | None:
    """A member; None where it cannot be read, or its archive ends in it."""
    data = archive.content(entry, limit)
    return data if data is not None and len(data) == min(entry.size, limit) else None


def _json(members: Members, entry: Entry) -> tuple[Any, Finding | None]:
    data = _content(members.archive, entry, _MAX_JSON + 1)
    if data is None:
        return None, _unread(entry)
    if len(data) > _MAX_JSON:
        return None, Finding.of("malformed", f"{_where(entry)}it has {entry.size} bytes")
    try:
        return json.loads(data), None
    except (ValueError, RecursionError):
        return None, Finding.of("malformed", f"{_where(entry)}it is no JSON", offset=entry.data)


def _named(name: str, members: Members, entry: Entry, what: str) -> Iterator[Finding]:
    """What is wrong with a name in the member ``entry``."""
    if is_outside(name):
        yield _outside(name, entry, what)
    elif members.archive.complete and _beside(members, entry, name) is None:
        yield _missing(name, entry)


def _beside(members: Members, entry: Entry, name: str) -> Entry | None:
    """The member that ``entry`` means by ``name``: from its own directory."""
    folder = "/".join(part for part in entry.name.split("/")[:-1] if part not in ("", "."))
    name = "/".join(part for part in name.split("/") if part not in ("", "."))
    found = members.at.get(f"{folder}/{name}" if folder else name)
    return found if found is not None and found.kind in ("file", "symlink", "hardlink") else None


def _where(entry: Entry) -> str:
    return f"its member '{printable(base_of(entry))}': "


def _outside(name: str, entry: Entry, what: str) -> Finding:
    return Finding.of(
        "names-outside",
        f"{_where(entry)}{what} is '{printable(name)}'",
        offset=entry.offset,
        evidence=name,
    )


def _missing(name: str, entry: Entry) -> Finding:
    return Finding.of(
        "manifest-lies",
        f"{_where(entry)}it names '{printable(name)}', which is not there",
        offset=entry.offset,
        evidence=name,
    )


def _other_size(member: Entry, said: int | str, entry: Entry) -> Finding:
    return Finding.of(
        "member-size",
        f"{_where(entry)}'{printable(member.name)}' is said to have {said} bytes, and has "
        f"{member.size}",
        offset=member.offset,
    )


def _unread(entry: Entry) -> Finding:
    return Finding.of("unfinished", f"{_where(entry)}it could not be read", offset=entry.offset)


VETTERS: Final[dict[str, Callable[[View], Iterator[Finding]]]] = {
    "ova": vet_ova,
    "ovf": vet_envelope,
    "xva": vet_xva,
    "vagrant": vet_vagrant,
    "lxd": vet_lxd,
    "docker": vet_docker,
    "oci": vet_oci,
}
