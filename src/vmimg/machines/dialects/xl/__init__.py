"""Xen's xl configuration: /etc/xen/guest.cfg.

    name = "guest"
    type = "hvm"
    memory = 1024
    disk = [ "format=qcow2, vdev=xvda, access=rw, target=/images/guest.qcow2" ]
    vif = [ "mac=00:16:3e:00:00:01, bridge=xenbr0" ]

It looks like Python and is not: `syntax` reads assignments of strings, numbers and lists, and runs
nothing. What the model has no word for is kept by its key, ("on_crash", '"destroy"'), or as an
option of a disk or interface, ("vif[0].rate", "10Mb/s"). Sources: xl.cfg(5),
xl-disk-configuration(5),
xl-network-configuration(5), and Xen's libxlu_cfg_l.l for the syntax.
"""

from vmimg.machines.dialects.xl.reading import read
from vmimg.machines.dialects.xl.writing import write

__all__ = ["read", "write"]
