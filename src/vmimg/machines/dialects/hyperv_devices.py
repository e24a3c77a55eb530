"""The devices of Hyper-V by their GUIDs, as they stand in the manifest of a machine. Data only.

Sources: see hyperv_settings.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BIOS",
    "COMPONENTS",
    "FLOPPY",
    "IDE",
    "LEGACY_NETWORK",
    "NETWORK",
    "SCSI",
    "SERIAL",
    "TPM",
    "VIDEO",
]

IDE: Final = "83f8638b-8dca-4152-9eda-2ca8b33039b4"
SCSI: Final = "d422512d-2bf2-4752-809d-7b82b5fcb1b4"
FLOPPY: Final = "8f0d2762-0b00-4e04-af4f-19010527cb93"
SERIAL: Final = "8e3a359f-559a-4b6a-98a9-1690a6100ed7"
NETWORK: Final = "2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778"
VIDEO: Final = "f3cf6965-e8d3-44a9-9b7d-a04245ea7525"
BIOS: Final = "ac6b8dc1-3257-4a70-b1b2-a9c9215659ad"
TPM: Final = "736e6aa9-a3f8-49c0-9550-a963214d259a"
LEGACY_NETWORK: Final = "Emulated Ethernet"
"""In the name of the older network card, a DEC 21140, for which the model has no word."""

COMPONENTS: Final = {
    "58f75a6d-d949-4320-99e1-a2a2576d581c": "Microsoft Synthetic Mouse",
    "197f74e3-b84b-46de-8ae6-82f1cd181cdc": "Microsoft Synthetic Keyboard",
    VIDEO: "Microsoft Synthetic Video",
    "bc12c717-8898-4688-8ee4-2cd14894f8ea": "Microsoft Hyper-V Activation Component",
    "6c09bb55-d683-4da0-8931-c9bf705f6480": "Microsoft Guest Interface Component",
    "84eaae65-2f2e-45f5-9bb5-0e857dc8eb47": "Microsoft Heartbeat Component",
    "2a34b1c2-fd73-4043-8a5b-dd2159bc743f": "Microsoft Key-Value Pair Exchange Component",
    "9f8233ac-be49-4c79-8ee3-e7e1985b2077": "Microsoft Shutdown Component",
    "2497f4de-e9fa-4204-80e4-4b75c46419c0": "Microsoft Time Synchronization Component",
    "5ced1297-4598-4915-a5fc-ad21bb4d02a4": "Microsoft VSS Component",
    "6c5addb9-a11a-4e8e-84cb-e6208201db63": "Microsoft RDV Component",
}
"""What the manifest of every machine lists, in its order; cards and controllers come behind."""
