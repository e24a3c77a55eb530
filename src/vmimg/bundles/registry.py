"""The kinds of bundles there are. A kind is one module and one row here. Imports descriptors."""

from __future__ import annotations

from typing import Final

from vmimg.bundles.kind import BundleKind
from vmimg.errors import OptionError
from vmimg.formats.descriptor import Option

__all__ = ["BUNDLES", "by_claim", "by_extension", "find"]

_OVF_SPEC: Final = "https://www.dmtf.org/standards/ovf (DSP0243)"

# fmt: off
_CONTAINER_OPTIONS: Final = (
    Option("tag", "name of the image, as name:tag"),
    Option("compress", "compress the clusters of a qcow2", kind="bool", default=True),
)

_OVF_OPTIONS: Final = (
    Option(
        "manifest", "digests of all files, or off", default="sha256",
        choices=("sha256", "sha1", "sha512", "off"),
    ),
    Option("key", "file with the RSA key (PEM) that signs the package"),
    Option("certificate", "file with the certificate (PEM) of that key, issuers behind it"),
    Option("compress", "compress disks that can be so and need not", kind="bool", default=True),
)

_WIM_OPTIONS: Final = (
    Option("name", "name of the image; the directory's where missing"),
    Option("description", "what people see of it besides"),
    Option("boot", "the image is the one that is booted", kind="bool", default=False),
    Option("integrity", "a table of checksums of the archive", kind="bool", default=True),
)


def _wim_packing(compression: str, *, solid: bool) -> tuple[Option, ...]:
    return (
        Option(
            "compression", "of the files; all but none need libwim", default=compression,
            choices=("none", "xpress", "lzx", "lzms"),
        ),
        Option("solid", "all files are packed as one", kind="bool", default=solid),
    )


BUNDLES: Final[dict[str, BundleKind]] = {
    kind.name: kind
    for kind in (
        BundleKind(
            "ova", "OVA appliance", "vmimg.bundles.ova", (".ova",), _OVF_SPEC, makes=True,
            formats=("vmdk", "vhd", "raw", "qcow2", "vdi", "vhdx"), options=_OVF_OPTIONS,
        ),
        BundleKind(
            "ovf", "OVF package", "vmimg.bundles.ovf", (".ovf",), _OVF_SPEC, makes=True,
            folder=True, formats=("vmdk", "vhd", "raw", "qcow2", "vdi", "vhdx"),
            options=_OVF_OPTIONS,
        ),
        BundleKind(
            "xva", "XVA export of XenServer or XCP-ng", "vmimg.bundles.xva", (".xva",),
            "https://github.com/xapi-project/xen-api (ocaml/xapi/stream_vdi.ml)", makes=True,
            files=False, formats=("raw",),
            options=(
                Option(
                    "checksum", "of each block: sha1 for all hosts, xxhash since XenServer 8",
                    default="sha1", choices=("sha1", "xxhash"),
                ),
                Option(
                    "compress", "the archive as a whole", default="none",
                    choices=("none", "gzip", "zstd"),
                ),
            ),
        ),
        BundleKind(
            "vagrant", "Vagrant box", "vmimg.bundles.vagrant", (".box",),
            "https://developer.hashicorp.com/vagrant/docs/boxes/format",
            aliases=("box",), makes=True,
            formats=("qcow2", "vmdk", "vdi", "vhd", "parallels", "vhdx"),
            options=(
                Option(
                    "provider", "what the box is for", default="libvirt",
                    choices=("libvirt", "virtualbox", "vmware_desktop", "parallels", "hyperv"),
                ),
                Option(
                    "compression", "of the archive (gzip), or of the disk where it has its own",
                    default="auto", choices=("auto", "gzip", "none"),
                ),
            ),
        ),
        BundleKind(
            "pvm", "Parallels virtual machine", "vmimg.bundles.pvm", (".pvm",),
            "Parallels Desktop (by its files)", makes=True, folder=True, formats=("parallels",),
        ),
        BundleKind(
            "vmware", "VMware virtual machine", "vmimg.bundles.vmware", (),
            "VMware Workstation (by its files)", makes=True, folder=True, formats=("vmdk",),
        ),
        BundleKind(
            "virtualbox", "VirtualBox virtual machine", "vmimg.bundles.virtualbox", (),
            "VirtualBox (by its files)", makes=True, folder=True, formats=("vdi", "vmdk", "vhd"),
        ),
        BundleKind(
            "hyperv", "Hyper-V export", "vmimg.bundles.hyperv", (),
            "Hyper-V Manager (by its files)", makes=True, folder=True, files=False,
            formats=("vhdx", "vhd"),
            options=(
                Option("location", "where it will lie on the host, as D:\\VMs\\web"),
            ),
            notes="Made as Windows Server 2012 R2 does; imported up to Windows Server 2019.",
        ),
        BundleKind(
            "lxd", "LXD or Incus image", "vmimg.bundles.lxd", (),
            "https://linuxcontainers.org/incus/docs/main/reference/image_format/",
            aliases=("incus",), makes=True, files=False, one_disk=True, formats=("qcow2",),
            options=(
                Option("split", "metadata and disk as two files", kind="bool", default=False),
                Option("os", "its operating system, by name"),
                Option("release", "the release of that"),
                Option("variant", "which variant of the release"),
                Option("description", "what people see in lists of images"),
                Option(
                    "creation_date", "in seconds since 1970", kind="int", default=0,
                ),
            ),
        ),
        BundleKind(
            "docker", "Docker image archive", "vmimg.bundles.containers.docker", (),
            "https://github.com/moby/docker-image-spec", makes=True, files=False, one_disk=True,
            formats=("qcow2", "raw"),
            options=_CONTAINER_OPTIONS,
        ),
        BundleKind(
            "oci", "OCI image", "vmimg.bundles.containers.oci", (),
            "https://github.com/opencontainers/image-spec", aliases=("containerdisk",),
            makes=True, files=False, one_disk=True, formats=("qcow2", "raw"),
            options=_CONTAINER_OPTIONS,
        ),
        BundleKind(
            "wim", "Windows image (WIM)", "vmimg.bundles.wim", (".wim",),
            "https://wimlib.net and \"Windows Imaging File Format (WIM)\" by Microsoft, 2007",
            makes=True, of_files=True, options=(*_WIM_OPTIONS, *_wim_packing("lzx", solid=False)),
        ),
        BundleKind(
            "esd", "Windows image (ESD)", "vmimg.bundles.wim", (".esd",), "https://wimlib.net",
            makes=True, of_files=True, options=(*_WIM_OPTIONS, *_wim_packing("lzms", solid=True)),
        ),
        BundleKind(
            "gce", "Google Compute Engine image", "vmimg.bundles.gce", (),
            "https://cloud.google.com/compute/docs/import/import-existing-image", makes=True,
            files=False, one_disk=True, formats=("raw",),
            options=(
                Option(
                    "sparse", "holes as GNU tar's map of them; off: as zeros, compressed",
                    kind="bool", default=True,
                ),
            ),
            notes="The disk is made a whole number of GiB.",
        ),
        BundleKind(
            "uec", "UEC image: disk, kernel and initrd", "vmimg.bundles.uec", (),
            "https://help.ubuntu.com/community/UEC/Images", aliases=("ami",), makes=True,
            one_disk=True,
            formats=("raw",),
            options=(
                Option("partition", "number of the one with the root file system", kind="int"),
            ),
        ),
        BundleKind(
            "ec2-bundle", "EC2 instance-store bundle", "vmimg.bundles.ec2", (".manifest.xml",),
            "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide (AMI tools)",
            makes=True, folder=True, files=False, one_disk=True, formats=("raw",),
            options=(
                Option("key", "file with the private key (PEM) that signs it"),
                Option("cert", "file with the certificate (PEM) of that key"),
                Option("ec2_cert", "file with the certificate of who runs it; else the same"),
                Option("user", "number of the account", default="000000000000"),
                Option("part_size", "bytes of each part", kind="size", default=10 << 20),
            ),
        ),
        BundleKind(
            "netboot", "Netboot set", "vmimg.bundles.netboot", (), "https://ipxe.org", folder=True,
        ),
        BundleKind(
            "disk-archive", "Archive of one disk", "vmimg.bundles.plain",
            (".tar", ".tar.gz", ".tgz", ".zip", ".gz", ".xz", ".zst", ".bz2"), "", makes=True,
            files=False, one_disk=True,
            notes="The extension says what is made; 7z is read only.",
        ),
    )
}
# fmt: on


def find(name: str) -> BundleKind:
    """The kind of that name or alias. Raises OptionError that lists those there are."""
    for kind in BUNDLES.values():
        if name == kind.name or name in kind.aliases:
            return kind
    raise OptionError(f"there is no kind of bundle '{name}'; there are: {', '.join(BUNDLES)}")


def by_claim(claim: str) -> BundleKind | None:
    """The kind of what detect calls ``claim``; directories have claims of their own for some."""
    return BUNDLES.get(claim) or BUNDLES.get(_CLAIMS.get(claim, ""))


def by_extension(path: str) -> BundleKind | None:
    """The kind that the name of a new bundle speaks for."""
    lower = path.lower()
    return next((kind for kind in BUNDLES.values() if lower.endswith(kind.extensions)), None)


_CLAIMS: Final = {
    "ovf-folder": "ovf",
    "vmware-folder": "vmware",
    "vbox-folder": "virtualbox",
    "hyperv-export": "hyperv",
    # In a Docker archive, or an OCI layout: the same module tells them apart.
    "containerdisk": "oci",
}
