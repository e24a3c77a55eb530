"""Directories: told by the names in them, vetted by what is in their files; no link is followed."""

from __future__ import annotations

import os
from pathlib import Path
from time import process_time

import pytest

from vmimg.errors import StorageError
from vmimg.formats.vetting import Severity
from vmimg.probe.detecting import contradictions
from vmimg.probe.recognisers.folders import recognise_folder
from vmimg.probe.vetters.folders import vet_folder
from vmimg.probe.vetting import vet
from vmimg.storage.listing import Entry, listed
from vmimg.transfer.create import create


def fill(folder: Path, *names: str) -> str:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(b"x")
    return str(folder)


def names(path: str) -> list[str]:
    return [claim.name for claim in recognise_folder(path)]


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (("Config.pvs", "disk.hdd/"), "pvm"),
        (("A.VMX", "A.vmdk"), "vmware-folder"),
        (("config.plist", "Data/"), "utm"),
        (("metadata.yaml", "rootfs.img"), "lxd"),
        (("metadata.yaml", "rootfs/"), "lxd"),
        (("lxd.tar.xz", "rootfs.squashfs"), "lxd"),
        (("linux", "initrd.gz"), "netboot"),
        (("Virtual Machines/", "Snapshots/"), "hyperv-export"),
    ],
)
def test_a_directory_is_known_by_its_names(
    tmp_path: Path, files: tuple[str, ...], name: str
) -> None:
    assert names(fill(tmp_path, *files)) == [name]


@pytest.mark.parametrize(
    "files",
    [(), ("README.md", "src/"), ("index.json",), ("metadata.json",), ("Virtual Machines/",),
     ("vmlinuz",), ("config.plist",), ("a.vmdk",), ("a.part.1", "b.xml")],
)  # fmt: skip
def test_another_directory_is_not_claimed(tmp_path: Path, files: tuple[str, ...]) -> None:
    assert names(fill(tmp_path, *files)) == []


def test_the_evidence_is_the_names(tmp_path: Path) -> None:
    path = fill(tmp_path, "demo.ovf", "demo.mf", "disk.vmdk")
    (claim,) = recognise_folder(path)
    assert [each.meaning for each in claim.evidence] == [
        "it holds demo.ovf",
        "it holds demo.mf",
        "it holds disk.vmdk",
    ]
    assert claim.details == {"disks": 1, "manifest": True}


def test_a_machine_with_its_export_beside_it_is_no_contradiction(tmp_path: Path) -> None:
    path = fill(tmp_path, "demo.vbox", "demo.vdi", "demo.ovf", "demo.vmdk", "demo.vmx")
    claims = list(recognise_folder(path))
    assert len(claims) == 3 and contradictions(claims) == ()


def test_a_box_is_a_box_and_not_the_machine_in_it(tmp_path: Path) -> None:
    path = fill(tmp_path, "metadata.json", "box.ovf", "disk.vmdk", "Vagrantfile")
    assert names(path)[0] == "vagrant"


def test_links_are_neither_followed_nor_counted(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    fill(real, "config.pvs")
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "config.pvs").symlink_to(real / "config.pvs")
    assert names(str(fake)) == []
    (finding,) = vet_folder(str(fake))
    assert (finding.code, finding.evidence) == ("member-link", "config.pvs")


def test_a_pipe_among_the_files_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "disk.img")
    (finding,) = vet_folder(str(tmp_path))
    assert (finding.code, finding.severity) == ("member-device", Severity.ERROR)


def test_no_more_than_a_thousand_entries_are_looked_at(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{number:05}" for number in range(1005)))
    assert [finding.code for finding in vet_folder(str(tmp_path))] == ["unfinished"]
    assert len(listed(tmp_path, 10)) == 10


def test_a_listing_says_what_each_entry_is(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b/")
    (tmp_path / "c").symlink_to("a")
    assert listed(tmp_path, 100) == (
        Entry("a", "file", 1),
        Entry("b", "folder"),
        Entry("c", "link"),
    )


def test_what_cannot_be_listed_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot list it"):
        list(recognise_folder(str(tmp_path / "missing")))


def test_a_name_that_would_steer_a_terminal_is_shown_without_it(tmp_path: Path) -> None:
    (claim,) = recognise_folder(fill(tmp_path, "a\x1b[2J.vmx", "a.vmdk"))
    assert all(each.meaning.isprintable() for each in claim.evidence)


def machine(folder: Path) -> Path:
    """A machine of VMware's with a disk, as it should be."""
    folder.mkdir()
    text = 'config.version = "8"\nvirtualHW.version = "8"\nscsi0:0.fileName = "a.vmdk"\n'
    (folder / "a.vmx").write_text(text)
    (folder / "vmware.log").write_text("a note\n" * 1000)
    create(folder / "a.vmdk", 1 << 20, format="vmdk")
    return folder


def errors(path: Path, policy: str = "desktop") -> set[tuple[str, str]]:
    return {
        (finding.within, finding.code)
        for finding in vet(path, policy=policy).findings
        if finding.severity == Severity.ERROR
    }


def test_the_files_of_a_machine_are_vetted(tmp_path: Path) -> None:
    path = machine(tmp_path / "a")
    assert vet(path, policy="strict").clean
    text = (path / "a.vmx").read_text()
    (path / "a.vmx").write_text(text.replace("a.vmdk", "/dev/sda"))
    assert errors(path) == {("a.vmx", "device-extent")}
    (path / "a.vmx").write_text(text)
    # By what it is, whatever its name.
    create(path / "b.vmdk", 1 << 20, format="qcow2")
    image = bytearray((path / "b.vmdk").read_bytes())
    image[8:20] = (4096).to_bytes(8, "big") + (11).to_bytes(4, "big")
    image[4096:4107] = b"/etc/passwd"
    (path / "b.vmdk").write_bytes(image)
    assert ("b.vmdk", "backing-file-outside") in errors(path)


def test_links_below_a_machine_are_told_and_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.pvm"
    (path / "disk.hdd").mkdir(parents=True)
    (path / "config.pvs").write_text("<ParallelsVirtualMachine/>")
    (path / "disk.hdd" / "DiskDescriptor.xml").symlink_to("/etc/passwd")
    assert ("disk.hdd", "member-link") in errors(path, "strict")


def test_directories_in_directories_take_no_more_time_than_is_promised(tmp_path: Path) -> None:
    path = machine(tmp_path / "a")
    for first in range(20):
        for second in range(20):
            (path / f"{first}" / f"{second}" / "x").mkdir(parents=True)
            (path / f"{first}" / f"{second}" / "y.vmdk").write_bytes(b"KDMV" + bytes(600))
    before = process_time()
    report = vet(path, policy="desktop")
    assert process_time() - before < 2
    assert "unfinished" in {finding.code for finding in report.findings}
