"""ova.xml of XenServer and XCP-ng: records of xapi's database, as values of XML-RPC.

    <value><struct>
      version   export_vsn, product_version ...
      objects   [ {class: "VM", id: "Ref:0", snapshot: {name_label, VBDs: ["Ref:3"], ...}},
                  {class: "VBD", id: "Ref:3", snapshot: {VM, VDI: "Ref:4", userdevice: "0"}},
                  {class: "VDI", id: "Ref:4", snapshot: {virtual_size, ...}}, ... ]

The path of a drive is the reference of its VDI, "Ref:4": the folder of an XVA with its data.
Snapshots are VMs of their own that say of which. Until XenServer 4 it was
<appliance version="0.1">, which is read too. `values` knows XML-RPC, `records` what xapi's records
have. What the model has no word for is kept by record and field: ("VM.platform.acpi",
"<value>true</value>"). Sources: xen-api (ocaml/xapi/export.ml, import.ml, xva.ml; the API
reference), and the XVA page of XenServer's SDK.
"""

from vmimg.machines.dialects.xapi.reading import read
from vmimg.machines.dialects.xapi.writing import write

__all__ = ["read", "write"]
