"""The dialects there are. A dialect is one module and one row here. Imports only descriptors."""

from __future__ import annotations

import os
from typing import Final

from vmimg.errors import OptionError
from vmimg.machines.dialect import Dialect

__all__ = ["DIALECTS", "by_claim", "by_extension", "find"]

_DMTF: Final = "https://www.dmtf.org/standards/ovf (DSP0243)"

DIALECTS: Final[dict[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "ovf", "OVF virtual hardware", "vmimg.machines.dialects.ovf", (".ovf",), _DMTF,
            claims=("ovf",),
        ),
        Dialect(
            "vmx", "VMware .vmx", "vmimg.machines.dialects.vmx", (".vmx",),
            "VMware, Virtual Machine configuration file (by its files)", claims=("vmx",),
        ),
        Dialect(
            "vbox", "VirtualBox .vbox", "vmimg.machines.dialects.vbox", (".vbox", ".vbox-prev"),
            "VirtualBox, src/VBox/Main/xml/VirtualBox-settings.xsd", claims=("vbox",),
        ),
        Dialect(
            "libvirt", "libvirt domain XML", "vmimg.machines.dialects.libvirt", (".xml",),
            "https://libvirt.org/formatdomain.html",
            claims=("libvirt-domain", "libvirt-snapshot"), absolute=True,
        ),
        Dialect(
            "hyperv-xml", "Hyper-V .xml (Windows Server 2008 to 2012 R2)",
            "vmimg.machines.dialects.hyperv_xml", (".xml",),
            "Hyper-V exports (by their files)", claims=("hyperv-xml",),
        ),
        Dialect(
            "hyperv-exp", "Hyper-V .exp (exports of Windows Server 2008)",
            "vmimg.machines.dialects.hyperv_exp", (".exp",),
            "DMTF DSP0201 and Microsoft's WMI provider of virtualization", writes=False,
        ),
        Dialect(
            "vmcx", "Hyper-V .vmcx", "vmimg.machines.dialects.vmcx", (".vmcx",),
            "Hyper-V data store (by its files)", claims=("hyperv-storage",), writes=False,
        ),
        Dialect(
            "powershell", "PowerShell script that makes the machine in Hyper-V",
            "vmimg.machines.dialects.powershell", (".ps1",),
            "https://learn.microsoft.com/powershell/module/hyper-v", reads=False,
        ),
        Dialect(
            "parallels", "Parallels config.pvs", "vmimg.machines.dialects.parallels", (".pvs",),
            "Parallels Desktop (by its files)", claims=("pvs",),
        ),
        Dialect(
            "xl", "Xen xl configuration", "vmimg.machines.dialects.xl", (".cfg", ".xl"),
            "https://xenbits.xen.org/docs/unstable/man/xl.cfg.5.html", claims=("xl-config",),
        ),
        Dialect(
            "xapi", "XenServer and XCP-ng ova.xml", "vmimg.machines.dialects.xapi", (),
            "https://github.com/xapi-project/xen-api", claims=("xva-xml",),
        ),
        Dialect(
            "qemu", "QEMU command line", "vmimg.machines.dialects.qemu", (".sh",),
            "https://www.qemu.org/docs/master/system/invocation.html", reads=False,
        ),
        Dialect(
            "proxmox", "Proxmox VE .conf", "vmimg.machines.dialects.proxmox", (".conf",),
            "https://pve.proxmox.com/wiki/Manual:_qm.conf", claims=("proxmox-conf",),
        ),
        Dialect(
            "vagrant", "Vagrant box metadata and Vagrantfile",
            "vmimg.machines.dialects.vagrant", (),
            "https://developer.hashicorp.com/vagrant/docs/boxes/format",
            claims=("vagrantfile",),
        ),
        Dialect(
            "cloud-hypervisor", "cloud-hypervisor VmConfig JSON",
            "vmimg.machines.dialects.cloud_hypervisor", (),
            "https://github.com/cloud-hypervisor/cloud-hypervisor (vmm/src/api/openapi)",
            reads=False,
        ),
        Dialect(
            "firecracker", "Firecracker configuration JSON",
            "vmimg.machines.dialects.firecracker", (),
            "https://github.com/firecracker-microvm/firecracker (src/firecracker/swagger)",
            reads=False,
        ),
        Dialect(
            "kubevirt", "KubeVirt VirtualMachine YAML", "vmimg.machines.dialects.kubevirt",
            (".yaml", ".yml"), "https://kubevirt.io/api-reference/", reads=False,
        ),
    )
}  # fmt: skip


def find(name: str) -> Dialect:
    """The dialect of that name. Raises OptionError that lists those there are."""
    if name in DIALECTS:
        return DIALECTS[name]
    raise OptionError(f"there is no dialect '{name}'; there are: {', '.join(DIALECTS)}")


def by_claim(claim: str) -> Dialect | None:
    """The dialect of files that detect calls ``claim``."""
    return next((dialect for dialect in DIALECTS.values() if claim in dialect.claims), None)


def by_extension(path: str, *, writes: bool = False) -> Dialect | None:
    """The dialect of the extension of ``path``: the first, where several share it; with ``writes``
    one that can be written.
    """
    extension = os.path.splitext(path)[1].lower()
    return next(
        (
            dialect
            for dialect in DIALECTS.values()
            if extension in dialect.extensions and (dialect.writes or not writes)
        ),
        None,
    )
