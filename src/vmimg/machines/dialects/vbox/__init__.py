"""VirtualBox's .vbox (and .vbox-prev): a machine's settings, its media and its snapshots.

    VirtualBox version="1.19-linux"
      Machine uuid name OSType currentSnapshot
        MediaRegistry         trees of images: a differencing one stands in its parent
        Snapshot              the first one; the others stand in its <Snapshots>
        Hardware              memory, processors, network ...
        StorageControllers    since 1.19 in Hardware; what is attached, by the image's uuid
        Platform              since 1.20: processors, chipset, clock

Read: settings 1.9 to 1.20 (VirtualBox 4.0 to 7.2). Written: the oldest of 1.16, 1.17, 1.19 and 1.20
that has what the machine uses. A disk's image carries its uuid, and VirtualBox compares: who knows
it says so in extras["vbox"], as ("HardDisk:disk.vdi@uuid", "..."); see `image_key`. Specification:
VirtualBox, src/VBox/Main/xml/VirtualBox-settings.xsd.
"""

from __future__ import annotations

from vmimg.machines.dialects.vbox.media import disk_uuid, image_key, is_image_key
from vmimg.machines.dialects.vbox.reading import read, read_machine
from vmimg.machines.dialects.vbox.writing import write

__all__ = ["disk_uuid", "image_key", "is_image_key", "read", "read_machine", "write"]
