"""VMware's .vmx, and the .vmsd beside it: lines of key = "value".

    .encoding = "UTF-8"              the character set of the rest
    virtualHW.version = "21"         generation of the virtual hardware, 3 to 22
    scsi0:0.fileName = "disk.vmdk"   unit 0 of SCSI controller 0
    ethernet0.virtualDev = "vmxnet3"

Read: hardware versions 3 and later, of Workstation, Fusion, Player, Server and ESXi. What has no
word in the model is kept and written back as it was. VMware publishes no format; facts are from
files of those products, VMware's knowledge base and open-vm-tools (lib/dict).
"""

from __future__ import annotations

from vmimg.machines.dialects.vmx.reading import read, read_with
from vmimg.machines.dialects.vmx.writing import write

__all__ = ["read", "read_with", "write"]
