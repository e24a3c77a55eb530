"""Bundles to recognise and to vet: what platforms exchange, and one bad one for each rule.

The bad ones are good ones with one thing changed.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable

from probe.archive_making import (
    BOXES,
    LXD,
    RAW,
    XVA_XML,
    box,
    by_program,
    docker,
    docker_and_oci,
    lxd,
    manifest,
    member,
    oci,
    ova,
    ovf,
    sparse_gnu,
    sparse_pax,
    tar,
    tar_of,
    vmdk,
    vmware,
    xva,
    zip_of,
)
from probe.making import of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD"]

GOOD: tuple[Sample, ...] = (
    of_bytes("ova", "a.ova", lambda: tar_of(ova()), "ova"),
    of_bytes("ova-gnu", "a.ova", lambda: tar_of(ova(), tarfile.GNU_FORMAT), "ova"),
    of_bytes("ova-ovf-last", "a.ova", lambda: tar_of(ova(("vmdk", "mf", "ovf"))), "ova"),
    of_bytes("ova-ovf-between", "a.ova", lambda: tar_of(ova(("vmdk", "ovf", "mf"))), "ova"),
    of_bytes("ova-without-manifest", "a.ova", lambda: tar_of(ova(("ovf", "vmdk"))), "ova"),
    of_bytes("ova-as-virtualbox", "a.ova",
             lambda: tar_of(ova(ovf=ovf(resource="/disk/vmdisk1"))), "ova"),
    by_program("ova-of-gnu-tar", "a.ova", "ova", ova, "tar", "--format=ustar", "-cf"),
    by_program("ova-of-bsdtar", "a.ova", "ova", ova, "bsdtar", "--format=pax", "-cf"),
    of_bytes("xva", "a.xva", xva, "xva"),
    *(of_bytes(f"box-{name}", "a.box", lambda name=name: tar_of(box(name)),  # type: ignore[misc]
               "vagrant") for name in BOXES),
    of_bytes("box-virtualbox-old", "a.box", lambda: tar_of(
        {"./Vagrantfile": b"#", "./box.ovf": ovf(), "./disk.vmdk": vmdk()}), "vagrant"),
    of_bytes("box-gzip", "a.box", lambda: gzip.compress(tar_of(box("libvirt")), mtime=0)),
    of_bytes("lxd-unified", "a.tar", lxd, "lxd"),
    of_bytes("lxd-virtual-machine", "a.tar",
             lambda: tar_of({"rootfs.img": RAW, "metadata.yaml": LXD}), "lxd"),
    of_bytes("lxd-metadata", "meta.tar",
             lambda: tar_of({"metadata.yaml": LXD, "templates/hostname.tpl": b"x"}), "lxd"),
    of_bytes("rootfs", "rootfs.tar", lambda: tar(
        member("./bin", kind=tarfile.SYMTYPE, link="usr/bin"),
        member("./etc", kind=tarfile.DIRTYPE),
        member("./etc/mtab", kind=tarfile.SYMTYPE, link="/proc/mounts"),
        member("./dev/null", kind=tarfile.CHRTYPE),
        member("./usr", kind=tarfile.DIRTYPE)), "rootfs"),
    of_bytes("docker-save", "a.tar", lambda: tar_of(docker()), "docker"),
    of_bytes("docker-save-links", "a.tar", lambda: tar(
        *(member(name, data) for name, data in docker().items()),
        member("fedcba98/layer.tar", kind=tarfile.SYMTYPE, link="../0123abcd/layer.tar")),
        "docker"),
    of_bytes("docker-save-as-oci", "a.tar", docker_and_oci, "docker"),
    of_bytes("oci-archive", "a.tar", lambda: tar_of(oci()), "oci"),
    of_bytes("gce", "a.tar", lambda: tar_of({"disk.raw": RAW}, tarfile.GNU_FORMAT), "gce"),
    Sample("gce-sparse", sparse_gnu, "gce", peers=("tar",)),
    Sample("gce-sparse-pax", sparse_pax, "gce", peers=("tar",)),
    of_bytes("uec", "a.tar", lambda: tar_of({
        "noble-vmlinuz-virtual": b"kernel", "noble-initrd-virtual": b"initrd", "noble.img": RAW,
        "README.files": b"what is what\n"}), "uec"),
    of_bytes("pvm-zip", "a.zip", lambda: zip_of({
        "a.pvm/config.pvs": b"<ParallelsVirtualMachine/>", "a.pvm/disk.hdd/disk.hds": RAW}), "pvm"),
    of_bytes("vmware-zip", "a.zip", lambda: zip_of(vmware()), "vmware"),
    of_bytes("vmware-tar", "a.tar", lambda: tar_of(vmware()), "vmware"),
    of_bytes("virtualbox-zip", "a.zip", lambda: zip_of({
        "a/a.vbox": b"<VirtualBox/>", "a/a.vdi": RAW}), "virtualbox"),
    of_bytes("hyperv-zip", "a.zip", lambda: zip_of({
        "a/Virtual Machines/1.vmcx": b"x", "a/Virtual Hard Disks/a.vhdx": RAW}), "hyperv"),
    of_bytes("one-disk-zip", "a.zip", lambda: zip_of({"disk.vmdk": vmdk(), "README": b"!"}),
             "disk-archive"),
    of_bytes("ovf-in-zip", "a.zip", lambda: zip_of(ova()), "ova"),
    by_program("7z-one-disk", "a.7z", "disk-archive", lambda: {"disk.vmdk": vmdk()}, "7z", "a"),
    by_program("7z-vmware", "a.7z", "vmware", vmware, "7z", "a"),
)  # fmt: skip


def in_ova(name: str, code: str, **changes: Callable[[], bytes]) -> Sample:
    return of_bytes(
        f"ova-{name}",
        "a.ova",
        lambda: tar_of(ova(**{key: build() for key, build in changes.items()})),
        "ova",
        code,
    )


BAD: tuple[Sample, ...] = (
    # OVA
    in_ova("entities", "xml-entities", ovf=lambda: ovf().replace(
        b"<Envelope", b'<!DOCTYPE Envelope [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<Envelope',
        1)),
    in_ova("deep", "xml-oversize", ovf=lambda: ovf().replace(
        b"<Info>A machine</Info>", b"<Info>" * 70 + b"</Info>" * 70)),
    in_ova("not-xml", "malformed", ovf=lambda: ovf()[:-20]),
    in_ova("href-goes-up", "names-outside", ovf=lambda: ovf("../../etc/passwd")),
    in_ova("href-escaped", "names-outside", ovf=lambda: ovf("%2e%2e/%2e%2e/etc/passwd")),
    in_ova("href-url", "names-outside", ovf=lambda: ovf("http://192.0.2.1/disk.vmdk")),
    in_ova("href-missing", "manifest-lies", ovf=lambda: ovf("other.vmdk")),
    in_ova("file-not-listed", "manifest-lies", ovf=lambda: ovf().replace(
        b'fileRef="file1"', b'fileRef="file2"')),
    in_ova("size", "member-size", ovf=lambda: ovf(size=17)),
    in_ova("host-resource", "names-outside", ovf=lambda: ovf(resource="/dev/sda")),
    in_ova("manifest-missing", "manifest-lies", mf=lambda: manifest({"other.vmdk": b""})),
    in_ova("manifest-twice", "manifest-lies", mf=lambda: manifest({"disk.vmdk": b""}) * 2),
    in_ova("manifest-goes-up", "names-outside", mf=lambda: manifest({"../x": b""})),
    of_bytes("ova-two-descriptors", "a.ova", lambda: tar_of(ova() | {"other.ovf": ovf()}), "ova",
             "copies-disagree"),
    of_bytes("ova-in-zip-href", "a.zip",
             lambda: zip_of(ova(ovf=ovf("../x.vmdk"))), "ova", "names-outside"),
    of_bytes("ova-and-lxd", "a.ova", lambda: tar_of(
        ova() | {"metadata.yaml": LXD, "rootfs/x": b""}), "ova", "several-formats"),
    of_bytes("xva-entities", "a.xva", lambda: tar_of({
        "ova.xml": b'<!DOCTYPE v [<!ENTITY a "b">]>' + XVA_XML, "Ref:4/00000000": b"x"}), "xva",
        "xml-entities"),
    # Boxes and containers
    of_bytes("box-disk-goes-up", "a.box", lambda: tar_of({
        "metadata.json": b'{"provider":"libvirt","disks":[{"path":"../x"}]}', "box.img": RAW}),
        "vagrant", "names-outside"),
    of_bytes("box-program", "a.box", lambda: tar_of(box("libvirt")), "vagrant", "runs-program"),
    of_bytes("lxd-template-goes-up", "a.tar", lambda: tar_of({
        "metadata.yaml": LXD.replace(b"hostname.tpl", b"../../etc/shadow"), "rootfs/x": b""}),
        "lxd", "names-outside"),
    of_bytes("docker-layer-goes-up", "a.tar", lambda: tar_of(
        docker(Layers=["../../etc/passwd"])), "docker", "names-outside"),
    of_bytes("docker-layer-missing", "a.tar", lambda: tar_of(
        docker(Layers=["other/layer.tar"])), "docker", "manifest-lies"),
    of_bytes("oci-blob-missing", "a.tar", lambda: tar_of(
        oci(digest="sha256:" + "0" * 64)), "oci", "manifest-lies"),
    of_bytes("oci-digest-goes-up", "a.tar", lambda: tar_of(
        oci(digest="../../../etc:passwd")), "oci", "names-outside"),
    of_bytes("oci-size", "a.tar", lambda: tar_of(oci(size=99)), "oci", "member-size"),
    of_bytes("lxd-behind-link", "a.tar",
             lambda: lxd(member("rootfs/bin/x", b"x")), "lxd", "member-escapes"),
    of_bytes("lxd-name-goes-up", "a.tar",
             lambda: lxd(member("rootfs/../../x", b"x")), "lxd", "member-escapes"),
)  # fmt: skip
