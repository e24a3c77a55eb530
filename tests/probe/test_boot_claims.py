"""Kernels, initrds and firmware: of real machines as far as there are any, the rest by hand."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from linux import Alpine
from probe import boot_by_hand as hand
from probe.sample import Sample
from probe.samples_boot import BAD, GOOD
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import contradictions
from vmimg.probe.policy import Policy
from vmimg.probe.recognisers import boot, compressed, cpio, firmware
from vmimg.probe.vetters import boot as boot_vetters
from vmimg.probe.vetters import compressed as compressed_vetters
from vmimg.probe.vetters import cpio as cpio_vetters
from vmimg.probe.vetters import firmware as firmware_vetters
from vmimg.storage.file import FileStorage
from vmimg.storage.memory import MemoryStorage

RECOGNISERS = (
    *boot.RECOGNISERS,
    *compressed.RECOGNISERS,
    *cpio.RECOGNISERS,
    *firmware.RECOGNISERS,
)
VETTERS = {
    **boot_vetters.VETTERS,
    **compressed_vetters.VETTERS,
    **cpio_vetters.VETTERS,
    **firmware_vetters.VETTERS,
}


def claims_on(view: View) -> list[Claim]:
    """Best first; what refines another comes before it."""
    claims = [claim for recognise in RECOGNISERS for claim in recognise(view)]
    explained = {name for claim in claims for name in claim.refines}
    return sorted(claims, key=lambda claim: (claim.name in explained, -claim.confidence))


def vetted(view: View, claim: Claim, policy: str) -> list[Finding]:
    judge = Policy.load(policy).judge
    names = (claim.name, *claim.refines)
    return [judge(f) for name in names if name in VETTERS for f in VETTERS[name](view)]


def of_bytes(data: bytes) -> View:
    return View(MemoryStorage(data, "file"), 0, len(data))


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Sample, View]]:
    sample: Sample = request.param
    for name in sample.peers:
        peers.require(name)
    with FileStorage(sample.make(tmp_path)) as storage:
        yield sample, View(storage, 0, storage.size)


@pytest.mark.parametrize("opened", GOOD, ids=str, indirect=True)
def test_a_good_file_is_what_it_is_and_has_no_error(opened: tuple[Sample, View]) -> None:
    sample, view = opened
    claims = claims_on(view)
    assert claims[0].name == sample.claim
    assert not contradictions(claims)
    findings = vetted(view, claims[0], "desktop")
    assert all(finding.severity < Severity.WARNING for finding in findings), findings


@pytest.mark.parametrize("opened", BAD, ids=str, indirect=True)
def test_what_is_wrong_with_a_bad_file_is_named(opened: tuple[Sample, View]) -> None:
    sample, view = opened
    claims = claims_on(view)
    assert claims[0].name == sample.claim
    findings = vetted(view, claims[0], "strict")
    errors = {finding.code for finding in findings if finding.severity == Severity.ERROR}
    assert set(sample.codes) <= errors, findings


def test_a_real_kernel_is_a_bzimage_and_an_efi_program(alpine: Alpine) -> None:
    with FileStorage(alpine.kernel) as storage:
        view = View(storage, 0, storage.size)
        claims = claims_on(view)
        assert [claim.name for claim in claims] == ["bzimage", "efi"]
        assert not contradictions(claims)
        details = claims[0].details
        assert re.match(r"6\.\d+\.\d+-\d+-virt ", details["version"])
        assert details["setup-size"] + details["kernel-size"] == storage.size
        at = details["payload-offset"]
        assert details["payload-compression"] == "gzip"
        assert zlib.decompressobj(31).decompress(storage.read(at, 65536), 16)[:4] == b"\x7fELF"
        assert not vetted(view, claims[0], "strict")


def test_a_kernel_that_is_cut_off_is_truncated(alpine: Alpine) -> None:
    data = alpine.kernel.read_bytes()[: 1 << 20]
    claims = claims_on(of_bytes(data))
    assert claims[0].name == "bzimage"
    codes = {finding.code for finding in vetted(of_bytes(data), claims[0], "strict")}
    assert "truncated" in codes


def test_the_kernel_in_a_bzimage_is_a_vmlinux(alpine: Alpine) -> None:
    with FileStorage(alpine.kernel) as storage:
        (claim,) = boot.recognise_bzimage(View(storage, 0, storage.size))
        at = claim.details["payload-offset"]
        packed = storage.read(at, storage.size - at)
    vmlinux = zlib.decompressobj(31).decompress(packed)
    claims = claims_on(of_bytes(vmlinux))
    assert claims[0].name == "vmlinux"
    assert any("PVH" in evidence.meaning for evidence in claims[0].evidence)
    assert not vetted(of_bytes(vmlinux), claims[0], "strict")


def test_a_real_initrd_is_found_in_its_stream(alpine: Alpine) -> None:
    with FileStorage(alpine.initrd) as storage:
        (claim,) = compressed.recognise_compressed(View(storage, 0, storage.size))
        packed = storage.read(0, storage.size)
    assert claim.name == "gzip"
    unpacked = of_bytes(zlib.decompressobj(31).decompress(packed))
    claims = claims_on(unpacked)
    assert [c.name for c in claims] == ["initrd", "cpio"]
    assert all(f.severity == Severity.NOTE for f in vetted(unpacked, claims[0], "strict"))


def test_what_follows_microcode_is_told() -> None:
    (sample,) = [s for s in GOOD if s.name == "initrd-of-two"]
    assert sample.claim == "initrd"
    first = hand.cpio_of(hand.newc(b"kernel/x86/microcode/AuthenticAMD.bin", b"code"))
    second = hand.cpio_of(hand.newc(b"init", b"x"))
    (_, initrd) = cpio.recognise_cpio(of_bytes(first + bytes(4096) + second))
    assert initrd.details["microcode"]
    assert initrd.details["next-offset"] == len(first) + 4096


def test_archives_behind_archives_end_after_three() -> None:
    one = hand.cpio_of(hand.newc(b"init", b"x"))
    claims = list(cpio.recognise_cpio(of_bytes(one * 40)))
    depth = 0
    while claims and claims[-1].inside:
        depth += 1
        claims = [claim for claim in claims[-1].inside if claim.name == "initrd"]
    assert depth <= 3


@pytest.mark.peer("ovmf")
def test_the_variables_of_real_firmware_are_listed() -> None:
    path = peers.find("ovmf")
    assert path is not None
    with FileStorage(path.with_name("OVMF_VARS_4M.ms.fd")) as storage:
        claims = {c.name: c for c in firmware.recognise_uefi(View(storage, 0, storage.size))}
    details = claims["uefi-vars"].details
    assert {"PK", "KEK", "db", "dbx"} <= set(details["variables"])
    assert details["platform-key"] and details["store"] == "authenticated"


@pytest.mark.peer("ovmf")
@pytest.mark.parametrize("name", ["OVMF_CODE_4M.fd", "OVMF_CODE.secboot.fd", "../ovmf/OVMF.fd"])
def test_real_firmware_is_a_row_of_volumes_without_a_fault(name: str) -> None:
    path = peers.find("ovmf")
    assert path is not None
    with FileStorage(path.parent / name) as storage:
        view = View(storage, 0, storage.size)
        claims = claims_on(view)
        assert claims[0].name == "uefi-firmware"
        volumes = claims[0].details["volumes"]
        assert sum(volume["size"] for volume in volumes) == storage.size
        assert not vetted(view, claims[0], "strict")


def test_variables_that_were_deleted_are_counted_apart() -> None:
    data = hand.store_of(
        hand.variable("Old", b"1", state=0x3D), hand.variable("Timeout", b"\5\0"),
        hand.variable("Old", b"2", state=0x3C),
    )  # fmt: skip
    (_, claim) = firmware.recognise_uefi(of_bytes(data))
    assert claim.details["variables"] == ["Timeout"]
    assert claim.details["deleted-count"] == 2
    assert not claim.details["platform-key"]


@pytest.mark.peer("qemu-system-x86_64")
def test_the_roms_that_qemu_brings_are_sound() -> None:
    roms = sorted(Path("/usr/share/seabios").glob("vgabios*.bin"))
    if not roms:
        pytest.skip("the ROMs of this QEMU lie elsewhere")
    for rom in roms:
        view = of_bytes(rom.read_bytes())
        claims = claims_on(view)
        assert claims[0].name == "option-rom", rom
        assert not vetted(view, claims[0], "strict"), rom


def test_a_boot_sector_is_no_option_rom_and_a_disk_no_firmware() -> None:
    sector = bytearray(1 << 20)
    sector[510:512] = b"\x55\xaa"
    assert not claims_on(of_bytes(bytes(sector)))


def test_a_uki_says_which_system_it_is() -> None:
    (sample,) = [s for s in GOOD if s.name == "uki"]
    osrel = b'PRETTY_NAME="A \x1b[31msystem"\n'
    data = bytearray(hand.pe_of(sections=((b".osrel", 512, 64), (b".linux", 1024, 512))))
    data[512 : 512 + len(osrel)] = osrel
    (_, uki) = boot.recognise_efi(of_bytes(bytes(data)))
    assert uki.name == sample.claim
    assert uki.title == "Unified Kernel Image: A ?[31msystem"


@pytest.mark.parametrize(
    "data",
    [
        hand.bzimage_of(), hand.pe_of(), hand.elf_of(), hand.arm64_of(), hand.zimage_of(),
        hand.zboot_of(), hand.uimage_of(b"k" * 99), hand.dtb_of(fit=True), hand.capsule_of(),
        hand.rom_of(), hand.store_of(hand.variable("PK", b"x" * 99))[:4096],
        hand.cpio_of(hand.newc(b"init", b"x" * 99)),
    ],
    ids=["bzimage", "pe", "elf", "arm64", "zimage", "zboot", "uimage", "fit", "capsule", "rom",
         "volume", "cpio"],
)  # fmt: skip
def test_what_is_cut_or_changed_anywhere_is_no_exception(data: bytes) -> None:
    step = max(1, len(data) // 150)
    for at in range(0, len(data), step):
        for view in (of_bytes(data[:at]), of_bytes(data[:at] + b"\xff" * 8 + data[at + 8 :])):
            for claim in claims_on(view):
                vetted(view, claim, "strict")
                assert claim.title.isprintable()


def test_a_storm_of_members_is_looked_at_in_no_time() -> None:
    from time import process_time

    view = of_bytes(hand.newc(b"a") * 60_000)
    before = process_time()
    codes = {finding.code for finding in cpio_vetters.vet_cpio(view)}
    assert "unfinished" in codes
    list(cpio.recognise_cpio(view))
    assert process_time() - before < 1.0
