"""Descriptors as their makers write them, written anew: not one is a copy.

`vmware` follows exports of ESXi 7 and ovftool 4.4, `virtualbox` those of VirtualBox 7 (1.0 and
2.0), `ovirt` what oVirt 4.5 keeps in storage domains, `aws` what `aws ec2 export-image` writes,
`xen` those of XenConvert, `vapp` a vApp of vCloud Director, `old` VMware's files before 1.0.
"""

from __future__ import annotations

OVF = "http://schemas.dmtf.org/ovf/envelope/1"
OVF2 = "http://schemas.dmtf.org/ovf/envelope/2"
CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
VMDK = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


def _spaces(ovf: str = OVF) -> str:
    return (
        f'xmlns="{ovf}" xmlns:ovf="{ovf}" '
        f'xmlns:rasd="{CIM}/CIM_ResourceAllocationSettingData" '
        f'xmlns:vssd="{CIM}/CIM_VirtualSystemSettingData" '
        'xmlns:vmw="http://www.vmware.com/schema/ovf" '
        'xmlns:vbox="http://www.virtualbox.org/ovf/machine" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    )


def item(prefix: str = "rasd", more: str = "", attributes: str = "", **values: object) -> str:
    inner = "".join(
        f"<{prefix}:{name}>{value}</{prefix}:{name}>" for name, value in sorted(values.items())
    )
    return f"<Item{attributes}>{inner}{more}</Item>"


def vmware() -> bytes:
    config = '<vmw:Config ovf:required="false" vmw:key="{}" vmw:value="{}"/>'
    items = [
        item(
            AllocationUnits="hertz * 10^6", ElementName="4 virtual CPU(s)", InstanceID=1,
            ResourceType=3, VirtualQuantity=4,
            more='<vmw:CoresPerSocket ovf:required="false">2</vmw:CoresPerSocket>',
        ),
        item(
            AllocationUnits="byte * 2^20", ElementName="8192MB of memory", InstanceID=2,
            ResourceType=4, VirtualQuantity=8192,
        ),
        item(
            Address=0, ElementName="SCSI Controller 0", InstanceID=3, ResourceSubType="VirtualSCSI",
            ResourceType=6, more=config.format("slotInfo.pciSlotNumber", 160),
        ),
        item(
            Address=0, ElementName="SATA controller 0", InstanceID=4,
            ResourceSubType="vmware.sata.ahci", ResourceType=20,
        ),
        item(
            AddressOnParent=0, AutomaticAllocation="false", ElementName="CD/DVD drive 1",
            InstanceID=5, Parent=4, ResourceSubType="vmware.cdrom.remotepassthrough",
            ResourceType=15, attributes=' ovf:required="false"',
        ),
        item(
            AddressOnParent=0, ElementName="Hard disk 1", HostResource="ovf:/disk/vmdisk1",
            InstanceID=6, Parent=3, ResourceType=17,
        ),
        item(
            AddressOnParent=1, ElementName="Hard disk 2", HostResource="ovf:/disk/vmdisk2",
            InstanceID=7, Parent=3, ResourceType=17,
        ),
        item(
            AddressOnParent=7, AutomaticAllocation="true", Connection="VM Network",
            ElementName="Network adapter 1", InstanceID=8, ResourceSubType="VmxNet3",
            ResourceType=10, more=config.format("wakeOnLanEnabled", "true"),
        ),
        item(
            AutomaticAllocation="false", ElementName="Video card", InstanceID=9, ResourceType=24,
            more=config.format("videoRamSizeInKB", 16384), attributes=' ovf:required="false"',
        ),
        item(
            AutomaticAllocation="false", ElementName="VMCI device", InstanceID=10,
            ResourceSubType="vmware.vmci", ResourceType=1, attributes=' ovf:required="false"',
        ),
        item(
            AutomaticAllocation="false", ElementName="Virtual TPM", InstanceID=11,
            ResourceSubType="vmware.vtpm", ResourceType=1, attributes=' ovf:required="false"',
        ),
    ]  # fmt: skip
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope {_spaces()}>
  <References>
    <File ovf:href="web%20server-disk1.vmdk" ovf:id="file1" ovf:size="123456789"/>
    <File ovf:href="web-server.nvram" ovf:id="file2" ovf:size="270840"/>
  </References>
  <DiskSection>
    <Info>Virtual disk information</Info>
    <Disk ovf:capacity="40" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1"
          ovf:fileRef="file1" ovf:format="{VMDK}" ovf:populatedSize="2147483648"/>
    <Disk ovf:capacity="${{data.size}}" ovf:capacityAllocationUnits="byte * 2^30"
          ovf:diskId="vmdisk2" ovf:format="{VMDK}"/>
  </DiskSection>
  <NetworkSection>
    <Info>The list of logical networks</Info>
    <Network ovf:name="VM Network"><Description>The VM Network network</Description></Network>
  </NetworkSection>
  <VirtualSystem ovf:id="web-server">
    <Info>A virtual machine</Info>
    <Name>web server</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian11_64Guest">
      <Info>The kind of installed guest operating system</Info>
      <Description>Debian GNU/Linux 11 (64-bit)</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="com.vmware.guestInfo">
      <Info>Virtual hardware requirements</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>web server</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-19</vssd:VirtualSystemType>
      </System>
      {"".join(items)}
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
      <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>
      <vmw:Config ovf:required="false" vmw:key="tools.syncTimeWithHost" vmw:value="false"/>
      <vmw:ExtraConfig ovf:required="false" vmw:key="nvram" vmw:value="ovf:/file/file2"/>
      <vmw:ExtraConfig ovf:required="false" vmw:key="svga.autodetect" vmw:value="TRUE"/>
    </VirtualHardwareSection>
    <vmw:BootOrderSection vmw:instanceId="6" vmw:type="disk">
      <Info>Virtual hardware device boot order</Info>
    </vmw:BootOrderSection>
    <vmw:BootOrderSection vmw:instanceId="8" vmw:type="net">
      <Info>Virtual hardware device boot order</Info>
    </vmw:BootOrderSection>
    <AnnotationSection>
      <Info>A human-readable annotation</Info><Annotation>Serves.
Two lines.</Annotation>
    </AnnotationSection>
    <EulaSection><Info>A license</Info><License>Do no harm.</License></EulaSection>
    <ProductSection ovf:required="false">
      <Info>About</Info><Product>Web</Product><Vendor>Example</Vendor><Version>1.2</Version>
      <Property ovf:key="data.size" ovf:type="int" ovf:value="100" ovf:userConfigurable="true">
        <Label>Size of the data disk</Label>
      </Property>
    </ProductSection>
  </VirtualSystem>
</Envelope>""".encode()


def virtualbox(version: str = "1.0") -> bytes:
    disk_item, network_item = "Item", "Item"
    disk_prefix = network_prefix = "rasd"
    spaces = _spaces(OVF if version == "1.0" else OVF2)
    if version == "2.0":
        disk_item, network_item = "StorageItem", "EthernetPortItem"
        disk_prefix, network_prefix = "sasd", "epasd"
        spaces += (
            f' xmlns:sasd="{CIM}/CIM_StorageAllocationSettingData.xsd"'
            f' xmlns:epasd="{CIM}/CIM_EthernetPortAllocationSettingData.xsd"'
        )
    disk = item(
        disk_prefix, AddressOnParent=0, Caption="disk1", Description="Disk Image",
        HostResource="/disk/vmdisk1", InstanceID=7, Parent=5, ResourceType=17,
    ).replace("Item>", f"{disk_item}>")  # fmt: skip
    network = item(
        network_prefix, AutomaticAllocation="true", Caption="Ethernet adapter on 'NAT'",
        Connection="NAT", InstanceID=8, ResourceSubType="E1000", ResourceType=10,
    ).replace("Item>", f"{network_item}>")  # fmt: skip
    return f"""<?xml version="1.0"?>
<Envelope ovf:version="{version}" xml:lang="en-US" {spaces}>
  <References><File ovf:id="file1" ovf:href="box-disk001.vmdk"/></References>
  <DiskSection>
    <Info>List of the virtual disks used in the package</Info>
    <Disk ovf:capacity="21474836480" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="{VMDK}"
          vbox:uuid="3d5ab7a4-6d9c-4b6b-8f5c-1a7f3a6a2c11"/>
  </DiskSection>
  <NetworkSection>
    <Info>Logical networks used in the package</Info><Network ovf:name="NAT"/>
  </NetworkSection>
  <VirtualSystem ovf:id="box">
    <Info>A virtual machine</Info>
    <OperatingSystemSection ovf:id="94">
      <Info>The kind of installed guest operating system</Info>
      <Description>Ubuntu_64</Description>
      <vbox:OSType ovf:required="false">Ubuntu22_LTS_64</vbox:OSType>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware requirements for a virtual machine</Info>
      <System>
        <vssd:VirtualSystemIdentifier>box</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>virtualbox-2.2</vssd:VirtualSystemType>
      </System>
      {item(Caption="2 virtual CPU", InstanceID=1, ResourceType=3, VirtualQuantity=2)}
      {item(AllocationUnits="MegaBytes", InstanceID=2, ResourceType=4, VirtualQuantity=2048)}
      {item(Address=0, InstanceID=3, ResourceSubType="PIIX4", ResourceType=5)}
      {item(Address=1, InstanceID=4, ResourceSubType="PIIX4", ResourceType=5)}
      {item(Address=0, InstanceID=5, ResourceSubType="AHCI", ResourceType=20)}
      {item(Address=0, InstanceID=6, ResourceType=23)}
      {disk}
      {item(AddressOnParent=0, AutomaticAllocation="true", InstanceID=9, Parent=4, ResourceType=15)}
      {network}
      {
        item(
            AutomaticAllocation="false",
            InstanceID=10,
            ResourceSubType="ensoniq1371",
            ResourceType=35,
        )
    }
    </VirtualHardwareSection>
    <vbox:Machine ovf:required="false" version="1.19-linux" name="box" OSType="Ubuntu22_LTS_64"
                  uuid="{{0f3c9e68-27b5-4a45-9f0e-3b1f0a0a5d21}}">
      <Hardware>
        <CPU count="2"><PAE enabled="false"/></CPU>
        <Memory RAMSize="2048"/>
        <Firmware type="EFI"/>
        <Chipset type="ICH9"/>
        <RTC localOrUTC="UTC"/>
        <Display controller="VMSVGA" VRAMSize="16"/>
        <HID Pointing="USBTablet"/>
      </Hardware>
    </vbox:Machine>
  </VirtualSystem>
</Envelope>""".encode()


def ovirt() -> bytes:
    group, image = "8f4a0d7c-2f44-44d1-9f0e-0f5f3d1f0001", "5d8f7c52-9a55-4c8c-bb64-0f5f3d1f0002"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ovf:Envelope xmlns:ovf="{OVF}/" xmlns:rasd="{CIM}/CIM_ResourceAllocationSettingData"
    xmlns:vssd="{CIM}/CIM_VirtualSystemSettingData" ovf:version="4.5.0.0"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <References>
    <File ovf:href="{group}/{image}" ovf:id="{image}" ovf:size="10737418240"/>
  </References>
  <NetworkSection><Info>List of networks</Info><Network ovf:name="ovirtmgmt"/></NetworkSection>
  <Section xsi:type="ovf:DiskSection_Type">
    <Info>List of Virtual Disks</Info>
    <Disk ovf:diskId="{image}" ovf:size="10" ovf:actual_size="3" ovf:fileRef="{group}/{image}"
      ovf:format="http://www.vmware.com/specifications/vmdk.html#sparse" ovf:boot="true"
      ovf:volume-format="COW" ovf:volume-type="Sparse" ovf:disk-interface="VirtIO_SCSI"/>
  </Section>
  <Content ovf:id="out" xsi:type="ovf:VirtualSystem_Type">
    <Name>vm-on-ovirt</Name>
    <Description>made by oVirt</Description>
    <CreationDate>2024/01/02 03:04:05</CreationDate>
    <TimeZone>Etc/GMT</TimeZone>
    <VmType>1</VmType>
    <BiosType>4</BiosType>
    <ClusterCompatibilityVersion>4.7</ClusterCompatibilityVersion>
    <Section ovf:id="0f3c9e68-27b5-4a45-9f0e-3b1f0a0a5d22" ovf:required="false"
             xsi:type="ovf:OperatingSystemSection_Type">
      <Info>Guest Operating System</Info><Description>rhel_9x64</Description>
    </Section>
    <Section xsi:type="ovf:VirtualHardwareSection_Type">
      <Info>4 CPU, 4096 Memory</Info>
      <System><vssd:VirtualSystemType>ENGINE 4.5.0.0</vssd:VirtualSystemType></System>
      {item(InstanceId=1, ResourceType=3, num_of_sockets=2, cpu_per_socket=1, threads_per_cpu=2)}
      {item(InstanceId=2, ResourceType=4, AllocationUnits="MegaBytes", VirtualQuantity=4096)}
      {item(InstanceId=image, ResourceType=17, HostResource=f"{group}/{image}", Type="disk")}
      {
        item(
            InstanceId="n",
            ResourceType=10,
            ResourceSubType=3,
            Connection="ovirtmgmt",
            Linked="true",
            MACAddress="56:6F:1A:2B:00:01",
            Type="interface",
            Device="bridge",
        )
    }
      {item(InstanceId="v", ResourceType=20, VirtualQuantity=1, Type="video", Device="qxl")}
      {item(InstanceId="g", ResourceType=26, Type="graphics", Device="spice")}
      {item(InstanceId="c", ResourceType=15, Type="disk", Device="cdrom")}
      {item(InstanceId="w", ResourceType=0, Type="watchdog", Device="i6300esb")}
    </Section>
  </Content>
</ovf:Envelope>""".encode()


def aws() -> bytes:
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope {_spaces()}>
  <References>
    <File ovf:id="file1" ovf:href="export-ami-0.vmdk" ovf:size="999"/>
  </References>
  <DiskSection>
    <Info>List of the virtual disks</Info>
    <Disk ovf:capacityAllocationUnits="GB" ovf:format="{VMDK}" ovf:diskId="vmdisk1"
          ovf:capacity="8" ovf:fileRef="file1"/>
  </DiskSection>
  <VirtualSystem ovf:id="EC2-import">
    <Info>EC2 exported VM</Info>
    <OperatingSystemSection ovf:id="36"><Info>OS</Info></OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Virtual hardware</Info>
      {item(InstanceID=1, ResourceType=3, VirtualQuantity=1)}
      {item(InstanceID=2, ResourceType=4, AllocationUnits="byte * 2^20", VirtualQuantity=1024)}
      {item(InstanceID=3, ResourceType=6, ResourceSubType="lsilogic", Address=0)}
      {
        item(
            InstanceID=3,
            ResourceType=17,
            HostResource="ovf:/disk/vmdisk1",
            Parent=3,
            AddressOnParent=0,
        )
    }
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>""".encode()


def xen() -> bytes:
    return f"""<?xml version="1.0"?>
<ovf:Envelope {_spaces()} xmlns:xenovf="http://schemas.citrix.com/ovf/envelope/1"
    ovf:version="1.0.0" xml:lang="en-US">
  <ovf:References>
    <ovf:File ovf:id="f1" ovf:href="disk.vhd.gz" ovf:size="5000" ovf:compression="gzip"
              ovf:chunkSize="2000"/>
  </ovf:References>
  <ovf:DiskSection>
    <ovf:Info>disks</ovf:Info>
    <ovf:Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="8589934592"
      ovf:format="http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx"/>
    <ovf:Disk ovf:diskId="d2" ovf:fileRef="f1" ovf:parentRef="d1" ovf:capacity="8589934592"
      ovf:format="http://www.microsoft.com/technet/virtualserver/downloads/vhdspec.mspx"/>
  </ovf:DiskSection>
  <ovf:VirtualSystem ovf:id="x">
    <ovf:Info>a machine</ovf:Info><ovf:Name>on xen</ovf:Name>
    <ovf:VirtualHardwareSection>
      <ovf:Info>hardware</ovf:Info>
      <ovf:System><vssd:VirtualSystemType>hvm-3.0-unknown</vssd:VirtualSystemType></ovf:System>
      <ovf:Item><rasd:InstanceID>a</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType>
        <rasd:HostResource>ovf:/disk/d2</rasd:HostResource></ovf:Item>
    </ovf:VirtualHardwareSection>
  </ovf:VirtualSystem>
</ovf:Envelope>""".encode()


def vapp() -> bytes:
    def system(name: str, disk: str) -> str:
        return f"""<VirtualSystem ovf:id="{name}"><Info>A virtual machine</Info><Name>{name}</Name>
      <VirtualHardwareSection><Info>h</Info>
        {item(InstanceID=1, ResourceType=3, VirtualQuantity=1)}
        {item(InstanceID=2, ResourceType=4, AllocationUnits="byte * 2^20", VirtualQuantity=512)}
        {item(InstanceID=3, ResourceType=6, ResourceSubType="lsilogicsas", Address=0)}
        {item(InstanceID=4, ResourceType=17, HostResource=f"ovf:/disk/{disk}", Parent=3)}
      </VirtualHardwareSection></VirtualSystem>"""

    return f"""<Envelope {_spaces()}>
  <References>
    <File ovf:id="f1" ovf:href="a.vmdk"/><File ovf:id="f2" ovf:href="b.vmdk"/>
  </References>
  <DiskSection><Info>d</Info>
    <Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="1"
          ovf:capacityAllocationUnits="byte * 2^30" ovf:format="{VMDK}"/>
    <Disk ovf:diskId="d2" ovf:fileRef="f2" ovf:capacity="2"
          ovf:capacityAllocationUnits="byte * 2^30" ovf:format="{VMDK}"/>
  </DiskSection>
  <VirtualSystemCollection ovf:id="shop"><Info>A vApp</Info><Name>Shop</Name>
    <StartupSection><Info>order</Info></StartupSection>
    {system("front", "d1")}
    <VirtualSystemCollection ovf:id="inner"><Info>i</Info>{system("back", "d2")}
    </VirtualSystemCollection>
  </VirtualSystemCollection>
</Envelope>""".encode()


def old() -> bytes:
    return f"""<?xml version="1.0"?>
<ovf:Envelope xmlns:ovf="http://www.vmware.com/schema/ovf/1/envelope" ovf:version="0.9"
  xmlns:rasd="{CIM}/CIM_ResourceAllocationSettingData"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <References><File ovf:id="file1" ovf:href="old.vmdk" ovf:size="7"/></References>
  <Section xsi:type="ovf:DiskSection_Type"><Info>d</Info>
    <Disk ovf:diskId="d1" ovf:fileRef="file1" ovf:capacity="1073741824"
          ovf:format="http://www.vmware.com/specifications/vmdk.html#compressed"/>
  </Section>
  <Content ovf:id="old one" xsi:type="ovf:VirtualSystem_Type">
    <Info>A virtual machine</Info>
    <Section xsi:type="ovf:VirtualHardwareSection_Type"><Info>h</Info>
      {item(InstanceId=1, ResourceType=3, VirtualQuantity=1)}
      {item(InstanceId=2, ResourceType=4, AllocationUnits="MegaBytes", VirtualQuantity=256)}
      {item(InstanceId=3, ResourceType=6, ResourceSubType="lsilogic")}
      {item(InstanceId=4, ResourceType=17, HostResource="disk/d1", Parent=3, AddressOnParent=0)}
    </Section>
  </Content>
</ovf:Envelope>""".encode()
