"""Proxmox VE's configuration of a machine: /etc/pve/qemu-server/100.conf.

    #a description, percent-encoded, a line each
    boot: order=scsi0;net0
    memory: 2048
    scsi0: local-lvm:vm-100-disk-0,size=32G
    parent: before
    [before]
    #the description of a snapshot
    snaptime: 1700000000
    ...

Lines of "key: value"; many values are properties in a row, "scsi0: FILE,size=32G". A section is a
snapshot, with the whole configuration of then. `lines` knows the syntax, `words` the names. What
the model has no word for is kept by its key: ("agent", "1"), ("net0.firewall", "1") for a property,
("[before] cores", "2") in a section. Source: https://pve.proxmox.com/wiki/Manual:_qm.conf and
PVE::Tools (encode_text).
"""

from vmimg.machines.dialects.proxmox.reading import read
from vmimg.machines.dialects.proxmox.writing import write

__all__ = ["read", "write"]
