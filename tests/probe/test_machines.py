"""Descriptions and states of machines: what is claimed, what is left alone, what vetting says.

The samples go through detect and vet as a whole in test_corpus; here is what they do not show.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from formats import vhd_by_hand
from probe import samples_machines as samples
from probe import states_by_hand as states
from vmimg.errors import VmimgError
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import contradictions
from vmimg.probe.recognisers import machines as xmls
from vmimg.probe.recognisers import states as saved
from vmimg.probe.recognisers import texts
from vmimg.probe.vetters import bundles as bundle_vetters
from vmimg.probe.vetters import machines as xml_vetters
from vmimg.probe.vetters import states as state_vetters
from vmimg.probe.vetters import texts as text_vetters
from vmimg.storage.memory import MemoryStorage

RECOGNISERS = (*xmls.RECOGNISERS, *texts.RECOGNISERS, *saved.RECOGNISERS)
TABLES = (
    bundle_vetters.VETTERS,
    xml_vetters.VETTERS,
    text_vetters.VETTERS,
    state_vetters.VETTERS,
)
ROOT = Path(__file__).parents[2]


def view_of(data: bytes | str) -> View:
    held = MemoryStorage(data.encode() if isinstance(data, str) else data)
    return View(held, 0, held.size)


def claims(data: bytes | str) -> list[Claim]:
    view = view_of(data)
    return [claim for recognise in RECOGNISERS for claim in recognise(view)]


def claimed(data: bytes | str) -> list[str]:
    return [claim.name for claim in claims(data)]


def vetted(name: str, view: View) -> list[Finding]:
    return [each for table in TABLES if name in table for each in table[name](view)]


def found(data: bytes | str) -> list[Finding]:
    (claim,) = claims(data)
    return vetted(claim.name, view_of(data))


def severities(data: bytes | str) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in found(data)}


def domain(old: str, new: str) -> str:
    assert old in samples.DOMAIN
    return samples.DOMAIN.replace(old, new)


def vmx(*lines: str) -> str:
    return samples.VMX + "".join(f"{line}\n" for line in lines)


# What is left alone

ORDINARY = {
    "markdown": "# demo\n\nname: value\n\nRun `vagrant up`, see Vagrant.configure in the manual.\n",
    "c": '#include <stdio.h>\n#define NAME "x"\nint main(void) { puts("config.version"); }\n',
    "python": 'name = "demo"\nmemory = 1024\ndisk = ["a"]\nprint(name)\n',
    "toml": '[project]\nname = "demo"\nversion = "1"\n',
    "shell": '#!/bin/sh\nNAME="demo"\nVERSION="1"\n',
    "os-release": 'NAME="Debian"\nVERSION_ID="12"\nID="debian"\n',
    "npm": '{"name": "demo", "version": "1.0.0", "scripts": {"test": "true"}}',
    "oci index": '{"schemaVersion": 2, "manifests": []}',
    "terraform": '{"provider": {"aws": {}}, "version": 4}',
    "compose": "version: '3'\nservices:\n  web:\n    image: nginx\n",
    "kubernetes": "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: demo\n",
    "mail": "From: a@example.org\nTo: b@example.org\nSubject: memory\n\nHello.\n",
    "gnu checksums": f"{'0' * 64}  demo.ovf\n{'1' * 64}  demo.vmdk\n",
    "bad checksums": "SHA256(demo.ovf)= 1234\n",
    "vmdk": '# Disk DescriptorFile\nversion=1\nCID=fffffffe\ncreateType="monolithicFlat"\n',
    "dockerfile": "FROM debian:12\nRUN true\n",
    "html": "<!DOCTYPE html>\n<html><head><title>domain</title></head></html>\n",
    "pom": '<project xmlns="http://maven.apache.org/POM/4.0.0"><version>1</version></project>',
    "dotnet": "<configuration><appSettings><add key='a' value='b'/></appSettings></configuration>",
    "hadoop": "<configuration><property><name>a</name></property></configuration>",
    "log4j": "<configuration><properties><property name='a'/></properties></configuration>",
    "android": '<manifest package="org.example"><application/></manifest>',
    "soap": '<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body/></Envelope>',
    "network": "<network><node id='1'/></network>",
    "domain of ours": "<domain type='mathematics'><set>R</set></domain>",
    "parallels disk": "<Parallels_disk_image><Disk_Parameters/></Parallels_disk_image>",
    "xml-rpc": "<value><string>a</string></value>",
    "empty": "",
    "zeros": "\0" * 4096,
}


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
def test_what_is_no_machine_is_not_claimed(text: str) -> None:
    assert claimed(text) == []


@pytest.mark.parametrize(
    "name", ["README.md", "Makefile", "pyproject.toml", "LICENSE", "CHANGELOG.md"]
)
def test_files_of_a_project_are_not_claimed(name: str) -> None:
    assert claimed((ROOT / name).read_bytes()) == []


def test_source_code_is_not_claimed() -> None:
    sources = [path for folder in ("src", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [str(path) for path in sources if claimed(path.read_bytes())] == []


def test_a_program_is_no_core_dump() -> None:
    header = bytearray(b"\x7fELF\2\1\1" + bytes(57))
    header[16:18] = b"\2\0"
    assert claimed(bytes(header)) == []
    header[16:18] = b"\4\0"
    assert claimed(bytes(header)) == ["elf-core"]


def test_text_is_never_surer_than_structure_without_a_magic() -> None:
    for text in (samples.VMX, samples.VMSD, samples.PROXMOX, samples.XL, samples.VAGRANT):
        (claim,) = claims(text)
        assert 0 < claim.confidence <= 50


# What is claimed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("text", "name"),
    [(samples.VBOX, "vbox"), (samples.DOMAIN, "libvirt-domain"), (samples.PVS, "pvs"),
     (samples.OVF, "ovf")],
)  # fmt: skip
def test_xml_is_known_by_its_root_in_any_encoding(text: str, name: str, encoding: str) -> None:
    if encoding == "utf-16":
        text = text.replace('encoding="UTF-8"', 'encoding="UTF-16"')
    assert claimed(text.encode(encoding)) == [name]


@pytest.mark.parametrize(
    ("text", "name"),
    [(samples.VBOX, "vbox"), (samples.DOMAIN, "libvirt-domain"), (samples.OVF, "ovf")],
)
def test_the_beginning_of_a_description_is_enough(text: str, name: str) -> None:
    assert claimed(text[: len(text) // 2]) == [name]
    assert claimed(f"{text}{'<!-- -->' * 20_000}") == [name]


def test_a_description_says_which_machine_it_is_of() -> None:
    (claim,) = claims(samples.DOMAIN)
    assert claim.details == {"hypervisor": "kvm", "machine": "demo", "os-type": "hvm", "disks": "1"}
    (claim,) = claims(samples.VMX)
    assert (claim.details["machine"], claim.details["hardware-version"]) == ("demo", "21")
    (claim,) = claims(samples.OVF)
    assert (claim.details["ovf-version"], claim.container_format) == ("1", "ovf")
    (claim,) = claims(samples.EC2)
    assert (claim.family, claim.details["parts"]) == ("bundle", "2")


@pytest.mark.parametrize(
    ("name", "xml"),
    [
        *samples.OTHER_XML.items(),
        ("libvirt-domain", "<domstatus state='running'><domain type='kvm'/></domstatus>"),
    ],
)
def test_other_descriptions_in_xml_are_known(name: str, xml: str) -> None:
    assert claimed(f"<?xml version='1.0'?>\n{xml}") == [name]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("## template: jinja\n#cloud-config\n{}\n", "cloud-init"),
        ("MIME-Version: 1.0\n\nContent-Type: text/cloud-config\n", "cloud-init"),
        ("variant: fcos\nversion: 1.5.0\n", "butane"),
        ("apiVersion: kubevirt.io/v1\nkind: VirtualMachine\n", "kubevirt"),
        ('{"provider": "libvirt", "format": "qcow2", "virtual_size": 10}', "vagrant-metadata"),
        (samples.CERTIFICATE, "ovf-cert"),
    ],
)
def test_other_descriptions_in_text_are_known(text: str, name: str) -> None:
    assert claimed(text) == [name]


def test_an_encrypted_vmx_is_one() -> None:
    text = '.encoding = "UTF-8"\nencryption.keySafe = "vmware:key/list"\nencryption.data = "AA=="\n'
    (claim,) = claims(text)
    assert (claim.name, claim.details["encrypted"]) == ("vmx", "yes")
    assert "encrypted" in severities(text)


@pytest.mark.parametrize("magic", [0xBED0BED0, 0xBED2BED0, 0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1])
def test_all_versions_of_a_vmss_are_known(magic: int) -> None:
    (claim,) = claims(states.vmss(magic))
    assert (claim.name, claim.confidence, claim.details["groups"]) == ("vmware-state", 100, 3)


def test_a_real_header_of_virtualbox_has_the_right_checksum() -> None:
    # From a published dump of a state that VirtualBox 5.1.28 saved.
    header = b"\x7fVirtualBox SavedState V2.0\n\0\0\0\0" + bytes.fromhex(
        "050001001c000000d0cc0100400808002a000000010000000010000008df3b9e"
    )
    (claim,) = claims(header + bytes(4096))
    assert claim.confidence == 100
    assert claim.details["virtualbox"] == "5.1.28" and claim.details["units"] == 42


def test_a_guest_state_is_made_as_vmgstool_makes_it() -> None:
    # The checksum of a store that vmgstool has just created.
    assert struct.unpack_from("<I", states.vmgs(), 12) == (0x6D2EED28,)
    (claim,) = claims(states.vmgs())
    assert (claim.name, claim.confidence, claim.details["version"]) == ("vmgs", 100, "3.0")


def test_a_guest_state_in_a_fixed_vhd_is_no_contradiction() -> None:
    vhd = Claim("vhd", "disk", "VHD", 100)
    assert contradictions([vhd, *claims(states.vmgs())]) == ()
    assert contradictions([vhd, *claims(states.vmss())]) == ("vhd", "vmware-state")


def test_the_second_header_of_a_guest_state_counts_when_it_is_newer() -> None:
    newer = states.vmgs(sequence=2, encrypted=1)[:168]
    for offset in (512, 4096):
        data = bytearray(states.vmgs(sequence=1))
        data[offset : offset + 168] = newer
        (claim,) = claims(bytes(data))
        assert claim.details["encrypted"] is True
        # A torn one does not, and that is worth a word only.
        data[offset + 20] ^= 1
        assert claims(bytes(data))[0].details["encrypted"] is False
        assert severities(bytes(data)) == {"checksum-wrong": Severity.WARNING}


def test_hyperv_says_what_is_configuration_and_what_is_state() -> None:
    assert claims(states.hyperv_storage())[0].details["kind"] == "configuration"
    assert claims(states.hyperv_storage("savedstate"))[0].details["kind"] == "saved state"
    assert "snapshots" not in severities(states.hyperv_storage())
    assert severities(states.hyperv_storage("savedstate"))["snapshots"] == Severity.WARNING


def test_a_virtualbox_nvram_with_a_tpm_is_more_than_a_tar() -> None:
    import tarfile

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("TpmEmuTpms/permall"))
    (claim,) = claims(held.getvalue())
    assert (claim.name, claim.refines) == ("vbox-nvram", ("tar",))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (states.xen_save(), "xen-state"),
        (b"LibxlFmt" + bytes(100), "xen-state"),
        (states.hibernation(), "hibernation"),
        (b"KDUMP   " + bytes(4096), "kdump"),
        (b"PAGEDUMP" + bytes(4096), "windows-dump"),
    ],
)
def test_other_states_are_known(data: bytes, name: str) -> None:
    assert claimed(data) == [name]
    assert severities(data)["snapshots"] == Severity.WARNING


# What other programs say of the samples


@pytest.mark.peer("dissect.hypervisor")
def test_dissect_reads_the_same_of_the_samples() -> None:
    from dissect.hypervisor.descriptor.hyperv import HyperVFile  # type: ignore[import-untyped]
    from dissect.hypervisor.descriptor.ovf import OVF  # type: ignore[import-untyped]
    from dissect.hypervisor.descriptor.pvs import PVS  # type: ignore[import-untyped]
    from dissect.hypervisor.descriptor.vbox import VBox  # type: ignore[import-untyped]
    from dissect.hypervisor.descriptor.vmx import VMX  # type: ignore[import-untyped]

    assert VMX.parse(samples.VMX).disks() == ["demo.vmdk"]
    assert list(PVS(io.StringIO(samples.PVS)).disks()) == ["harddisk1.hdd"]
    box = VBox(io.StringIO(samples.VBOX))
    assert [disk.location for disk in box.media.values()] == ["demo.vdi"]
    assert list(OVF(io.StringIO(samples.OVF)).references.values()) == ["demo-disk1.vmdk"]
    stored = HyperVFile(io.BytesIO(states.hyperv_storage()))
    assert stored.as_dict() == {"configuration": {"generation": 2}}
    assert stored.header.sequence_number == 7


# What vetting says


@pytest.mark.parametrize(
    "text",
    [samples.VMX, samples.VBOX, samples.PVS, samples.OVF, samples.EC2, samples.MANIFEST,
     samples.PROXMOX, samples.XL],
)  # fmt: skip
def test_a_description_that_stays_at_home_has_nothing_to_say(text: str) -> None:
    assert found(text) == []


def test_libvirt_names_its_disks_by_absolute_paths_which_is_a_warning() -> None:
    assert severities(samples.DOMAIN) == {"names-outside": Severity.WARNING}
    (finding,) = found(samples.DOMAIN)
    assert finding.evidence == "/var/lib/libvirt/images/demo.qcow2"


@pytest.mark.parametrize("path", ["/etc/shadow", "/root/.ssh/id_rsa", "/proc/kcore"])
def test_the_systems_own_files_are_an_error_even_there(path: str) -> None:
    text = domain("/var/lib/libvirt/images/demo.qcow2", path)
    assert severities(text) == {"names-outside": Severity.ERROR}


@pytest.mark.parametrize(
    "emulator",
    [
        "/usr/bin/qemu-kvm",
        "/usr/libexec/qemu-kvm",
        "/usr/lib/xen/bin/qemu-system-i386",
        "/run/libvirt/nix-emulators/qemu-system-x86_64",
    ],
)
def test_emulators_of_distributions_are_no_programs_of_the_senders(emulator: str) -> None:
    assert "runs-program" not in severities(domain("/usr/bin/qemu-system-x86_64", emulator))


@pytest.mark.parametrize("emulator", ["/tmp/x", "qemu", "./x", "/usr/bin/../../tmp/x", "/home/a/x"])
def test_other_emulators_are(emulator: str) -> None:
    text = domain("/usr/bin/qemu-system-x86_64", emulator)
    assert severities(text)["runs-program"] == Severity.WARNING


def test_an_argument_that_runs_a_shell_is_an_error() -> None:
    argument = "<qemu:commandline><qemu:arg value='exec:id'/></qemu:commandline></domain>"
    worst = max(
        f.severity for f in found(domain("</domain>", argument)) if f.code == "runs-program"
    )
    assert worst == Severity.ERROR


def test_the_channel_of_libvirts_own_agent_is_fine() -> None:
    own = "<channel type='unix'><source mode='bind' path='/run/libvirt/qemu/a.sock'/></channel>"
    assert severities(domain("<serial type='pty'/>", own)) == severities(samples.DOMAIN)


@pytest.mark.parametrize(
    "lines",
    [
        (
            'ide1:1.deviceType = "cdrom-image"',
            'ide1:1.fileName = "/usr/lib/vmware/isoimages/linux.iso"',
        ),
        ('ide1:1.deviceType = "atapi-cdrom"', 'ide1:1.fileName = "emptyBackingString"'),
        ('serial0.fileType = "thinprint"', 'serial0.fileName = "thinprint"'),
        ('sound.fileName = "-1"',),
        ('workingDir = "."',),
    ],
)  # fmt: skip
def test_what_workstation_and_esxi_write_is_fine(lines: tuple[str, ...]) -> None:
    assert found(vmx(*lines)) == []


@pytest.mark.parametrize(
    ("lines", "code", "severity"),
    [
        (('floppy0.fileName = "/dev/fd0"',), "device-extent", Severity.WARNING),
        (('floppy0.fileName = "A:"',), "device-extent", Severity.WARNING),
        (('scsi0:1.fileName = "/vmfs/volumes/a/b.vmdk"',), "names-outside", Severity.WARNING),
        (('scsi0:1.fileName = "/etc/x.vmdk"',), "names-outside", Severity.ERROR),
        (('pciPassthru0.present = "TRUE"',), "device-extent", Severity.WARNING),
        (('debugStub.listen.guest64.remote = "TRUE"',), "odd-field", Severity.WARNING),
        (("no setting",), "odd-field", Severity.WARNING),
        (
            ('serial0.fileType = "pipe"', 'serial0.fileName = "\\\\.\\pipe\\x"'),
            "device-extent",
            Severity.WARNING,
        ),
    ],
)  # fmt: skip
def test_what_a_vmx_wants_of_its_host_is_told(
    lines: tuple[str, ...], code: str, severity: Severity
) -> None:
    text = vmx(*lines)
    told = {finding.code: finding.severity for finding in vetted("vmx", view_of(text))}
    assert told == {code: severity}


def test_a_vmx_may_hide_a_quotation_mark_and_is_understood() -> None:
    (finding,) = found(vmx('scsi0:1.fileName = "|2fetc|2fpasswd"'))
    assert (finding.code, finding.evidence) == ("names-outside", "/etc/passwd")


def test_an_old_proxmox_disk_in_a_storage_is_fine_and_a_hook_is_not() -> None:
    assert severities(f"{samples.PROXMOX}ide2: none,media=cdrom\n") == {}
    assert severities(f"{samples.PROXMOX}hookscript: local:snippets/a.pl\n") == {
        "runs-program": Severity.WARNING
    }


def test_a_text_or_xml_larger_than_any_description_is_refused_unread() -> None:
    big = samples.VMX + "#" * (5 << 20)
    assert "malformed" in severities(big)
    assert severities(samples.DOMAIN + " " * (5 << 20)) == {"xml-oversize": Severity.ERROR}


def test_a_thousand_findings_are_cut_short() -> None:
    many = found(vmx(*(f'scsi0:{n}.fileName = "/x/{n}"' for n in range(1, 1000))))
    assert 60 < len(many) < 70 and many[-1].code == "unfinished"


def test_a_document_type_does_not_hide_what_it_is_in_front_of() -> None:
    text = f"<?xml version='1.0'?>{samples.BOMB}{samples.DOMAIN}"
    assert claimed(text) == ["libvirt-domain"]
    assert severities(text) == {"xml-entities": Severity.ERROR}


def test_a_saved_domain_is_vetted_with_its_description() -> None:
    clean = severities(states.libvirt_save(samples.DOMAIN))
    assert clean == {"snapshots": Severity.WARNING, "names-outside": Severity.WARNING}
    evil = states.libvirt_save(domain("/usr/bin/qemu-system-x86_64", "/tmp/x"))
    assert "runs-program" in severities(evil)


def test_a_footer_of_virtualbox_with_too_many_units_is_told() -> None:
    data = bytearray(states.vbox_state())
    footer = len(data) - 32
    data[footer + 20 : footer + 24] = struct.pack("<I", 1 << 20)
    data[-4:] = struct.pack("<I", zlib.crc32(bytes(data[footer:-4]) + bytes(4)))
    assert severities(bytes(data))["table-outside"] == Severity.ERROR


def test_a_segment_of_a_core_behind_the_end_is_told() -> None:
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1,
                         0, 0, 0)  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 4, 120, 0, 0, 4096, 4096, 0)
    assert severities(header + segment + bytes(4096)) == {"snapshots": Severity.WARNING}
    assert severities(header + segment + bytes(4095))["truncated"] == Severity.ERROR
    assert severities(header)["table-outside"] == Severity.ERROR


def _sample_bytes(tmp_path: Path) -> Iterator[bytes]:
    for number, sample in enumerate((*samples.GOOD, *samples.BAD)):
        if not sample.peers:
            folder = tmp_path / str(number)
            folder.mkdir()
            path = sample.make(folder)
            if path.is_file():
                yield path.read_bytes()


def test_whatever_is_cut_or_changed_only_our_own_errors_come_out(tmp_path: Path) -> None:
    import random

    chance = random.Random(5)
    tried = 0
    for data in _sample_bytes(tmp_path):
        for _ in range(12):
            changed = bytearray(data[: chance.choice((len(data), chance.randrange(1, len(data))))])
            for _ in range(chance.randrange(4)):
                at = chance.randrange(min(len(changed), 256))
                changed[at : at + 8] = chance.choice((b"\xff" * 8, bytes(8), b"\x80" * 3))
            view = view_of(bytes(changed))
            try:
                for recognise in RECOGNISERS:
                    for claim in recognise(view):
                        assert claim.to_json() and claim.title.isprintable()
                        assert all(each.meaning.isprintable() for each in claim.evidence)
                        for finding in vetted(claim.name, view):
                            assert finding.message.isprintable()
            except VmimgError:
                pass
            tried += 1
    assert tried > 800


def test_virt_install_writes_a_domain_that_is_one(tmp_path: Path) -> None:
    peers.require("virt-install")
    made = next(sample for sample in samples.GOOD if sample.name == "virt-install-domain")
    data = made.make(tmp_path).read_bytes()
    (claim,) = claims(data)
    assert claim.details["machine"] == "demo"
    # Its disk is where libvirt keeps disks; its emulator is where distributions have theirs.
    assert severities(data) == {"names-outside": Severity.WARNING}


def test_a_vhd_by_hand_is_none_of_ours() -> None:
    assert claimed(vhd_by_hand.fixed(bytes(1 << 20))) == []
