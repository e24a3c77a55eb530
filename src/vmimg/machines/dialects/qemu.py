"""QEMU's command line, as a script of the shell that runs the machine in the foreground.

    #!/bin/sh
    exec qemu-system-x86_64 -nodefaults -name ... -machine q35,accel=kvm:tcg ... "$@"

Options that are given to the script come after its own. Where there is a TPM, the script starts
swtpm before; where the variables of UEFI have no file yet, it copies the template. It is written
only. Every argument is quoted, and commas in a value are doubled, as QEMU's options have it. Paths
of firmware are Debian's. Source: https://www.qemu.org/docs/master/system/invocation.html and
`qemu-system-x86_64 -device help`. Imports fitting and the model.
"""

from __future__ import annotations

import shlex
from typing import Final

from vmimg.machines.dialect import Written
from vmimg.machines.fitting import Fitting, Rule, network_card
from vmimg.machines.losses import Loss
from vmimg.machines.model import Display, Drive, Machine, Network, Serial

__all__ = ["arguments", "write"]

_X86: Final = ("", "x86_64", "i686")
_PROGRAMS: Final = {
    "": "x86_64", "i686": "i386", "armv7l": "arm", "ppc64le": "ppc64",
}  # fmt: skip
_MACHINES: Final = {"i440fx": "pc", "q35": "q35", "virt": "virt"}
_BOARDS: Final = {"ppc64": "pseries", "ppc64le": "pseries", "s390x": "s390-ccw-virtio"}
"""What other architectures have instead of a chipset."""

_FIRMWARE: Final = {
    ("x86_64", False): ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("x86_64", True): ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("i386", False): (
        "/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd",
        "/usr/share/OVMF/OVMF32_VARS_4M.fd",
    ),
    ("aarch64", False): ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
    ("arm", False): ("/usr/share/AAVMF/AAVMF32_CODE.fd", "/usr/share/AAVMF/AAVMF32_VARS.fd"),
    ("riscv64", False): (
        "/usr/share/qemu-efi-riscv64/RISCV_VIRT_CODE.fd",
        "/usr/share/qemu-efi-riscv64/RISCV_VIRT_VARS.fd",
    ),
}  # fmt: skip
_FORMATS: Final = {
    "raw": "raw", "qcow2": "qcow2", "qcow": "qcow", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx",
    "vdi": "vdi", "dmg": "dmg", "parallels": "parallels", "iso": "raw", "cloop": "cloop",
    "qed": "qed", "bochs": "bochs",
}  # fmt: skip
_SCSI: Final = {
    "lsilogic": "lsi53c895a", "lsisas1068": "mptsas1068", "pvscsi": "pvscsi",
    "virtio-scsi": "virtio-scsi", "": "virtio-scsi",
}  # fmt: skip
_NETWORK: Final = {
    "virtio": "virtio-net", "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139",
    "pcnet": "pcnet", "ne2k_pci": "ne2k_pci", "vmxnet3": "vmxnet3",
}  # fmt: skip
_VIDEO: Final = {
    "vga": "VGA", "cirrus": "cirrus-vga", "qxl": "qxl-vga", "virtio": "virtio-vga",
    "vmvga": "vmware-svga", "bochs": "bochs-display", "ramfb": "ramfb",
}  # fmt: skip
_WITH_MEMORY: Final = ("vga", "cirrus", "qxl", "vmvga")
_WITH_HEADS: Final = ("qxl", "virtio")
_SOUND: Final = {
    "ich6": ("intel-hda", "hda-duplex"), "hda": ("intel-hda", "hda-duplex"),
    "ich9": ("ich9-intel-hda", "hda-duplex"), "ac97": ("AC97",), "es1370": ("ES1370",),
    "sb16": ("sb16",),
}  # fmt: skip
_USB: Final = {
    "uhci": "piix3-usb-uhci", "ohci": "pci-ohci", "ehci": "usb-ehci", "xhci": "qemu-xhci",
}  # fmt: skip

_RULES: Final = (
    Rule("description", "a command line has no place for it"),
    Rule("guest", "QEMU does not ask what runs in it"),
    Rule("memory", "QEMU would take 128 MiB", lambda size: size > 0, 1 << 30, needed=True),
    Rule("clock", "QEMU knows UTC and local time", ("utc", "localtime"), "utc"),
    Rule("drives[].source", "QEMU knows no pools of volumes", ("block", "network"), drop=True),
    Rule("drives[].size", "the image says how large it is"),
    Rule("drives[].format", "QEMU does not open it without a key, or at all", _FORMATS),
    Rule("controllers[].model", "QEMU has no such controller",
         ("lsilogic", "lsisas1068", "pvscsi", "virtio-scsi", "ahci", "piix3", "piix4")),
    Rule("networks[].model", "QEMU has no such card, or none was named", _NETWORK, network_card,
         needed=True),
    Rule("networks[].kind", "QEMU by itself has user networks and bridges",
         ("user", "bridge", "none"), "user", needed=True),
    Rule("networks[].connected", "a cable is pulled in QEMU's monitor, with set_link"),
    Rule("display.model", "QEMU has no such video card", (*_VIDEO, "none"), "vga"),
    Rule("display.accelerated", "it depends on the host's graphics"),
    Rule("display.remote", "QEMU shows no screen so", ("vnc", "spice", "sdl", "gtk"), "vnc"),
    Rule("usb[]", "QEMU has no such USB controller", _USB),
    Rule("sound[]", "QEMU has no such sound card", _SOUND),
    Rule("snapshots[]", "a command line has none; those inside of images stay there"),
)  # fmt: skip


def write(machine: Machine) -> Written:
    """A script for sh."""
    fitting = _fitting(machine)
    fitted = fitting.fitted
    lines = ["#!/bin/sh", "set -e"]
    firmware = fitted.firmware
    template = _firmware_files(fitted)[1]
    if firmware.variables:
        kept, empty = shlex.quote(firmware.variables), shlex.quote(template)
        lines.append(f"[ -e {kept} ] || cp {empty} {kept}")
    if firmware.tpm:
        state = f'"$PWD"/{_tpm(fitted)}'  # swtpm leaves the folder when it is a daemon
        version = " --tpm2" if firmware.tpm == "2.0" else ""
        lines.append(f"mkdir -p {state}.state")
        lines.append(
            f"swtpm socket --daemon --terminate{version} --tpmstate dir={state}.state"
            f" --ctrl type=unixio,path={state}.sock"
        )
    words = arguments(fitted)
    said = [shlex.quote(words[0])]
    for word in words[1:]:  # an option and its value on each line
        quoted = shlex.quote(word)
        said.append(f" \\\n    {quoted}" if word.startswith("-") else f" {quoted}")
    lines.append("exec " + "".join(said) + ' \\\n    "$@"')
    # Such a disk is run with a temporary file above it, so that the image stays as it is.
    ata = tuple(
        Loss(f"drives[{at}].readonly", "yes", "QEMU has no such ATA disk: what is written is lost")
        for at, _ in fitting.members("drives")
        if machine.drives[at].readonly and fitting.now(f"drives[{at}].bus") in ("ide", "sata")
    )
    return Written(("\n".join(lines) + "\n").encode(), fitting.losses + ata)


def _fitting(machine: Machine) -> Fitting:
    fitting = Fitting(machine, "qemu", _RULES)
    x86 = machine.architecture in _X86
    if not machine.architecture:
        fitting.lose("architecture", "a command line is for one program", "x86_64")
    if machine.architecture in _BOARDS:
        fitting.lose("chipset", "it is the only board of this architecture")
    elif not x86:
        fitting.lose("chipset", "it is the only board of this architecture", "virt")
    elif machine.chipset not in ("i440fx", "q35"):
        wanted = "q35" if machine.firmware.kind == "uefi" else "i440fx"
        reason = "QEMU is told a board"
        fitting.lose("chipset", "QEMU has no Xen" if machine.chipset else reason, wanted)
    _fit_firmware(fitting)
    for at, network in fitting.members("networks"):
        if fitting.now(f"networks[{at}].kind") != "bridge":
            fitting.lose(f"networks[{at}].network", "only a bridge has a name")
        elif not network.network:
            fitting.lose(f"networks[{at}].network", "a bridge has a name", "br0")
    _fit_drives(fitting, x86)
    if machine.cpus.sockets == 0 and machine.cpus.count == 0:
        fitting.lose("cpus.count", "QEMU is told a number", 1)
    display = machine.display
    if display is not None:
        _fit_display(fitting, display)
    return fitting


def _fit_firmware(fitting: Fitting) -> None:
    firmware = fitting.machine.firmware
    if firmware.kind != "uefi":
        fitting.lose("firmware.secure_boot", "only UEFI has it")
        fitting.lose("firmware.variables", "only UEFI has them")
        return
    code, _ = _firmware_files(fitting.machine)
    if not code:
        fitting.lose("firmware.kind", "there is no UEFI for this architecture")
        for key in ("secure_boot", "variables", "loader"):
            fitting.lose(f"firmware.{key}", "there is no UEFI for this architecture")
    elif not firmware.loader:
        fitting.lose("firmware.loader", "QEMU is told a file; this is Debian's", code)


def _fit_drives(fitting: Fitting, x86: bool) -> None:
    machine = fitting.machine
    chipset = fitting.now("chipset")
    small = {each.model for each in machine.controllers} & {"lsilogic", "lsisas1068"}
    room = {"sata": (4, 6), "scsi": (8, 7 if small else 64), "virtio": (1, 64), "nvme": (16, 1),
            "usb": (1, 8)}  # fmt: skip
    if x86:
        room["floppy"] = (1, 2)
    if chipset == "i440fx":
        room["ide"] = (2, 2)

    def fallback(drive: Drive) -> str:
        if drive.device == "floppy":
            return "floppy"
        if drive.device == "cdrom":
            return "ide" if chipset == "i440fx" else "sata" if x86 else "scsi"
        if machine.guest.startswith("win") or drive.bus == "ide":
            return "ide" if chipset == "i440fx" else "sata"
        return "virtio"

    for at, drive in fitting.members("drives"):
        if drive.device == "floppy" and not x86:
            fitting.lose(f"drives[{at}]", "there is no floppy drive on this architecture")
        elif drive.device == "disk" and not drive.path:
            fitting.lose(f"drives[{at}]", "a disk has an image")
        elif drive.device != "disk":
            fitting.lose(f"drives[{at}].serial", "only said of disks")
    fitting.place(
        room, fallback, "QEMU on this board",
        lambda device, bus: (device == "floppy") == (bus == "floppy")
        and not (device == "cdrom" and bus in ("virtio", "nvme")),
    )  # fmt: skip
    if not machine.usb and any(fitting.now(f"drives[{at}].bus") == "usb"
                               for at, _ in fitting.members("drives")):  # fmt: skip
        fitting.lose("usb", "a USB disk needs a controller", ("xhci",))


def _fit_display(fitting: Fitting, display: Display) -> None:
    model = fitting.now("display.model")
    if not model:
        model = "vga"
        fitting.lose("display.model", "QEMU is told a card", model)
    mebibytes = display.memory >> 20
    if model not in _WITH_MEMORY:
        fitting.lose("display.memory", "QEMU sets it for VGA, Cirrus, QXL and VMware only")
    elif mebibytes & (mebibytes - 1) or not 1 <= mebibytes <= 256:
        fitting.lose("display.memory", "QEMU takes powers of two up to 256 MiB")
    if model not in _WITH_HEADS:
        fitting.lose("display.heads", "QEMU sets it for QXL and virtio only")
    elif display.heads > 16:
        fitting.lose("display.heads", "QEMU has 16 at most", 16)


def arguments(machine: Machine) -> list[str]:
    """The command line of a machine that QEMU can say."""
    cpus, firmware = machine.cpus, machine.firmware
    program = _PROGRAMS.get(machine.architecture, machine.architecture)
    board = _BOARDS.get(machine.architecture) or _MACHINES.get(machine.chipset, "pc")
    smm = ",smm=on" if firmware.secure_boot and machine.architecture in _X86 else ""
    smp = str(cpus.count)
    if cpus.sockets:
        smp += f",sockets={cpus.sockets},cores={cpus.cores},threads={cpus.threads}"
    said = [f"qemu-system-{program}", "-nodefaults"]
    if machine.name:
        said += ["-name", f"guest={_value(machine.name)}"]
    said += ["-machine", f"{board},accel=kvm:tcg{smm}"]
    if machine.uuid:
        said += ["-uuid", machine.uuid]
    if cpus.model:  # with KVM "max" is the host's, and without it still runs
        said += ["-cpu", "max" if cpus.model == "host" else _value(cpus.model)]
    said += ["-smp", smp, "-m", f"size={-(-machine.memory >> 10)}k"]
    if machine.clock:
        said += ["-rtc", f"base={machine.clock}"]
    if firmware.kind == "uefi":
        pflash = "if=pflash,format=raw"
        said += ["-drive", f"{pflash},unit=0,readonly=on,file={_value(firmware.loader)}"]
        if firmware.variables:
            said += ["-drive", f"{pflash},unit=1,file={_value(firmware.variables)}"]
    elif firmware.loader:
        said += ["-bios", firmware.loader]
    if firmware.tpm:
        said += ["-chardev", f"socket,id=tpm,path={_value(_tpm(machine) + '.sock')}"]
        said += ["-tpmdev", "emulator,id=tpm0,chardev=tpm"]
        model = "tpm-crb" if firmware.tpm == "2.0" and machine.architecture in _X86 else "tpm-tis"
        model += "" if machine.architecture in _X86 else "-device"
        said += ["-device", f"{model},tpmdev=tpm0"]
    for at, usb in enumerate(machine.usb):
        said += ["-device", f"{_USB[usb]},id=usb{at}"]
    said += _controllers(machine)
    for at, drive in enumerate(machine.drives):
        said += _drive(machine, drive, at)
    for at, network in enumerate(machine.networks):
        said += _network(network, at)
    for at, serial in enumerate(machine.serials):
        said += ["-chardev", f"{_chardev(serial)},id=serial{at}", "-serial", f"chardev:serial{at}"]
    said += _display(machine)
    for at, sound in enumerate(machine.sound):
        *bus, card = _SOUND[sound]
        said += ["-audiodev", f"none,id=audio{at}"]
        said += [word for each in bus for word in ("-device", each)]
        said += ["-device", f"{card},audiodev=audio{at}"]
    return said


def _value(value: str) -> str:
    """A value inside an option, where a comma stands for the next one."""
    return value.replace(",", ",,")


def _tpm(machine: Machine) -> str:
    """Where the TPM's state and socket lie, beside the script."""
    letters = "".join(
        each if each.isascii() and (each.isalnum() or each in "-_") else "_"
        for each in machine.name
    )
    return f"{letters[:40] or 'machine'}-tpm"


def _firmware_files(machine: Machine) -> tuple[str, str]:
    program = _PROGRAMS.get(machine.architecture, machine.architecture)
    secure = bool(machine.firmware.secure_boot)
    return _FIRMWARE.get((program, secure)) or _FIRMWARE.get((program, False)) or ("", "")


def _controllers(machine: Machine) -> list[str]:
    said: list[str] = []
    models = {each.index: each.model for each in machine.controllers if each.bus == "scsi"}
    for index in sorted({each.controller for each in machine.drives if each.bus == "scsi"}):
        said += ["-device", f"{_SCSI.get(models.get(index, ''), 'virtio-scsi')},id=scsi{index}"]
    for index in sorted({each.controller for each in machine.drives if each.bus == "sata"}):
        if machine.chipset != "q35" or index:  # q35 has the first on board
            said += ["-device", f"ich9-ahci,id=sata{index}"]
    if machine.chipset == "q35" and any(each.bus == "floppy" for each in machine.drives):
        said += ["-device", "isa-fdc,id=fdc"]
    return said


def _drive(machine: Machine, drive: Drive, at: int) -> list[str]:
    said: list[str] = []
    if drive.path:
        # By driver: a colon in a name would make a protocol of what stands before it.
        file = f"file.driver=file,file.filename={_value(drive.path)}"
        if drive.source == "network":
            file = f"file={_value(drive.path)}"
        elif drive.source == "block":
            kind = "host_cdrom" if drive.device == "cdrom" else "host_device"
            file = f"file.driver={kind},file.filename={_value(drive.path)}"
        option = f"if=none,id=drive{at},{file}"
        if drive.format:
            option += f",format={_FORMATS[drive.format]}"
        if drive.readonly and drive.bus in ("ide", "sata"):
            option += ",snapshot=on"
        elif drive.readonly or drive.device == "cdrom":
            option += ",readonly=on"
        said += ["-drive", option]
    device = _device(machine, drive) + (f",drive=drive{at}" if drive.path else "")
    if drive.serial:
        device += f",serial={_value(drive.serial)}"
    elif drive.bus == "nvme":
        device += f",serial=nvme{drive.controller}"
    if drive.boot:
        device += f",bootindex={drive.boot}"
    return [*said, "-device", device]


def _device(machine: Machine, drive: Drive) -> str:
    end = "cd" if drive.device == "cdrom" else "hd"
    if drive.bus == "ide":
        return f"ide-{end},bus=ide.{drive.controller},unit={drive.slot}"
    if drive.bus == "sata":
        own = machine.chipset == "q35" and drive.controller == 0
        bus = "ide" if own else f"sata{drive.controller}"
        return f"ide-{end},bus={bus}.{drive.slot}"
    if drive.bus == "scsi":
        return f"scsi-{end},bus=scsi{drive.controller}.0,scsi-id={drive.slot}"
    if drive.bus == "usb":
        return "usb-storage,removable=on" if drive.device == "cdrom" else "usb-storage"
    if drive.bus == "floppy":
        return f"floppy,unit={drive.slot}"
    return "nvme" if drive.bus == "nvme" else "virtio-blk"


def _network(network: Network, at: int) -> list[str]:
    said: list[str] = []
    device = _NETWORK[network.model]
    if network.kind == "user":
        said += ["-netdev", f"user,id=net{at}"]
    elif network.kind == "bridge":
        said += ["-netdev", f"bridge,id=net{at},br={_value(network.network)}"]
    device += f",netdev=net{at}" if said else ""
    if network.mac:
        device += f",mac={network.mac}"
    if network.boot:
        device += f",bootindex={network.boot}"
    return [*said, "-device", device]


def _chardev(serial: Serial) -> str:
    if serial.kind in ("pty", "null"):
        return serial.kind
    if serial.kind == "tcp":
        host, _, port = serial.path.rpartition(":")
        return f"socket,host={_value(host)},port={_value(port)},server=on,wait=off"
    if serial.kind == "unix":
        return f"socket,path={_value(serial.path)},server=on,wait=off"
    kind = {"device": "serial"}.get(serial.kind, serial.kind)
    return f"{kind},path={_value(serial.path)}"


def _display(machine: Machine) -> list[str]:
    display = machine.display
    if display is None or display.model == "none":
        return ["-display", "none"]
    card = _VIDEO[display.model]
    if machine.architecture not in _X86 and display.model == "virtio":
        card = "virtio-gpu-pci"
    if display.memory:
        card += f",vgamem_mb={display.memory >> 20}"
    if display.heads:
        card += f",max_outputs={display.heads}"
    said = ["-device", card]
    if display.remote == "vnc":  # the first free of a hundred, for this host only
        said += ["-vnc", "127.0.0.1:0,to=99"]
    elif display.remote == "spice":
        said += ["-spice", "addr=127.0.0.1,port=5930,disable-ticketing=on"]
    elif display.remote:
        said += ["-display", display.remote]
    return said
