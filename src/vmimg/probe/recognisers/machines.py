"""Descriptions of machines in XML, told apart by their root: OVF, VirtualBox, libvirt, Hyper-V,
Parallels, Xen, VMware's .vmxf, the manifest of an EC2 bundle.

A root whose name could be anything's (network, configuration, value) counts only with elements in
it that fit. What follows from the rest of the text is for `vetters.machines`. Sources: DSP0243
(OVF), VirtualBox-settings.xsd, libvirt's docs/schemas, what Hyper-V 2008 to 2012, Parallels Desktop
and XenServer write. Imports the XML reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable
from vmimg.probe.claims import Claim, Evidence, Family
from vmimg.probe.xml import Scan, root_of, scan

__all__ = ["RECOGNISERS", "recognise_description"]

# A root is found in it even behind the licence of whoever wrote the file.
_HEAD_BYTES: Final = 64 << 10
_XML_STARTS: Final = (b"<", b"\xef\xbb\xbf<", b"\xff\xfe<\0", b"\xfe\xff\0<", b"<\0", b"\0<")

_OVF_NAMESPACES: Final = {
    "http://schemas.dmtf.org/ovf/envelope/1": "1",
    "http://schemas.dmtf.org/ovf/envelope/2": "2",
    "http://www.vmware.com/schema/ovf/1/envelope": "0.9",
}
_DOMAIN_TYPES: Final = (
    "bhyve", "ch", "hvf", "hyperv", "kqemu", "kvm", "lxc", "openvz", "parallels", "phyp", "qemu",
    "test", "uml", "vbox", "vmware", "vz", "xen", "mshv",
)  # fmt: skip
_POOL_TYPES: Final = (
    "dir", "disk", "fs", "gluster", "iscsi", "iscsi-direct", "logical", "mpath", "netfs", "rbd",
    "scsi", "sheepdog", "vstorage", "zfs",
)  # fmt: skip

_HIDDEN: Final = {
    "Envelope": ("ovf", "OVF description of a machine"),
    "VirtualBox": ("vbox", "VirtualBox machine (.vbox)"),
    "domain": ("libvirt-domain", "libvirt domain"),
    "domainsnapshot": ("libvirt-snapshot", "libvirt snapshot of a domain"),
    "ParallelsVirtualMachine": ("pvs", "Parallels machine (config.pvs)"),
    "Foundry": ("vmxf", "VMware's additions to a .vmx (.vmxf)"),
}
_HIDDEN_ROOT: Final = re.compile(rf"<(?:[\w.-]{{1,32}}:)?({'|'.join(_HIDDEN)})[\s>]")

_Details = dict[str, Any]
_Judge = Callable[[dict[str, str], bytes], "Claim | None"]


def recognise_description(view: View) -> Iterator[Claim]:
    """The description of a machine in XML, by its root element."""
    if not view.read(0, 64).lstrip(b" \t\r\n").startswith(_XML_STARTS):
        return
    head = view.read(0, _HEAD_BYTES)
    root = root_of(head)
    if root is None:
        return
    name, attributes = root
    judge = _ROOTS.get(name)
    claim = judge(attributes, head) if judge is not None else None
    if claim is None:
        claim = _behind_a_doctype(head)
    if claim is not None:
        yield claim


def _behind_a_doctype(head: bytes) -> Claim | None:
    """What looks like a description behind a document type, where reading ends: no program writes
    one, and some read on. The claim is there so that it gets vetted.
    """
    text = head.replace(b"\0", b"").decode("latin-1")
    _, found, rest = text.partition("<!DOCTYPE")
    match = _HIDDEN_ROOT.search(rest) if found else None
    if match is None:
        return None
    name, title = _HIDDEN[match[1]]
    meaning = f"a document type, and behind it the element {match[1]}"
    return _claim(name, title, meaning, {}, confidence=50)


def _claim(
    name: str,
    title: str,
    meaning: str,
    details: Mapping[str, Any],
    *,
    confidence: int = 90,
    family: Family = "machine",
    container: str = "",
) -> Claim:
    kept = {key: printable(str(value)) for key, value in details.items() if value not in ("", None)}
    return Claim(
        name,
        family,
        title,
        confidence,
        (Evidence(0, meaning),),
        kept,
        container_format=container,
    )


def _ovf(attributes: dict[str, str], head: bytes) -> Claim | None:
    spaces = [value for key, value in attributes.items() if key.split(":")[0] == "xmlns"]
    version = next((_OVF_NAMESPACES[space] for space in spaces if space in _OVF_NAMESPACES), None)
    if version is None:
        return None
    found = scan(head, ("File", "Disk", "VirtualSystem", "VirtualSystemCollection"))
    details: _Details = {
        "ovf-version": version,
        "files": _count(found, "File"),
        "disks": _count(found, "Disk"),
        "systems": _count(found, "VirtualSystem"),
    }
    meaning = f"the root Envelope, in the namespace of OVF {version}"
    return _claim("ovf", "OVF description of a machine", meaning, details, container="ovf")


def _virtualbox(attributes: dict[str, str], head: bytes) -> Claim | None:
    if not any("virtualbox.org" in value for value in attributes.values()):
        return None
    found = scan(head, ("Machine", "Global", "HardDisk"))
    machine = next((e.attributes for e in found.elements if e.name == "Machine"), {})
    if "Global" in {e.name for e in found.elements}:
        title = "VirtualBox's global settings"
    else:
        title = "VirtualBox machine (.vbox)"
    details: _Details = {
        "version": attributes.get("version", ""),
        "machine": machine.get("name", ""),
        "os-type": machine.get("OSType", ""),
    }
    return _claim("vbox", title, "the root VirtualBox, in VirtualBox's namespace", details)


def _domain(attributes: dict[str, str], head: bytes) -> Claim | None:
    kind = attributes.get("type", "")
    if kind not in _DOMAIN_TYPES:
        return None
    found = scan(head, ("name", "type", "disk"))
    details: _Details = {
        "hypervisor": kind,
        "machine": _text(found, "name", ("domain",)),
        "os-type": _text(found, "type", ("domain", "os")),
        "disks": _count(found, "disk"),
    }
    title = "libvirt domain"
    return _claim("libvirt-domain", title, f"the root domain of type {kind}", details)


def _domstatus(attributes: dict[str, str], head: bytes) -> Claim | None:
    found = scan(head, ("domain",))
    if not any(e.attributes.get("type") in _DOMAIN_TYPES for e in found.elements):
        return None
    title = "libvirt's record of a running domain"
    return _claim("libvirt-domain", title, "the root domstatus, with a domain", {})


def _snapshot(attributes: dict[str, str], head: bytes) -> Claim | None:
    root = "domainsnapshot"
    found = scan(head, ("name", "state"))
    details: _Details = {
        "snapshot": _text(found, "name", (root,)),
        "state": _text(found, "state", (root,)),
    }
    title = "libvirt snapshot of a domain"
    return _claim("libvirt-snapshot", title, f"the root {root}", details)


def _checkpoint(attributes: dict[str, str], head: bytes) -> Claim | None:
    title = "libvirt checkpoint of a domain"
    return _claim("libvirt-snapshot", title, "the root domaincheckpoint", {})


def _network(attributes: dict[str, str], head: bytes) -> Claim | None:
    found = scan(head, ("name", "bridge", "forward", "uuid", "ip"))
    inside = {e.name for e in found.elements if e.within == ("network",)}
    if "name" not in inside or not inside & {"bridge", "forward", "uuid"}:
        return None
    details = {"network": _text(found, "name", ("network",))}
    meaning = "the root network, with what libvirt puts into one"
    return _claim("libvirt-network", "libvirt network", meaning, details, confidence=70)


def _pool(attributes: dict[str, str], head: bytes) -> Claim | None:
    kind = attributes.get("type", "")
    if kind not in _POOL_TYPES:
        return None
    details = {"type": kind, "pool": _text(scan(head, ("name",)), "name", ("pool",))}
    meaning = f"the root pool of type {kind}"
    return _claim("libvirt-pool", "libvirt storage pool", meaning, details, confidence=70)


def _volume(attributes: dict[str, str], head: bytes) -> Claim | None:
    found = scan(head, ("name", "capacity", "target"))
    inside = {e.name for e in found.elements if e.within == ("volume",)}
    if not inside >= {"name", "capacity"}:
        return None
    details = {"volume": _text(found, "name", ("volume",))}
    meaning = "the root volume, with a name and a capacity"
    return _claim("libvirt-volume", "libvirt storage volume", meaning, details, confidence=70)


def _hyperv(attributes: dict[str, str], head: bytes) -> Claim | None:
    found = scan(head, ("global_id", "type_id", "vdev001", "name", "version"))
    # Half the world has a configuration: of .NET, of log4j. These are Hyper-V's.
    marks = {e.name for e in found.elements if len(e.within) == 2}
    if not marks & {"global_id", "type_id", "vdev001"}:
        return None
    name = _text(found, "name", ("configuration", "properties"))
    details = {
        "machine": name,
        "version": _text(found, "version", ("configuration", "properties")),
    }
    meaning = "the root configuration, with Hyper-V's elements"
    return _claim("hyperv-xml", "Hyper-V machine (.xml)", meaning, details)


def _parallels(attributes: dict[str, str], head: bytes) -> Claim | None:
    found = scan(head, ("VmName", "AppVersion", "Hdd"))
    details: _Details = {
        "version": next((e.text.strip() for e in found.elements if e.name == "AppVersion"), ""),
        "machine": next((e.text.strip() for e in found.elements if e.name == "VmName"), ""),
    }
    title = "Parallels machine (config.pvs)"
    return _claim("pvs", title, "the root ParallelsVirtualMachine", details)


def _parallels_states(attributes: dict[str, str], head: bytes) -> Claim | None:
    title = "Parallels' list of snapshots"
    return _claim("parallels-snapshots", title, "the root ParallelsSavedStates", {})


def _xva(attributes: dict[str, str], head: bytes) -> Claim | None:
    # XML-RPC's way of writing a structure: <value><struct><member><name>version</name>...
    found = scan(head, ("name",))
    within = ("value", "struct", "member")
    members = {e.text.strip() for e in found.elements if e.within == within}
    if not members & {"version", "objects"}:
        return None
    title = "XenServer's description of an exported machine"
    return _claim("xva-xml", title, "an XML-RPC structure with a member version or objects", {})


def _old_xva(attributes: dict[str, str], head: bytes) -> Claim | None:
    if not any(e.name in ("vm", "vdi") for e in scan(head, ("vm", "vdi")).elements):
        return None
    title = "XenServer's description of an exported machine"
    return _claim("xva-xml", title, "the root appliance, with a machine in it", attributes)


def _foundry(attributes: dict[str, str], head: bytes) -> Claim | None:
    if "VM" not in {e.name for e in scan(head, ("VM",)).elements}:
        return None
    title = "VMware's additions to a .vmx (.vmxf)"
    return _claim("vmxf", title, "the root Foundry, with a machine", {})


def _ec2(attributes: dict[str, str], head: bytes) -> Claim | None:
    found = scan(head, ("version", "bundler", "image", "parts", "name"))
    inside = {e.name for e in found.elements if e.within == ("manifest",)}
    if not inside >= {"version", "bundler"}:
        return None
    parts = [e.attributes.get("count", "") for e in found.elements if e.name == "parts"]
    details = {
        "version": _text(found, "version", ("manifest",)),
        "image": _text(found, "name", ("manifest", "image")),
        "parts": parts[0] if parts else "",
    }
    meaning = "the root manifest, with a bundler"
    title = "manifest of an EC2 bundle"
    return _claim("ec2-bundle", title, meaning, details, family="bundle")


def _count(found: Scan, name: str) -> int | None:
    return sum(element.name == name for element in found.elements) or None


def _text(found: Scan, name: str, within: tuple[str, ...]) -> str:
    texts = (e.text.strip() for e in found.elements if e.name == name and e.within == within)
    return next(texts, "")


_ROOTS: Final[Mapping[str, _Judge]] = {
    "Envelope": _ovf,
    "VirtualBox": _virtualbox,
    "domain": _domain,
    "domstatus": _domstatus,
    "domainsnapshot": _snapshot,
    "domaincheckpoint": _checkpoint,
    "network": _network,
    "pool": _pool,
    "volume": _volume,
    "configuration": _hyperv,
    "ParallelsVirtualMachine": _parallels,
    "ParallelsSavedStates": _parallels_states,
    "value": _xva,
    "appliance": _old_xva,
    "Foundry": _foundry,
    "manifest": _ec2,
}

RECOGNISERS = (recognise_description,)
