"""Descriptions and states of machines to vet: what programs here make, and the rest by hand.

virt-install writes libvirt's XML and QEMU its states and dumps; the others are as their programs
write them, shortened: .vmx as Workstation 17, .vbox as VirtualBox 7.0, .xml as Hyper-V of Windows
Server 2008 R2, config.pvs as Parallels Desktop 18, manifests as Amazon's AMI tools 1.4. Each bad
one is a good one with one thing changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peers
from probe import states_by_hand as states
from probe.making import of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD"]

VMX = """\
.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "21"
displayName = "demo"
guestOS = "debian12-64"
memsize = "2048"
nvram = "demo.nvram"
extendedConfigFile = "demo.vmxf"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "demo.vmdk"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-raw"
ide1:0.fileName = "auto detect"
floppy0.present = "FALSE"
annotation = "the |22first|22 machine"
"""

VBOX = """\
<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
  <Machine uuid="{f0a4c2f5-9b53-44a5-a3f6-1a1f1b0f2d11}" name="demo" OSType="Debian_64"
           snapshotFolder="Snapshots" lastStateChange="2024-01-01T00:00:00Z">
    <MediaRegistry>
      <HardDisks>
        <HardDisk uuid="{5fb8cd94-67f6-4a0a-9c2a-6f4b6b8f5a01}" location="demo.vdi" format="VDI"
                  type="Normal"/>
      </HardDisks>
    </MediaRegistry>
    <Hardware>
      <Memory RAMSize="1024"/>
      <StorageControllers>
        <StorageController name="SATA" type="AHCI" PortCount="1">
          <AttachedDevice type="HardDisk" hotpluggable="false" port="0" device="0">
            <Image uuid="{5fb8cd94-67f6-4a0a-9c2a-6f4b6b8f5a01}"/>
          </AttachedDevice>
        </StorageController>
      </StorageControllers>
    </Hardware>
  </Machine>
</VirtualBox>
"""

DOMAIN = """\
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>demo</name>
  <memory unit='KiB'>524288</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <source file='/var/lib/libvirt/images/demo.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='pty'/>
  </devices>
</domain>
"""

HYPERV = """\
<?xml version="1.0" encoding="UTF-16" standalone="yes"?>
<configuration>
  <_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
    <controller0>
      <drive0>
        <pathname type="string">C:\\VMs\\demo\\Virtual Hard Disks\\demo.vhd</pathname>
        <type type="string">VHD</type>
      </drive0>
    </controller0>
  </_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
  <properties>
    <global_id type="string">8D0C9E0F-1C5B-4E33-9A0D-0B8B34F0D8E5</global_id>
    <name type="string">demo</name>
    <type_id type="string">Virtual Machines</type_id>
    <version type="integer">519</version>
  </properties>
</configuration>
"""

PVS = """\
<?xml version="1.0" encoding="UTF-8"?>
<ParallelsVirtualMachine dyn_lists="VirtualAppliance 0" schemaVersion="1.0">
  <AppVersion>18.1.1-53328</AppVersion>
  <Identification><VmUuid>{8f8e6b1c-2b67-4a5c-8a59-1d9d3a8a1c55}</VmUuid><VmName>demo</VmName>
  </Identification>
  <Hardware>
    <Hdd dyn_lists="Partition 0" id="0"><Index>0</Index><Enabled>1</Enabled>
      <EmulatedType>1</EmulatedType><SystemName>harddisk1.hdd</SystemName></Hdd>
  </Hardware>
</ParallelsVirtualMachine>
"""

OVF = """\
<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
          xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References><File ovf:href="demo-disk1.vmdk" ovf:id="file1" ovf:size="68096"/></References>
  <DiskSection><Info>Disks</Info>
    <Disk ovf:capacity="1073741824" ovf:diskId="vmdisk1" ovf:fileRef="file1"/></DiskSection>
  <VirtualSystem ovf:id="demo"><Info>A machine</Info><Name>demo</Name></VirtualSystem>
</Envelope>
"""

EC2 = """\
<?xml version='1.0'?><manifest><version>2007-10-10</version>
<bundler><name>ec2-ami-tools</name><version>1.4.0.9</version><release>0</release></bundler>
<machine_configuration><architecture>x86_64</architecture></machine_configuration>
<image><name>demo.img</name><user>123456789012</user><type>machine</type><size>1048576</size>
<parts count="2">
<part index="0"><filename>demo.img.part.0</filename><digest algorithm="SHA1">00</digest></part>
<part index="1"><filename>demo.img.part.1</filename><digest algorithm="SHA1">01</digest></part>
</parts></image></manifest>
"""

VMSD = """\
.encoding = "UTF-8"
snapshot.lastUID = "1"
snapshot.current = "1"
snapshot0.uid = "1"
snapshot0.filename = "demo-Snapshot1.vmsn"
snapshot0.disk0.fileName = "demo.vmdk"
snapshot.numSnapshots = "1"
"""

PROXMOX = """\
boot: order=scsi0;net0
cores: 2
memory: 2048
name: demo
net0: virtio=BC:24:11:6E:31:01,bridge=vmbr0
ostype: l26
scsi0: local-lvm:vm-100-disk-0,size=32G
scsihw: virtio-scsi-single
smbios1: uuid=1ac9d0ee-79f6-4d8b-8b7b-7ac1f5b6a1aa
"""

XL = """\
# a machine with hardware virtualization
name = "demo"
type = "hvm"
memory = 1024
vcpus = 2
vif = [ 'bridge=xenbr0' ]
disk = [ 'demo.qcow2,qcow2,xvda,rw' ]
"""

VAGRANT = 'Vagrant.configure("2") do |config|\n  config.vm.box = "debian/bookworm64"\nend\n'

MANIFEST = f"SHA256(demo.ovf)= {'0' * 64}\nSHA256(demo-disk1.vmdk)= {'1' * 64}\n"

BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'

# Of each kind what is least: nothing in them is the host's but names.
OTHER_XML = {
    "libvirt-snapshot": "<domainsnapshot><name>first</name><state>shutoff</state></domainsnapshot>",
    "libvirt-network": "<network><name>default</name><bridge name='virbr0'/></network>",
    "libvirt-pool": "<pool type='dir'><name>default</name></pool>",
    "libvirt-volume": "<volume><name>demo.img</name><capacity unit='GiB'>1</capacity></volume>",
    "parallels-snapshots": "<ParallelsSavedStates><SavedStateItem/></ParallelsSavedStates>",
    "vmxf": "<Foundry><VM><VMId type='string'>52 1f</VMId></VM></Foundry>",
    "xva-xml": "<value><struct><member><name>version</name><value/></member></struct></value>",
}

CERTIFICATE = f"""\
SHA256(demo.mf)= {"0" * 512}
-----BEGIN CERTIFICATE-----
MIIB
-----END CERTIFICATE-----
"""


def _text(name: str, file: str, text: str, claim: str, *codes: str) -> Sample:
    return of_bytes(name, file, text.encode, claim, *codes)


def _changed(
    name: str, file: str, text: str, old: str, new: str, claim: str, *codes: str
) -> Sample:
    assert text.count(old) == 1, f"{name}: {old!r} is not there once"
    return _text(name, file, text.replace(old, new), claim, *codes)


def _patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def _virt_install(folder: Path) -> Path:
    done = peers.run(
        "virt-install", "--connect", "test:///default", "--name", "demo", "--memory", "512",
        "--disk", "/var/lib/libvirt/images/demo.qcow2,size=1", "--osinfo", "generic",
        "--import", "--dry-run", "--print-xml",
    )  # fmt: skip
    path = folder / "demo.xml"
    path.write_bytes(done.stdout)
    return path


def _by_qemu(command: str) -> Callable[[Path], Path]:
    """What QEMU's monitor makes of a machine that was never started."""

    def make(folder: Path) -> Path:
        path = folder / "machine"
        said = f"{command.format(path)}\nquit\n".encode()
        machine = ("-M", "pc", "-m", "2", "-S", "-nodefaults", "-display", "none")
        peers.run("qemu-system-x86_64", *machine, "-monitor", "stdio", input=said)
        return path

    return make


def _folder(name: str, claim: str, *names: str, codes: tuple[str, ...] = ()) -> Sample:
    """A directory of empty files and, where a name ends with a slash, of directories."""

    def make(folder: Path) -> Path:
        place = folder / "demo"
        place.mkdir()
        for each in names:
            path = place / each
            path.parent.mkdir(parents=True, exist_ok=True)
            if each.endswith("/"):
                path.mkdir()
            elif "->" in each:
                link, _, target = each.partition("->")
                (place / link).symlink_to(target)
            else:
                path.touch()
        return place

    return Sample(name, make, claim, codes)


GOOD: tuple[Sample, ...] = (
    Sample("virt-install-domain", _virt_install, "libvirt-domain", peers=("virt-install",)),
    Sample(
        "qemu-savevm",
        _by_qemu('migrate "exec:cat > {}"'),
        "qemu-state",
        peers=("qemu-system-x86_64",),
    ),
    Sample(
        "qemu-core", _by_qemu("dump-guest-memory {}"), "elf-core", peers=("qemu-system-x86_64",)
    ),
    Sample(
        "qemu-kdump", _by_qemu("dump-guest-memory -z {}"), "kdump", peers=("qemu-system-x86_64",)
    ),
    _text("vmx", "demo.vmx", VMX, "vmx"),
    _text("vmsd", "demo.vmsd", VMSD, "vmsd"),
    _text("vbox", "demo.vbox", VBOX, "vbox"),
    _text("libvirt-domain", "demo.xml", DOMAIN, "libvirt-domain"),
    of_bytes(
        "hyperv-xml", "demo.xml", lambda: b"\xff\xfe" + HYPERV.encode("utf-16-le"), "hyperv-xml"
    ),
    _text("pvs", "config.pvs", PVS, "pvs"),
    _text("ovf", "demo.ovf", OVF, "ovf"),
    _text("ec2-manifest", "demo.img.manifest.xml", EC2, "ec2-bundle"),
    _text("ovf-manifest", "demo.mf", MANIFEST, "ovf-manifest"),
    _text("proxmox-conf", "100.conf", PROXMOX, "proxmox-conf"),
    _text("xl-config", "demo.cfg", XL, "xl-config"),
    _text("vagrantfile", "Vagrantfile", VAGRANT, "vagrantfile"),
    _text("cloud-config", "user-data", "#cloud-config\nhostname: demo\n", "cloud-init"),
    _text("ignition", "config.ign", '{"ignition": {"version": "3.4.0"}}\n', "ignition"),
    of_bytes("vmss", "demo.vmss", states.vmss, "vmware-state"),
    of_bytes("vmsn-partial", "demo.vmsn", lambda: states.vmss(0xBED3BED3), "vmware-state"),
    of_bytes("vmware-nvram", "demo.nvram", lambda: b"MRVN" + bytes(8680), "vmware-nvram"),
    of_bytes("vbox-state", "demo.sav", states.vbox_state, "vbox-state"),
    of_bytes("vmcx", "demo.vmcx", states.hyperv_storage, "hyperv-storage"),
    of_bytes("vmrs", "demo.vmrs", lambda: states.hyperv_storage("savedstate"), "hyperv-storage"),
    of_bytes("vmgs", "demo.vmgs", states.vmgs, "vmgs"),
    of_bytes("libvirt-save", "demo.save", lambda: states.libvirt_save(DOMAIN), "libvirt-state"),
    of_bytes("lime", "demo.lime", lambda: states.lime((0x1000, 4096), (0x10000, 8192)), "lime"),
    of_bytes("windows-dump", "MEMORY.DMP", states.windows_dump, "windows-dump"),
    *(_text(f"xml-{claim}", "demo.xml", text, claim) for claim, text in OTHER_XML.items()),
    _text("ovf-cert", "demo.cert", CERTIFICATE, "ovf-cert"),
    of_bytes("hibernation", "hiberfil.sys", states.hibernation, "hibernation"),
    of_bytes("xen-save", "demo.save", states.xen_save, "xen-state"),
    _folder("folder-pvm", "pvm", "config.pvs", "harddisk.hdd/"),
    _folder("folder-vmware", "vmware-folder", "demo.vmx", "demo.vmdk", "demo.nvram"),
    _folder("folder-vbox", "vbox-folder", "demo.vbox", "demo.vdi", "Logs/"),
    _folder("folder-hyperv", "hyperv-export", "Virtual Machines/", "Virtual Hard Disks/"),
    _folder("folder-oci", "oci", "oci-layout", "index.json", "blobs/"),
    _folder("folder-ovf", "ovf-folder", "demo.ovf", "demo-disk1.vmdk", "demo.mf"),
    _folder("folder-box", "vagrant", "metadata.json", "Vagrantfile", "box.img"),
    _folder("folder-lxd", "lxd", "incus.tar.xz", "disk.qcow2"),
    _folder("folder-ec2", "ec2-bundle", "d.img.manifest.xml", "d.img.part.0", "d.img.part.1"),
    _folder("folder-netboot", "netboot", "vmlinuz-virt", "initramfs-virt"),
)


def _bad_vmx(name: str, old: str, new: str, *codes: str) -> Sample:
    return _changed(f"vmx-{name}", "demo.vmx", VMX, old, new, "vmx", *codes)


def _bad_vbox(name: str, old: str, new: str, *codes: str) -> Sample:
    return _changed(f"vbox-{name}", "demo.vbox", VBOX, old, new, "vbox", *codes)


def _bad_domain(name: str, old: str, new: str, *codes: str) -> Sample:
    return _changed(f"domain-{name}", "demo.xml", DOMAIN, old, new, "libvirt-domain", *codes)


def _bad_state(name: str, make: Callable[[], bytes], claim: str, *codes: str) -> Sample:
    return of_bytes(name, "machine", make, claim, *codes)


_DISK = 'scsi0:0.fileName = "demo.vmdk"'
_SERIAL = 'serial0.present = "TRUE"\nserial0.fileType = '
_SOURCE = "<source file='/var/lib/libvirt/images/demo.qcow2'/>"
_PTY = "<serial type='pty'/>"
_MEMORY = '<Memory RAMSize="1024"/>'

BAD: tuple[Sample, ...] = (
    _bad_vmx("disk-outside", '"demo.vmdk"', '"../../other/disk.vmdk"', "names-outside"),
    _bad_vmx("disk-of-windows", '"demo.vmdk"', '"C:\\Users\\x\\d.vmdk"', "names-outside"),
    _bad_vmx("disk-on-a-share", '"demo.vmdk"', '"\\\\host\\share\\d.vmdk"', "names-outside"),
    _bad_vmx("disk-is-a-device", '"demo.vmdk"', '"/dev/sda"', "device-extent"),
    _bad_vmx("raw-disk", _DISK, f'{_DISK}\nscsi0:0.deviceType = "rawDisk"', "device-extent"),
    _bad_vmx("nvram-outside", '"demo.nvram"', '"/etc/passwd"', "names-outside"),
    _bad_vmx(
        "serial-file",
        _DISK,
        f'{_DISK}\n{_SERIAL}"file"\nserial0.fileName = "/home/x/.ssh/authorized_keys"',
        "names-outside",
    ),
    _bad_vmx(
        "serial-device",
        _DISK,
        f'{_DISK}\n{_SERIAL}"device"\nserial0.fileName = "/dev/ttyS0"',
        "device-extent",
    ),
    _bad_vmx("log-outside", _DISK, f'{_DISK}\nvmx.log.filename = "/tmp/x"', "names-outside"),
    _bad_vmx("shares-all", _DISK, f'{_DISK}\nsharedFolder0.hostPath = "/"', "names-outside"),
    _bad_vmx("setting-twice", _DISK, f"{_DISK}\n{_DISK.replace('demo', 'b')}", "odd-field"),
    _changed(
        "vmsd-outside", "demo.vmsd", VMSD, '"demo.vmdk"', '"/dev/sdb"', "vmsd", "device-extent"
    ),
    _bad_vbox("disk-outside", '"demo.vdi"', '"../x/demo.vdi"', "names-outside"),
    _bad_vbox("disk-is-a-device", '"demo.vdi"', '"/dev/sda"', "device-extent"),
    _bad_vbox(
        "shared-folder",
        _MEMORY,
        f'{_MEMORY}<SharedFolders><SharedFolder name="a" hostPath="/"/></SharedFolders>',
        "names-outside",
    ),
    _bad_vbox(
        "port-to-a-file",
        _MEMORY,
        f'{_MEMORY}<UART><Port slot="0" enabled="true" hostMode="RawFile" path="/tmp/x"/></UART>',
        "names-outside",
    ),
    _bad_vbox(
        "loads-a-library",
        _MEMORY,
        f'{_MEMORY}<ExtraData><ExtraDataItem name="VBoxInternal/PDM/Devices/x/Path"'
        ' value="/tmp/x.so"/></ExtraData>',
        "runs-program",
    ),
    _bad_vbox("entities", '<?xml version="1.0"?>', f'<?xml version="1.0"?>{BOMB}', "xml-entities"),
    _bad_domain("etc-shadow", _SOURCE, "<source file='/etc/shadow'/>", "names-outside"),
    _bad_domain("device", _SOURCE, "<source dev='/dev/sda'/>", "device-extent"),
    _bad_domain("network-disk", _SOURCE, "<source protocol='nbd' name='x'/>", "names-outside"),
    _bad_domain("emulator", "/usr/bin/qemu-system-x86_64", "/tmp/x", "runs-program"),
    _bad_domain(
        "emulator-up", "/usr/bin/qemu-system-x86_64", "/usr/bin/../../tmp/x", "runs-program"
    ),
    _bad_domain(
        "commandline",
        "</devices>",
        "</devices><qemu:commandline><qemu:arg value='-device'/></qemu:commandline>",
        "runs-program",
    ),
    _bad_domain("hostdev", _PTY, "<hostdev mode='subsystem' type='pci'/>", "device-extent"),
    _bad_domain(
        "filesystem",
        _PTY,
        "<filesystem type='mount'><source dir='/'/><target dir='host'/></filesystem>",
        "names-outside",
    ),
    _bad_domain("deep", _PTY, "<a>" * 100 + "</a>" * 100, "xml-oversize"),
    _bad_domain("broken", "</domain>", "", "malformed"),
    of_bytes(
        "hyperv-xml-share",
        "demo.xml",
        lambda: HYPERV.replace("C:\\VMs\\demo", "\\\\evil\\share").encode("utf-16"),
        "hyperv-xml",
        "names-outside",
    ),
    of_bytes(
        "hyperv-xml-device",
        "demo.xml",
        lambda: HYPERV.replace(
            "C:\\VMs\\demo\\Virtual Hard Disks\\demo.vhd", "\\\\.\\PHYSICALDRIVE0"
        ).encode("utf-16"),
        "hyperv-xml",
        "device-extent",
    ),
    _changed(
        "pvs-outside", "config.pvs", PVS, ">harddisk1.hdd<", ">/x/y.hdd<", "pvs", "names-outside"
    ),
    _changed(
        "pvs-device", "config.pvs", PVS, ">harddisk1.hdd<", ">/dev/disk0<", "pvs", "device-extent"
    ),
    _changed(
        "ovf-outside", "demo.ovf", OVF, '"demo-disk1.vmdk"', '"../d.vmdk"', "ovf", "names-outside"
    ),
    _changed(
        "ovf-url", "demo.ovf", OVF, '"demo-disk1.vmdk"', '"http://x/d"', "ovf", "names-outside"
    ),
    _changed(
        "ec2-outside", "m.xml", EC2, ">demo.img.part.1<", ">../x.1<", "ec2-bundle", "names-outside"
    ),
    _changed("ec2-count", "m.xml", EC2, 'count="2"', 'count="3"', "ec2-bundle", "manifest-lies"),
    _changed(
        "mf-twice",
        "demo.mf",
        MANIFEST,
        "demo-disk1.vmdk",
        "demo.ovf",
        "ovf-manifest",
        "manifest-lies",
    ),
    _changed(
        "mf-outside",
        "demo.mf",
        MANIFEST,
        "demo-disk1.vmdk",
        "/x/d",
        "ovf-manifest",
        "names-outside",
    ),
    _changed(
        "proxmox-args",
        "100.conf",
        PROXMOX,
        "cores: 2",
        "args: -s\ncores: 2",
        "proxmox-conf",
        "runs-program",
    ),
    _changed(
        "proxmox-device",
        "100.conf",
        PROXMOX,
        "local-lvm:vm-100-disk-0",
        "/dev/sda",
        "proxmox-conf",
        "device-extent",
    ),
    _changed(
        "xl-device", "x.cfg", XL, "demo.qcow2,qcow2", "phy:/dev/sda", "xl-config", "device-extent"
    ),
    _changed(
        "xl-program",
        "x.cfg",
        XL,
        'type = "hvm"',
        'type = "hvm"\nbootloader = "/tmp/x"',
        "xl-config",
        "runs-program",
    ),
    _bad_state(
        "vmss-many-groups",
        lambda: _patched(states.vmss(), 8, b"\0\x10\0\0"),
        "vmware-state",
        "table-outside",
    ),
    _bad_state(
        "vmss-group-outside",
        lambda: _patched(states.vmss(), 12 + 64, b"\xff" * 6),
        "vmware-state",
        "table-outside",
    ),
    _bad_state("vbox-state-crc", lambda: states.vbox_state(crc=1), "vbox-state", "checksum-wrong"),
    _bad_state("vbox-state-cut", lambda: states.vbox_state()[:-8], "vbox-state", "truncated"),
    _bad_state(
        "vmcx-copies",
        lambda: _patched(states.hyperv_storage(), 0x1016, b"\0\x20"),
        "hyperv-storage",
        "copies-disagree",
    ),
    _bad_state(
        "vmcx-version",
        lambda: _patched(_patched(states.hyperv_storage(), 10, b"\0\5"), 0x100A, b"\0\5"),
        "hyperv-storage",
        "unknown-version",
    ),
    _bad_state(
        "vmcx-log-pending",
        lambda: states.hyperv_storage(entries=3),
        "hyperv-storage",
        "log-pending",
    ),
    _bad_state(
        "vmcx-object-outside",
        lambda: _patched(states.hyperv_storage(), 0x2000 + 8 + 18 + 8, b"\1"),
        "hyperv-storage",
        "table-outside",
    ),
    _bad_state("vmgs-crc", lambda: states.vmgs(crc=1), "vmgs", "checksum-wrong"),
    _bad_state("vmgs-encrypted", lambda: states.vmgs(encrypted=1), "vmgs", "encrypted"),
    _bad_state("vmgs-file-outside", lambda: states.vmgs(files=(3, 900)), "vmgs", "table-outside"),
    _bad_state("vmgs-overlap", lambda: states.vmgs(files=(3, 3)), "vmgs", "tables-overlap"),
    _bad_state(
        "libvirt-save-partial",
        lambda: states.libvirt_save(DOMAIN, magic=b"LibvirtQemudPart"),
        "libvirt-state",
        "truncated",
    ),
    _bad_state(
        "libvirt-save-length",
        lambda: states.libvirt_save(DOMAIN, length=1 << 30),
        "libvirt-state",
        "table-outside",
    ),
    _bad_state(
        "libvirt-save-emulator",
        lambda: states.libvirt_save(DOMAIN.replace("/usr/bin/qemu-system-x86_64", "/tmp/x")),
        "libvirt-state",
        "runs-program",
    ),
    _bad_state("lime-cut", lambda: states.lime((0x1000, 4096), cut=1), "lime", "truncated"),
    _bad_state(
        "lime-overlap",
        lambda: states.lime((0x1000, 4096), (0x1800, 4096)),
        "lime",
        "tables-overlap",
    ),
    _bad_state(
        "windows-dump-cut", lambda: states.windows_dump(needed=1 << 20), "windows-dump", "truncated"
    ),
    _folder(
        "folder-link", "vmware-folder", "demo.vmx", "demo.vmdk->/etc/passwd", codes=("member-link",)
    ),
)
