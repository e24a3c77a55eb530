"""Netboot sets: recognised, and told: what boots, with which command line, and what is missing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from boxes_by_hand import opened, tar_file, tree

import peers
from linux import Alpine
from vmimg.bundles.archives import DirectoryFolder
from vmimg.bundles.netboot import NetbootSet
from vmimg.bundles.netboot import open as open_set
from vmimg.bundles.netboot.entries import entries_of
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.probe.claims import Claim

CLAIM = Claim("netboot", "boot", "", 60)
# Each after its documentation: iPXE's "scripting", SYSLINUX's "Config", GRUB's manual, the Boot
# Loader Specification.
IPXE = """#!ipxe
dhcp
set base http://boot.example.org/alpine
:start
kernel --name vmlinuz ${base}/vmlinuz-virt console=ttyS0 modloop=${base}/modloop-virt
initrd ${base}/initramfs-virt
boot || goto failed
:rescue
kernel other/vmlinuz-rescue single
initrd gone.img
boot
"""
PXELINUX = """DEFAULT install
LABEL install
  MENU LABEL ^Install
  KERNEL vmlinuz-virt
  APPEND initrd=initramfs-virt,firmware.cpio.gz quiet  splash
LABEL memtest
  KERNEL memdisk.c32
"""
GRUB = """set timeout=5
menuentry 'Install "it"' --class debian {
    search --label x
    linux ($root)/vmlinuz-virt quiet url='http://x/a b'   # comment
    initrd /initramfs-virt /missing.img
}
menuentry "memory" { memtest }
"""
ENTRY = (
    "title Ours\nlinux /vmlinuz-virt\ninitrd /initramfs-virt\noptions root=LABEL=x\noptions ro\n"
)
NAMES = ("vmlinuz-virt", "initramfs-virt", "pxelinux.cfg/default", "boot.ipxe")


def test_an_ipxe_script_says_what_is_booted_and_how() -> None:
    first, second = entries_of(IPXE, "boot.ipxe", NAMES)
    assert (first.loader, first.label) == ("ipxe", "start")
    assert first.kernel == "${base}/vmlinuz-virt"
    assert first.command_line == "console=ttyS0 modloop=${base}/modloop-virt"
    assert (first.initrds, first.missing) == (["${base}/initramfs-virt"], [])
    assert second.missing == ["other/vmlinuz-rescue", "gone.img"]


def test_a_menu_of_pxelinux_keeps_initrds_out_of_the_command_line() -> None:
    (entry,) = entries_of(PXELINUX, "pxelinux.cfg/default", NAMES)
    assert (entry.label, entry.kernel) == ("install", "vmlinuz-virt")
    assert entry.initrds == ["initramfs-virt", "firmware.cpio.gz"]
    assert entry.command_line == "quiet splash"
    assert entry.missing == ["firmware.cpio.gz"]


def test_a_menu_of_grub_is_read_as_grub_quotes() -> None:
    (entry,) = entries_of(GRUB, "boot/grub/grub.cfg", NAMES)
    assert (entry.label, entry.kernel) == ('Install "it"', "($root)/vmlinuz-virt")
    assert entry.command_line == "quiet url=http://x/a b"
    assert entry.missing == ["/missing.img"]


def test_a_loader_entry_adds_up_its_options() -> None:
    (entry,) = entries_of(ENTRY, "loader/entries/ours.conf", NAMES)
    assert (entry.label, entry.command_line) == ("Ours", "root=LABEL=x ro")


@pytest.fixture
def real_set(tmp_path: Path, alpine: Alpine) -> Path:
    """A real kernel and initrd, as links beside texts."""
    peers.require("mksquashfs")
    folder = tree(tmp_path / "set", {"boot.ipxe": IPXE.encode(), "files/a": b"a" * 9000})
    (folder / "pxelinux.cfg").mkdir()
    (folder / "pxelinux.cfg/default").write_text(PXELINUX)
    peers.run("mksquashfs", folder / "files", folder / "modloop-virt", "-quiet")
    (folder / "vmlinuz-virt").write_bytes(alpine.kernel.read_bytes())
    (folder / "initramfs-virt").write_bytes(alpine.initrd.read_bytes())
    return folder


def test_a_set_is_told_with_the_version_and_the_architecture_of_its_kernel(real_set: Path) -> None:
    with opened(real_set) as found:
        facts = found.facts
        with pytest.raises(UnsupportedFeature, match="no disk"):
            found.open_disk()
    (kernel,) = facts["kernels"]
    assert kernel["file"] == "vmlinuz-virt"
    assert kernel["architecture"] == "x86_64"
    assert kernel["version"].endswith("-virt") and kernel["version"][0].isdigit()
    assert [each["file"] for each in facts["initrds"]] == ["initramfs-virt"]
    assert facts["squashfs"] == ["modloop-virt"]
    assert [entry["label"] for entry in facts["menu"]] == ["start", "rescue", "install"]
    assert facts["missing"] == ["firmware.cpio.gz", "gone.img", "other/vmlinuz-rescue"]


@pytest.mark.parametrize("packing", ["", "gz", "xz"])
def test_a_set_in_a_tar_is_read_like_one_in_a_directory(tmp_path: Path, packing: str) -> None:
    noise = random.Random(1).randbytes(1 << 20)
    files = {"boot/vmlinuz": noise, "boot/initrd.img": noise, "boot/grub.cfg": GRUB.encode()}
    path = tar_file(tmp_path / "set.tar", files, f"w:{packing}" if packing else "w")
    with opened(path) as found:
        assert isinstance(found, NetbootSet)
        assert [entry.loader for entry in found.entries] == ["grub"]


def test_an_arm_kernel_is_known_by_its_banner(tmp_path: Path) -> None:
    image = bytearray(3 << 20)
    image[16:24] = len(image).to_bytes(8, "little")
    image[56:60] = b"ARM\x64"
    image[(1 << 20) - 8 : (1 << 20) + 60] = b"Linux version 6.1.0-9-arm64 (debian@x) #1 SMP".ljust(
        68
    )
    folder = tree(
        tmp_path / "set", {"Image": bytes(image), "initrd": b"x", "vmlinuz": bytes(image)}
    )
    with open_set(DirectoryFolder(folder), CLAIM) as found:
        told = {each["file"]: each for each in found.facts["kernels"]}
    assert told["vmlinuz"]["architecture"] == "aarch64"
    assert told["vmlinuz"]["version"] == "6.1.0-9-arm64"


def test_a_directory_without_a_kernel_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no kernel"):
        open_set(DirectoryFolder(tree(tmp_path / "set", {"a": b""})), CLAIM)


@pytest.mark.parametrize(
    "text",
    [
        "#!ipxe\n" + "kernel a\n" * 100_000,
        "#!ipxe\nkernel " + "x" * 1_000_000,
        "menuentry 'unclosed\nlinux 'a\n" * 1000,
        "label \x1b[2J\nkernel \x1b]0;x\x07\n",
        "label a\nkernel ../../../etc/passwd\n",
        "menuentry {" * 5000,
    ],
    ids=["many", "long", "unclosed", "escapes", "outside", "nested"],
)
def test_a_text_that_was_made_to_do_harm_is_read_in_bounds(tmp_path: Path, text: str) -> None:
    files = {"vmlinuz": b"x", "boot.ipxe": text.encode(), "default.cfg": text.encode()}
    with open_set(DirectoryFolder(tree(tmp_path / "set", files)), CLAIM) as found:
        told = repr(found.facts)
        assert len(found.entries) <= 512 and "\x1b" not in told
