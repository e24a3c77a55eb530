"""Descriptions of machines that are plain text: .vmx, .vmsd, Proxmox, xl, Vagrant, cloud-init,
Ignition, KubeVirt, and lists of checksums beside an OVF.

Text has no magic: at most it has keys that nothing else has. So these claims are never surer than
50, and what only looks alike gets less, which contradicts nothing. The descriptor of a VMDK, text
too, is its driver's. Sources: what VMware Workstation writes; qm.conf(5) and pct.conf(5);
xl.cfg(5); the documentation of Vagrant, cloud-init, Ignition, Butane and KubeVirt; DSP0243 section
5.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable
from vmimg.probe.claims import Claim, Evidence
from vmimg.probe.settings import as_words, colon_settings, quoted_settings

__all__ = ["RECOGNISERS", "recognise_text"]

_HEAD_BYTES: Final = 64 << 10
# json.loads recurses in C, and refuses what is deeper than Python's own limit.
_MAX_JSON: Final = 64 << 10

_SURE: Final = 50
_LIKELY: Final = 45
_PERHAPS: Final = 40


def recognise_text(view: View) -> Iterator[Claim]:
    """The description of a machine in plain text; at most one."""
    first = view.read(0, 4)
    # A byte that begins no text saves the rest of the work, for nearly all images.
    if not first or first[0] < 9 or first[:1] == b"<" or b"\0\0" in first:
        return
    head = view.read(0, _HEAD_BYTES)
    text = as_words(head)
    if text is None or text.startswith("# Disk DescriptorFile"):
        return
    whole = len(head) < _HEAD_BYTES
    for judge in _JUDGES:
        claim = judge(text, whole)
        if claim is not None:
            yield claim
            return


def _claim(
    name: str, title: str, confidence: int, meaning: str, details: Mapping[str, Any] | None = None
) -> Claim:
    kept = {key: printable(str(value)) for key, value in (details or {}).items() if value}
    return Claim(name, "machine", title, confidence, (Evidence(0, meaning),), kept)


def _vmx(text: str, whole: bool) -> Claim | None:
    if '"' not in text or "=" not in text:
        return None
    pairs, others = quoted_settings(text)
    # The last line may be cut off.
    if not pairs or others > (0 if whole else 1):
        return None
    known = {key.lower(): value for key, value in pairs}
    if "config.version" in known or "virtualhw.version" in known:
        details = {
            "machine": known.get("displayname"),
            "hardware-version": known.get("virtualhw.version"),
            "os-type": known.get("guestos"),
            "encrypted": "yes" if "encryption.data" in known else "",
        }
        keys = [k for k in ("config.version", "virtualHW.version") if k.lower() in known]
        meaning = f"settings in VMware's manner, with {' and '.join(keys)}"
        return _claim("vmx", "VMware machine (.vmx)", _SURE, meaning, details)
    if "encryption.data" in known and "encryption.keysafe" in known:
        details = {"machine": known.get("displayname"), "encrypted": "yes"}
        meaning = "settings in VMware's manner, encrypted"
        return _claim("vmx", "VMware machine (.vmx)", _SURE, meaning, details)
    if "snapshot.lastuid" in known or "snapshot.numsnapshots" in known:
        details = {"snapshots": known.get("snapshot.numsnapshots")}
        meaning = "settings in VMware's manner, with snapshot.*"
        return _claim("vmsd", "VMware's list of snapshots (.vmsd)", _SURE, meaning, details)
    return None


def _cloud_init(text: str, whole: bool) -> Claim | None:
    first = text[:200].split("\n", 1)[0].rstrip()
    if first in ("#cloud-config", "#cloud-config-archive", "#cloud-boothook"):
        return _claim("cloud-init", "user data of cloud-init", _SURE, f"the first line {first}")
    if re.match(r"##\s*template:\s*jinja\s*\n#cloud-config\b", text):
        return _claim("cloud-init", "user data of cloud-init", _SURE, "a template of #cloud-config")
    if text[:4096].lower().startswith(("content-type: multipart/", "mime-version:")) and (
        "text/cloud-config" in text or "text/x-shellscript" in text
    ):
        meaning = "a MIME message with a part of type text/cloud-config or text/x-shellscript"
        return _claim("cloud-init", "user data of cloud-init", _LIKELY, meaning)
    return None


def _json(text: str, whole: bool) -> Claim | None:
    if not text.lstrip().startswith("{") or len(text) > _MAX_JSON or not whole:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    ignition = found.get("ignition")
    if isinstance(ignition, dict) and isinstance(ignition.get("version"), str):
        meaning = f"a JSON object with ignition.version {printable(ignition['version'])}"
        return _claim("ignition", "Ignition configuration", _SURE, meaning)
    provider = found.get("provider")
    known = ("virtualbox", "libvirt", "vmware_desktop", "vmware_fusion", "vmware_workstation",
             "hyperv", "parallels", "docker", "lxc", "qemu", "utm")  # fmt: skip
    if isinstance(provider, str) and provider in known:
        details = {"provider": provider, "virtual-size": found.get("virtual_size")}
        meaning = "a JSON object that names a provider of Vagrant's"
        title = "metadata of a Vagrant box"
        return _claim("vagrant-metadata", title, _PERHAPS, meaning, details)
    return None


def _yaml(text: str, whole: bool) -> Claim | None:
    # Looked at line by line: a parser of YAML is a large thing to show to strangers.
    if re.search(r"^apiVersion:\s*['\"]?kubevirt\.io/v\w+", text, re.MULTILINE):
        kind = re.search(r"^kind:\s*['\"]?(VirtualMachine\w*)", text, re.MULTILINE)
        if kind is not None:
            meaning = f"YAML of kubevirt.io, of kind {kind[1]}"
            return _claim("kubevirt", "KubeVirt machine", _LIKELY, meaning)
    variant = re.search(r"^variant:\s*['\"]?(fcos|flatcar|openshift|r4e|fiot)\b", text, re.M)
    if variant is not None and re.search(r"^version:\s*['\"]?\d+\.\d+", text, re.M):
        meaning = f"YAML with a version and the variant {variant[1]}"
        return _claim("butane", "Butane configuration", _LIKELY, meaning)
    return None


def _vagrantfile(text: str, whole: bool) -> Claim | None:
    if re.search(r"^[ \t]*Vagrant(?:\.configure|::Config\.run)\b", text, re.MULTILINE):
        return _claim("vagrantfile", "Vagrantfile", _LIKELY, "Ruby that calls Vagrant.configure")
    return None


_PROXMOX_DISK: Final = re.compile(
    r"(?:scsi|virtio|ide|sata|net|rootfs|efidisk|tpmstate|unused|mp)\d*"
)
_PROXMOX_KEYS: Final = {"memory", "cores", "sockets", "ostype", "boot", "bootdisk", "smbios1",
                        "vmgenid", "arch", "hostname", "rootfs", "scsihw"}  # fmt: skip


def _proxmox(text: str, whole: bool) -> Claim | None:
    pairs, others = colon_settings(text)
    if others > (0 if whole else 1):
        return None
    keys = {key for key, _ in pairs}
    drives = [key for key, value in pairs if _PROXMOX_DISK.fullmatch(key) and value]
    if len(keys & _PROXMOX_KEYS) < 2 or not drives:
        return None
    named = dict(pairs)
    details = {
        "machine": named.get("name") or named.get("hostname"),
        "os-type": named.get("ostype"),
    }
    meaning = "lines as Proxmox writes them: " + ", ".join(sorted(keys & _PROXMOX_KEYS)[:4])
    return _claim("proxmox-conf", "Proxmox machine (.conf)", _PERHAPS, meaning, details)


_XL_KEYS: Final = re.compile(
    r"^(name|type|builder|kernel|memory|vcpus|disk|vif|bootloader|ramdisk|boot|on_crash)\s*=",
    re.MULTILINE,
)


def _xl(text: str, whole: bool) -> Claim | None:
    keys = set(_XL_KEYS.findall(text))
    listed = re.search(r"^disk\s*=\s*\[", text, re.MULTILINE)
    if listed is None or "name" not in keys or not keys & {"memory", "vcpus"}:
        return None
    if not keys & {"type", "builder", "kernel", "bootloader", "vif"}:
        return None
    meaning = "assignments as xl reads them: " + ", ".join(sorted(keys)[:5])
    return _claim("xl-config", "Xen machine (xl configuration)", _PERHAPS, meaning)


_CHECKSUM: Final = re.compile(r"(SHA1|SHA256|SHA512)\s?\(([^()]{1,1024})\)\s?=\s?([0-9a-fA-F]+)\s*")
_DIGITS: Final = {"SHA1": 40, "SHA256": 64, "SHA512": 128}


def _checksums(text: str, whole: bool) -> Claim | None:
    if not text.startswith("SHA"):
        return None
    body, dashes, _ = text.partition("-----BEGIN CERTIFICATE-----")
    lines = [line for line in body.splitlines() if line.strip()]
    if not whole and not dashes:
        lines = lines[:-1]
    names = []
    signed = False
    for line in lines[:10_000]:
        match = _CHECKSUM.fullmatch(line)
        if match is None:
            return None
        # A signature is as long as the key that made it.
        if len(match[3]) != _DIGITS[match[1]]:
            signed = True
        names.append(match[2])
    if not names or (signed and not dashes):
        return None
    if dashes:
        meaning = "a signature of a manifest, and a certificate"
        return _claim("ovf-cert", "certificate of an OVF package (.cert)", _LIKELY, meaning)
    details = {"files": len(names)}
    meaning = "lines of checksums in OpenSSL's manner"
    return _claim("ovf-manifest", "manifest of an OVF package (.mf)", _LIKELY, meaning, details)


_JUDGES: Final[tuple[Callable[[str, bool], Claim | None], ...]] = (
    _vmx,
    _cloud_init,
    _json,
    _yaml,
    _checksums,
    _vagrantfile,
    _proxmox,
    _xl,
)

RECOGNISERS = (recognise_text,)
