"""Vagrant: what a Vagrantfile and a box's metadata.json say of a machine.

A Vagrantfile is a program in Ruby, which is not run here: what is read are its plain assignments
of literals (`libvirt.memory = 2048`, `config.vm.base_mac = "080027D14C66"`), in the order of the
text and as if no `if` stood around them. What is written is a Vagrantfile for the provider libvirt,
which has the most settings. A machine of Vagrant's has its first interface behind NAT, always; its
disks come with its box. Sources: Vagrant's documentation (Vagrantfile, "Box File Format"), plugins/
kernel_v2/config/vm.rb and the providers' Config; vagrant-libvirt's lib/vagrant-libvirt/config.rb.
"""

from __future__ import annotations

from vmimg.machines.dialects.vagrant.program import Program, parse, quoted
from vmimg.machines.dialects.vagrant.reading import (
    ARCHITECTURES,
    read,
    read_metadata,
    settings_of,
)
from vmimg.machines.dialects.vagrant.writing import write, write_for_box

__all__ = [
    "ARCHITECTURES",
    "Program",
    "parse",
    "quoted",
    "read",
    "read_metadata",
    "settings_of",
    "write",
    "write_for_box",
]
