"""libvirt's domain XML: `virsh dumpxml`, /etc/libvirt/qemu/*.xml, and domain snapshots.

    <domain type="kvm">
      <name/> <memory unit="KiB"/> <vcpu/> <os/> <features/> <cpu/> <clock/>
      <devices> <disk/> <controller/> <interface/> <serial/> <tpm/> <graphics/> <sound/> <video/>

`words` has the tables, `elements` what is written of a machine, `reading` (with
`devices`) and `writing` the two ways, and `keeping` what the model has no
word for: what a domain has more than `writing` would write of its machine is kept, with the path of
the element that it stood in, and put back there. Sources: https://libvirt.org/formatdomain.html,
formatsnapshot.html, and the schemas that virt-xml-validate uses (domaincommon.rng).
"""

from vmimg.machines.dialects.libvirt.reading import read
from vmimg.machines.dialects.libvirt.writing import write

__all__ = ["read", "write"]
