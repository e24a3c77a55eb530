"""Vagrant boxes: a machine for one provider in a tar, a tar.gz or a zip, or unpacked.

    metadata.json      the provider, and what it wants to know (none in boxes of the first version)
    Vagrantfile        settings, a program in Ruby, which is not run here
    and what the provider has: box.img (libvirt), box.ovf and .vmdk (VirtualBox), .vmx and .vmdk
    (VMware), Virtual Machines and Virtual Hard Disks (Hyper-V), a .pvm (Parallels)

Sources: Vagrant's "Box File Format" and lib/vagrant/box_collection.rb (`vagrant box add`),
plugins/providers/*/action/import.rb; vagrant-libvirt's "Box Formats" and handle_box_image.rb.
Imports machines, archives and below.
"""

from __future__ import annotations

from vmimg.bundles.vagrant.making import make
from vmimg.bundles.vagrant.reading import VagrantBox, open

__all__ = ["VagrantBox", "make", "open"]
