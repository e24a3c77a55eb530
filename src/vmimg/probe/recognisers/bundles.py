"""Bundles: what an archive is by what it holds. Appliances, boxes and containers of images.

Each kind is told by members that it must have, and by their content where that can be read. Kinds
that have strong marks are all claimed, for an archive that is two of them is made to deceive; of
the rest the first that fits. Sources: DMTF DSP0243 (OVF, OVA); XenServer's and XCP-ng's XVA;
Vagrant's "Box File Format"; LXD's and Incus's "Image format"; Docker's image specification 1.2; OCI
image layout 1.1; KubeVirt's containerDisks; Google's "Manually import boot disks"; Ubuntu's UEC
images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vmimg.formats.vetting import printable
from vmimg.probe.claims import Claim, Evidence
from vmimg.probe.entries import TELLING_BYTES, Archive, Entry, base_of, disk_kind, is_disk, path_of
from vmimg.probe.layers import disks_in_layers
from vmimg.probe.xml import root_of

__all__ = ["Members", "bundles_in"]

_MAX_NAMES: Final = 8


class Members:
    """The members of an archive, looked up by path and by what they are."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.entries = archive.entries
        self.paths = [path_of(entry) for entry in self.entries]
        self.at = dict(zip(reversed(self.paths), reversed(self.entries), strict=True))
        # A whole tree has files of all names: what counts is outside of it.
        self.outer = [
            (path, entry)
            for path, entry in zip(self.paths, self.entries, strict=True)
            if path and not path.startswith("rootfs/")
        ]

    def get(self, path: str) -> Entry | None:
        """The first file of that path."""
        found = self.at.get(path)
        return found if found is not None and found.kind == "file" else None

    def ending(self, *suffixes: str, depth: int = 1) -> list[Entry]:
        """Files whose names end like that, in no more than ``depth`` directories."""
        return [
            entry
            for path, entry in self.outer
            if entry.kind == "file" and path.lower().endswith(suffixes) and path.count("/") <= depth
        ]

    def disks(self) -> list[Entry]:
        """Files that are called like disks."""
        return [entry for _, entry in self.outer if is_disk(entry)]

    def text(self, entry: Entry | None) -> bytes | None:
        """The beginning of a member, where it can be read."""
        return None if entry is None else self.archive.content(entry, TELLING_BYTES)

    def json(self, entry: Entry | None) -> Any:
        """A member that is JSON, read; None where it is not, or cannot be read."""
        data = self.text(entry)
        try:
            return json.loads(data) if data else None
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class _Found:
    """What a kind of bundle was told by. ``marks``: the members, the most telling first."""

    name: str
    title: str
    confidence: int
    marks: tuple[Entry, ...]
    details: Mapping[str, Any]
    container_format: str = ""
    refines: tuple[str, ...] = ()


def bundles_in(archive: Archive, outer: str) -> Iterator[Claim]:
    """Claims of family "bundle" on an archive whose own claim has the name ``outer``."""
    if not archive.entries:
        return
    members = Members(archive)
    strong = [found for look in _STRONG if (found := look(members)) is not None]
    if not strong:
        strong = [f for look in _WEAK if (f := look(members)) is not None][:1]
    for found in strong:
        yield Claim(
            found.name,
            "bundle",
            found.title,
            found.confidence,
            evidence=tuple(
                Evidence(entry.offset, f"member '{printable(entry.name)}'")
                for entry in found.marks[:_MAX_NAMES]
            ),
            details=found.details,
            refines=(outer, *found.refines),
            container_format=found.container_format,
        )


def _ova(members: Members) -> _Found | None:
    if _box_metadata(members) is not None:
        return None
    descriptors = members.ending(".ovf")
    if not descriptors:
        return None
    if base_of(descriptors[0]).lower() == "box.ovf" and members.ending("vagrantfile"):
        # A box of Vagrant's first version, which has no metadata.
        return None
    text = members.text(descriptors[0])
    root = root_of(text) if text else None
    if root is not None and root[0] != "Envelope":
        return None
    details: dict[str, Any] = {
        "ovf": _names(descriptors),
        "disks": _names(members.disks()),
        "descriptor-first": members.entries[0] is descriptors[0],
    }
    if root is not None:
        details["ovf-version"] = _ovf_version(root[1])
    manifests = members.ending(".mf")
    if manifests:
        details["manifest"] = printable(manifests[0].name)
    certificates = members.ending(".cert")
    if certificates:
        details["certificate"] = printable(certificates[0].name)
    marks = (*descriptors[:2], *members.disks()[:4])
    return _Found("ova", "OVA appliance", 100 if root else 80, marks, details, "ova")


def _ovf_version(attributes: Mapping[str, str]) -> str:
    said = attributes.get("ovf:version") or attributes.get("version")
    if said:
        return printable(said[:16])
    spaces = " ".join(value for key, value in attributes.items() if key.startswith("xmlns"))
    found = re.search(r"/ovf/envelope/(\d)", spaces)
    return found.group(1) if found else "0.9" if "/ovf/1/" in spaces else ""


def _xva(members: Members) -> _Found | None:
    described = members.get("ova.xml")
    if described is None:
        return None
    blocks = [
        entry for path, entry in members.outer if re.fullmatch(r"Ref:\d+/\d{8,}", path, re.ASCII)
    ]
    disks = sorted({path_of(entry).partition("/")[0] for entry in blocks})
    text = members.text(described)
    known = text is not None and root_of(text) is not None
    if not blocks and not known:
        return None
    details = {"disks": disks[:16], "blocks-seen": len(blocks)}
    confidence = 100 if blocks and known else 90 if blocks else 60
    return _Found("xva", "XVA export of XenServer or XCP-ng", confidence, (described, *blocks[:1]),
                  details)  # fmt: skip


def _box_metadata(members: Members) -> Mapping[str, Any] | None:
    """Vagrant's metadata, which has a provider."""
    said = members.json(members.get("metadata.json"))
    if isinstance(said, dict) and isinstance(said.get("provider"), str):
        return said
    return None


_BOX_MARKS: Final = (
    # (provider, what one of its files is called)
    ("libvirt", ("box.img", "box_0.img", "box.qcow2")),
    ("virtualbox", (".ovf", ".vbox")),
    ("vmware_desktop", (".vmx",)),
    ("hyperv", (".vmcx", ".vhdx", ".vhd")),
    ("parallels", ("config.pvs",)),
)


def _vagrant(members: Members) -> _Found | None:
    said = _box_metadata(members)
    metadata = members.get("metadata.json")
    vagrantfile = members.ending("vagrantfile")
    found = None
    for provider, suffixes in _BOX_MARKS:
        files = members.ending(*suffixes, depth=2)
        if files:
            found = provider, files
            break
    if said is None and (found is None or not (vagrantfile or _is_named(found[1], "box."))):
        return None
    if said is None and metadata is None and found is not None and not vagrantfile:
        return None
    if said is not None and found is None and not vagrantfile and len(members.outer) > 64:
        return None
    provider = str(said["provider"]) if said is not None else found[0] if found else ""
    details: dict[str, Any] = {"provider": printable(provider[:64])}
    if said is not None:
        for key in ("format", "virtual_size", "architecture", "version"):
            if isinstance(said.get(key), str | int):
                details[key.replace("_", "-")] = printable(str(said[key])[:64])
    details["disks"] = _names(members.disks())
    marks = [metadata] if said is not None and metadata is not None else []
    marks += [*(found[1][:2] if found else []), *vagrantfile[:1]]
    return _Found(
        "vagrant",
        f"Vagrant box for {details['provider']}",
        100 if said is not None and found else 90 if said is not None else 70,
        tuple(marks),
        details,
        refines=("ova", "pvm"),
    )


def _is_named(entries: list[Entry], start: str) -> bool:
    return any(base_of(entry).startswith(start) for entry in entries)


# Not \s, which takes the ends of lines too: a text of empty ones would take minutes.
_ARCHITECTURE: Final = re.compile(rb'^[ \t]*"?architecture"?\s*:\s*"?([\w.-]+)', re.MULTILINE)
_PROPERTY: Final = re.compile(rb'^[ \t]+"?(os|release|variant)"?\s*:\s*"?([\w. -]+)', re.MULTILINE)


def _lxd(members: Members) -> _Found | None:
    described = members.get("metadata.yaml")
    if described is None:
        return None
    root = ""
    for name in ("rootfs.img", "rootfs.squashfs"):
        root = root or (name if members.get(name) is not None else "")
    if not root and any(path == "rootfs" or path.startswith("rootfs/") for path in members.paths):
        root = "rootfs/"
    templates = any(path.startswith("templates/") for path in members.paths)
    text = members.text(described)
    said = _ARCHITECTURE.search(text) if text is not None else None
    if said is None and (text is not None or not root):
        return None
    details: dict[str, Any] = {"kind": "unified" if root else "metadata only"}
    if root:
        details["root"] = root
        details["type"] = "virtual-machine" if root == "rootfs.img" else "container"
    if said is not None and text is not None:
        details["architecture"] = said.group(1).decode()
        for key, value in _PROPERTY.findall(text)[:8]:
            details.setdefault(key.decode(), value.decode().strip())
    confidence = (100 if root or templates else 80) if said is not None else 70
    marks = [described]
    if (entry := members.get(root)) is not None:
        marks.append(entry)
    title = "LXD or Incus image" if root else "metadata of an LXD or Incus image"
    return _Found("lxd", title, confidence, tuple(marks), details)


def _docker(members: Members) -> _Found | None:
    manifest = members.get("manifest.json")
    if manifest is None:
        return None
    said = members.json(manifest)
    images = said if isinstance(said, list) else []
    first = images[0] if images and isinstance(images[0], dict) else {}
    layers = first.get("Layers")
    known = isinstance(layers, list) and isinstance(first.get("Config"), str)
    layered = any(path.endswith("/layer.tar") for path, _ in members.outer)
    if not known and (said is not None or not layered):
        return None
    details: dict[str, Any] = {}
    if known:
        tags = first.get("RepoTags")
        details["images"] = len(images)
        details["layers"] = len(layers) if isinstance(layers, list) else 0
        if isinstance(tags, list):
            details["tags"] = [printable(str(tag)[:128]) for tag in tags[:_MAX_NAMES]]
    marks = [manifest]
    repositories = members.get("repositories")
    if repositories is not None:
        marks.append(repositories)
    return _Found("docker", "Docker image archive", 100 if known else 80, tuple(marks),
                  details, "docker", ("oci",))  # fmt: skip


def _oci(members: Members) -> _Found | None:
    layout, index = members.get("oci-layout"), members.get("index.json")
    if layout is None or index is None:
        return None
    said = members.json(layout)
    version = said.get("imageLayoutVersion") if isinstance(said, dict) else None
    blobs = [entry for path, entry in members.outer if path.startswith("blobs/")]
    if not isinstance(version, str) and (said is not None or not blobs):
        return None
    details: dict[str, Any] = {"blobs-seen": len(blobs)}
    if isinstance(version, str):
        details["layout-version"] = printable(version[:16])
    listed = members.json(index)
    manifests = listed.get("manifests") if isinstance(listed, dict) else None
    if isinstance(manifests, list):
        details["manifests"] = len(manifests)
    return _Found("oci", "OCI image archive", 100 if version else 80, (layout, index),
                  details)  # fmt: skip


def _containerdisk(members: Members) -> _Found | None:
    # As sure as what it is in, so that the two come and go together.
    docker = _docker(members)
    outer = docker or _oci(members)
    if outer is None:
        return None
    found = next(disks_in_layers(members.archive), None)
    if found is None:
        return None
    details = {
        "disk": printable(found.disk.name),
        "kind": found.kind,
        "disk-size": found.disk.real_size or found.disk.size,
        "layer": found.packed or "plain",
    }
    return _Found(
        "containerdisk",
        f"containerDisk of KubeVirt ({found.kind})",
        outer.confidence,
        (found.layer, *outer.marks[:1]),
        details,
        "docker" if docker else "",
        ("docker", "oci"),
    )


def _gce(members: Members) -> _Found | None:
    files = [(path, entry) for path, entry in members.outer if entry.kind != "directory"]
    if len(files) != 1 or files[0][0] != "disk.raw" or files[0][1].kind != "file":
        return None
    disk = files[0][1]
    details = {"disk-size": disk.real_size or disk.size, "sparse": bool(disk.real_size)}
    confidence = 90 if members.archive.complete else 80
    return _Found("gce", "Google Compute Engine image", confidence, (disk,), details)


def _uec(members: Members) -> _Found | None:
    kernels = [e for p, e in members.outer if "vmlinuz" in base_of(e) and p.count("/") <= 1]
    disks = [e for e in members.ending(".img") if "initrd" not in base_of(e)]
    if not kernels or not disks or len(members.outer) > 32:
        return None
    initrds = [e for _, e in members.outer if "initrd" in base_of(e)]
    details = {"kernel": printable(kernels[0].name), "disks": _names(disks)}
    return _Found("uec", "UEC image: a disk with its kernel", 80, (kernels[0], *initrds[:1],
                  disks[0]), details)  # fmt: skip


def _pvm(members: Members) -> _Found | None:
    configs = members.ending("config.pvs", depth=2)
    if not configs:
        return None
    text = members.text(configs[0])
    root = root_of(text) if text else None
    if root is not None and root[0] != "ParallelsVirtualMachine":
        return None
    details = {"disks": _names(members.disks())}
    return _Found("pvm", "Parallels virtual machine", 90, tuple(configs[:1]), details)


def _vmware(members: Members) -> _Found | None:
    machines = members.ending(".vmx", depth=2)
    disks = members.ending(".vmdk", depth=2)
    if not machines or not disks:
        return None
    details = {"machine": _names(machines), "disks": _names(disks)}
    return _Found("vmware", "VMware virtual machine", 80, (*machines[:1], *disks[:2]), details)


def _virtualbox(members: Members) -> _Found | None:
    machines = members.ending(".vbox", depth=2)
    if not machines:
        return None
    details = {"machine": _names(machines), "disks": _names(members.disks())}
    return _Found("virtualbox", "VirtualBox virtual machine", 80, tuple(machines[:1]), details)


def _hyperv(members: Members) -> _Found | None:
    machines = members.ending(".vmcx", ".exp", depth=3)
    machines += [
        entry
        for path, entry in members.outer
        if "virtual machines/" in f"/{path.lower()}" and path.lower().endswith(".xml")
    ]
    if not machines or not any("virtual machines/" in path.lower() for path in members.paths):
        return None
    details = {"machine": _names(machines), "disks": _names(members.disks())}
    return _Found("hyperv", "Hyper-V export", 80, tuple(machines[:1]), details)


_BOOTED: Final = re.compile(
    r"(?:.*[-_.])?(?:vmlinu[xz]|(initrd|initramfs))(?:[-_.0-9].*)?|linux", re.ASCII
)
_NOT_BOOTED: Final = (
    ".txt", ".sig", ".asc", ".cfg", ".conf", ".c32", ".deb", ".rpm", ".apk", ".xml", ".md", ".rst",
    ".c", ".h", ".s", ".sh", ".py", ".mk", ".in", ".lds",
)  # fmt: skip
_SYSTEM: Final = ("etc", "usr", "bin", "lib", "var")


def _netboot(members: Members) -> _Found | None:
    """A kernel and its initrd, and no disk: one of the two, where only the beginning is seen."""
    found: dict[bool, Entry] = {}
    for path, entry in members.outer:
        match = _BOOTED.fullmatch(base_of(entry).lower())
        if path.partition("/")[0] in _SYSTEM:
            return None
        usable = entry.kind == "file" and not path.lower().endswith(_NOT_BOOTED)
        if match and usable and path.count("/") <= 3:
            found.setdefault(bool(match[1]), entry)
    disks = [e for e in members.disks() if not _BOOTED.fullmatch(base_of(e).lower())]
    if disks or len(found) < (2 if members.archive.complete else 1):
        return None
    names = {("initrd" if is_initrd else "kernel"): e.name for is_initrd, e in found.items()}
    details = {key: printable(name) for key, name in names.items()}
    return _Found("netboot", "kernel and initrd to boot from a network", 60,
                  tuple(found.values()), details)  # fmt: skip


def _rootfs(members: Members) -> _Found | None:
    roots = [entry for path, entry in members.outer if path in ("etc", "usr")]
    if len(roots) != 2 or not any(path in ("bin", "sbin", "lib") for path, _ in members.outer):
        return None
    return _Found("rootfs", "root file system of a container", 60, tuple(roots), {})


def _one_disk(members: Members) -> _Found | None:
    disks = members.disks()
    if len(disks) != 1 or len(members.outer) > 64:
        return None
    disk = disks[0]
    kind = disk_kind(disk, members.archive.content(disk, 512))
    size = disk.real_size or disk.size
    details = {"member": printable(disk.name), "kind": kind, "member-size": size}
    # Another one may follow in what was not seen.
    confidence = 70 if members.archive.complete else 50
    return _Found("disk-archive", f"archive of one disk ({kind})", confidence, (disk,), details)


_Look = Callable[[Members], _Found | None]
_STRONG: Final[tuple[_Look, ...]] = (
    *(_ova, _xva, _vagrant, _lxd, _containerdisk, _docker, _oci, _gce, _pvm),
)
_WEAK: Final[tuple[_Look, ...]] = (
    *(_uec, _vmware, _virtualbox, _hyperv, _netboot, _rootfs, _one_disk),
)


def _names(entries: list[Entry]) -> list[str]:
    return [printable(entry.name) for entry in entries[:_MAX_NAMES]]
