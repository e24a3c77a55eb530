"""Hyper-V's .xml of a machine or a snapshot: Windows Server 2008 to 2012 R2.

    <configuration>
      <_83f8638b-8dca-4152-9eda-2ca8b33039b4_> <controller0> <drive0> <pathname type="string"/>
      <global_settings/>
      <manifest> <vdev001> <device type="string"/> <instance type="string"/>
      <properties> <name type="string"/> <subtype type="integer"/>
      <settings> <processors> <count type="integer"/>

UTF-16 with a mark in front and lines of Windows; a leaf has a type (string, integer, bool, bytes in
base64), and elements stand in the order of their names. What they say is in `hyperv_settings`;
`leaves` has the document, `rendering` the machine in Hyper-V's words, `fitting` what those are,
`keeping` what the model has no word for. What is written is version 5.0, of Windows Server 2012 R2
and Windows 8.1. A .vmcx, since 2016, is not written: its checksums are published nowhere.

Which hosts take it: Windows Server 2012 R2 to 2019 and Windows 8.1 to 10 (version 1909) import
version 5.0 and upgrade it on demand; Windows Server 2022 and later do not (MicrosoftDocs,
windowsserverdocs, "Upgrade virtual machine version in Hyper-V"). Vagrant reads the file itself, on
any host (plugins/providers/hyperv, VagrantVM.psm1).

Sources: see `hyperv_settings`; the limits are those of "Hyper-V scalability in Windows Server 2012
and Windows Server 2012 R2" by Microsoft. What is written has been read by dissect.target and
compared with what Vagrant asks for. No Hyper-V has imported it.
"""

from vmimg.machines.dialects.hyperv_xml.reading import read, read_created
from vmimg.machines.dialects.hyperv_xml.rendering import machine_id
from vmimg.machines.dialects.hyperv_xml.writing import write

__all__ = ["machine_id", "read", "read_created", "write"]
