"""Parallels Desktop's config.pvs (versions 6 to 20), and Virtuozzo's, which is the same.

    <ParallelsVirtualMachine schemaVersion="1.0">
      <AppVersion/> <Identification> <VmUuid/> <VmName/>
      <Settings> <General> <OsNumber/> <Startup> <BootingOrder/> <Bios/> ...
      <Hardware> <Cpu/> <Memory/> <Video/> <Fdd/> <CdRom/> <Hdd/> <NetworkAdapter/> <Serial/> ...

`words` has the numbers, `reading` and `writing` the two ways, `keeping` what the model has no word
for, `snapshots` the Snapshots.xml beside. Sources: config.pvs as Parallels Desktop 10 and 18 write
them and as Flatcar's build_library writes one; Virtuozzo's prl-disp-service and libprlsdk (which
number means what); libvirt's vz driver; QEMU docs/interop/prl-xml.
"""

from vmimg.machines.dialects.parallels.reading import read, read_with
from vmimg.machines.dialects.parallels.writing import write

__all__ = ["read", "read_with", "write"]
