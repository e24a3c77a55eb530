"""Reading OVF packages and OVAs: disks in place, whatever they are called, cut or packed."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
import zipfile
from itertools import permutations
from pathlib import Path

import pytest

from bundles import ovf_by_hand as by_hand
from bundles.ovf_by_hand import QCOW2, RAW, VMDK, Disk, File, System, descriptor
from samples import awkward_disk
from vmimg.bundles.bundle import Bundle
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.ovf.reading import OvfBundle
from vmimg.errors import (
    ChainError,
    FormatError,
    OptionError,
    UnsafeImage,
    UnsupportedFeature,
    VmimgError,
)

pytestmark = pytest.mark.peer("qemu-img")

SIZE = 2 << 20
CONTENT = awkward_disk(SIZE)
OTHER = awkward_disk(SIZE, seed=9)


@pytest.fixture(scope="module")
def vmdk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return by_hand.image(CONTENT, tmp_path_factory.mktemp("vmdk"))


def content(bundle: Bundle, name: str | None = None) -> bytes:
    with bundle.open_disk(name) as disk:
        return disk.read(0, disk.size)


def states(bundle: Bundle) -> dict[str, str]:
    return {verdict.subject: verdict.state for verdict in bundle.verify()}


# Where the disks are


@pytest.mark.parametrize("order", list(permutations(["machine.ovf", "machine.mf", "disk.vmdk"])))
def test_members_may_stand_in_any_order(tmp_path: Path, vmdk: bytes, order: tuple[str]) -> None:
    members = by_hand.one_disk(vmdk, SIZE)
    path = by_hand.ova(tmp_path / "a.ova", {name: members[name] for name in order})
    with open_bundle(path) as bundle:
        assert bundle.kind == "ova"
        assert content(bundle) == CONTENT
        assert states(bundle) == {"machine.ovf": "good", "disk.vmdk": "good"}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_is_an_ova(tmp_path: Path, vmdk: bytes, format: int) -> None:
    long = format != tarfile.USTAR_FORMAT  # longer than a header's field
    name = "a disk with a name " * (8 if long else 1) + ".vmdk"
    members = by_hand.one_disk(vmdk, SIZE, name=name)
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members, format)) as bundle:
        assert content(bundle) == CONTENT


def test_a_directory_and_the_descriptor_in_it_are_the_same_package(
    tmp_path: Path, vmdk: bytes
) -> None:
    folder = by_hand.folder(tmp_path / "package", by_hand.one_disk(vmdk, SIZE))
    for path in (folder, folder / "machine.ovf"):
        with open_bundle(path) as bundle:
            assert bundle.kind == "ovf"
            assert content(bundle) == CONTENT
            assert states(bundle) == {"machine.ovf": "good", "disk.vmdk": "good"}


@pytest.mark.parametrize("suffix", ["ova.gz", "zip"])
def test_a_package_may_be_packed_once_more(tmp_path: Path, vmdk: bytes, suffix: str) -> None:
    members = by_hand.one_disk(vmdk, SIZE)
    path = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        path.write_bytes(gzip.compress(by_hand.ova(tmp_path / "a.ova", members).read_bytes()))
    with open_bundle(path) as bundle:
        assert bundle.kind == "ova"
        assert content(bundle) == CONTENT
        assert set(states(bundle).values()) == {"good"}


def test_of_several_descriptors_in_a_directory_one_must_be_named(
    tmp_path: Path, vmdk: bytes
) -> None:
    folder = by_hand.folder(tmp_path / "package", by_hand.one_disk(vmdk, SIZE))
    (folder / "other.ovf").write_bytes((folder / "machine.ovf").read_bytes())
    with pytest.raises(OptionError, match=r"machine\.ovf, other\.ovf"):
        open_bundle(folder)
    with open_bundle(folder / "other.ovf") as bundle:
        assert content(bundle) == CONTENT


def test_a_descriptor_among_many_other_files_is_opened_at_once(tmp_path: Path, vmdk: bytes) -> None:
    folder = by_hand.folder(tmp_path / "downloads", by_hand.one_disk(vmdk, SIZE))
    for number in range(40):
        (folder / f"{number}").symlink_to("/")  # what would be listed for long
    (folder / "other.mf").write_bytes(b"")
    with open_bundle(folder / "machine.ovf") as bundle:
        assert content(bundle) == CONTENT
        assert states(bundle) == {"machine.ovf": "good", "disk.vmdk": "good"}


def test_nothing_is_copied_to_read_a_disk(
    tmp_path: Path, vmdk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = by_hand.ova(tmp_path / "a.ova", by_hand.one_disk(vmdk, SIZE))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "there is none"))
    with open_bundle(path) as bundle:
        assert content(bundle) == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["a.ova"]


@pytest.mark.parametrize(
    "href, name",
    [
        ("disk%201.vmdk", "disk 1.vmdk"),  # as the specification has it
        ("disk 1.vmdk", "disk 1.vmdk"),  # VirtualBox
        ("100%25.vmdk", "100%25.vmdk"),
        ("Disk.VMDK", "disk.vmdk"),  # Windows
        ("./disk.vmdk", "disk.vmdk"),
    ],
)
def test_names_are_found_however_they_are_written(
    tmp_path: Path, vmdk: bytes, href: str, name: str
) -> None:
    members = by_hand.one_disk(vmdk, SIZE, href=href, name=name)
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert content(bundle) == CONTENT


# What they are called


def two_disks(vmdk: bytes, first: str, second: str) -> dict[str, bytes]:
    files = [File("f1", "a.vmdk", len(vmdk)), File("f2", "b.raw", SIZE)]
    disks = [Disk(first, "f1", SIZE), Disk(second, "f2", SIZE, RAW)]
    return {"machine.ovf": descriptor(files, disks), "a.vmdk": vmdk, "b.raw": OTHER}


@pytest.mark.parametrize("name", ["vmdisk2", "disk2", "b.raw", "2"])
def test_a_disk_is_named_by_its_id_place_or_file(tmp_path: Path, vmdk: bytes, name: str) -> None:
    path = by_hand.ova(tmp_path / "a.ova", two_disks(vmdk, "vmdisk1", "vmdisk2"))
    with open_bundle(path) as bundle:
        assert content(bundle, name) == OTHER
        assert content(bundle, "vmdisk1") == CONTENT


def test_ids_that_are_no_names_become_numbers(tmp_path: Path, vmdk: bytes) -> None:
    ugly = ("0c4a1a5e-3b1c-4bb2-9e58-1f9a6f6a2b11", "a disk/with everything")
    with open_bundle(by_hand.ova(tmp_path / "a.ova", two_disks(vmdk, *ugly))) as bundle:
        assert [disk.name for disk in bundle.disks] == ["disk1", "disk2"]
        assert content(bundle, "disk2") == OTHER
    with open_bundle(by_hand.ova(tmp_path / "b.ova", two_disks(vmdk, "disk2", ugly[0]))) as bundle:
        names = [disk.name for disk in bundle.disks]
        assert names[0] == "disk2"
        assert len(set(names)) == 2


def test_which_disk_belongs_to_which_machine(tmp_path: Path, vmdk: bytes) -> None:
    members = two_disks(vmdk, "one", "two")
    files = [File("f1", "a.vmdk"), File("f2", "b.raw")]
    disks = [Disk("one", "f1", SIZE), Disk("two", "f2", SIZE, RAW)]
    systems = [System("web", ["two"]), System("database", ["one"])]
    members["machine.ovf"] = descriptor(files, disks, systems)
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert [machine.name for machine in bundle.machines] == ["web", "database"]
        assert [machine.memory for machine in bundle.machines] == [512 << 20] * 2
        assert [disk.drive for disk in bundle.disks] == [(1, 0), (0, 0)]


def test_a_disk_without_a_file_is_told_and_not_read(tmp_path: Path, vmdk: bytes) -> None:
    members = by_hand.one_disk(vmdk, SIZE)
    members["machine.ovf"] = descriptor(
        [File("file1", "disk.vmdk")], [Disk("disk1", "file1", SIZE), Disk("disk2", "", 5 << 30)]
    )
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert (bundle.disks[1].member, bundle.disks[1].size) == ("", 5 << 30)
        with pytest.raises(UnsupportedFeature, match="no file"):
            bundle.open_disk("disk2")


# What they are


@pytest.mark.parametrize("format, qemu", [("qcow2", "qcow2"), ("vhd", "vpc"), ("vdi", "vdi")])
def test_the_bytes_say_the_format_and_a_wrong_word_is_told(
    tmp_path: Path, format: str, qemu: str
) -> None:
    data = by_hand.image(CONTENT, tmp_path, qemu)
    path = by_hand.ova(tmp_path / "a.ova", by_hand.one_disk(data, SIZE))
    with open_bundle(path) as bundle:
        assert bundle.disks[0].format == format
        assert bundle.facts["problems"] == [
            f"disk 'disk1' is said to be vmdk, and its file is {format}"
        ]
        assert content(bundle)[:SIZE] == CONTENT
    right = by_hand.one_disk(data, SIZE, format=QCOW2)
    with open_bundle(by_hand.ova(tmp_path / "b.ova", right)) as bundle:
        assert ("problems" in bundle.facts) == (format != "qcow2")


def test_ovirt_calls_every_disk_a_vmdk_and_nobody_is_told(tmp_path: Path) -> None:
    # ovirt-engine, OvfOvaWriter: one format for all, and disks that are called by their ids.
    name = "3d2b1f4e-8c5a-4f7e-9a31-5d6c7b8a9f00"
    members = by_hand.one_disk(CONTENT, SIZE, name=name, id=name)
    members["machine.ovf"] = members["machine.ovf"].replace(
        b"<VirtualHardwareSection>", b"<VmType>1</VmType><VirtualHardwareSection>"
    )
    del members["machine.mf"]
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members, tarfile.PAX_FORMAT)) as bundle:
        assert (bundle.disks[0].name, bundle.disks[0].format) == ("disk1", "raw")
        assert "problems" not in bundle.facts
        assert content(bundle) == CONTENT


@pytest.mark.parametrize("compression, pack", [("gzip", gzip.compress), ("bzip2", bz2.compress)])
@pytest.mark.parametrize("said", [True, False])
def test_compressed_disks_are_read(
    tmp_path: Path, vmdk: bytes, compression: str, pack: object, said: bool
) -> None:
    suffix = {"gzip": "gz", "bzip2": "bz2"}[compression]
    more = f'ovf:compression="{compression}"' if said else ""
    data = pack(CONTENT)  # type: ignore[operator]
    members = by_hand.one_disk(data, SIZE, name=f"disk.raw.{suffix}", more=more, format=RAW)
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert content(bundle) == CONTENT
        assert "bad" not in states(bundle).values()


def test_a_compressed_disk_without_end_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(100 << 20), 1)
    members = by_hand.one_disk(bomb, SIZE, name="disk.raw.gz", more='ovf:compression="gzip"')
    with (
        open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle,
        pytest.raises(UnsafeImage, match="unpacks to more"),
    ):
        bundle.open_disk()


def test_what_is_said_to_be_compressed_must_be(tmp_path: Path, vmdk: bytes) -> None:
    for said in ("gzip", "rot13"):
        members = by_hand.one_disk(vmdk, SIZE, more=f'ovf:compression="{said}"')
        with (
            open_bundle(by_hand.ova(tmp_path / f"{said}.ova", members)) as bundle,
            pytest.raises((FormatError, UnsupportedFeature)),
        ):
            bundle.open_disk()


def chunked(vmdk: bytes, step: int) -> dict[str, bytes]:
    pieces = {
        f"disk.vmdk.{number:09d}": vmdk[start : start + step]
        for number, start in enumerate(range(0, len(vmdk), step))
    }
    files = [File("file1", "disk.vmdk", len(vmdk), f'ovf:chunkSize="{step}"')]
    members = {"machine.ovf": descriptor(files, [Disk("disk1", "file1", SIZE)]), **pieces}
    return {**members, "machine.mf": by_hand.manifest(members)}


@pytest.mark.parametrize("step", [7777, 65536, 1 << 30])
def test_a_disk_in_chunks_is_one_disk(tmp_path: Path, vmdk: bytes, step: int) -> None:
    with open_bundle(by_hand.ova(tmp_path / "a.ova", chunked(vmdk, step))) as bundle:
        assert content(bundle) == CONTENT
        assert set(states(bundle).values()) == {"good"}


def test_a_missing_chunk_is_told_when_the_package_is_opened(tmp_path: Path, vmdk: bytes) -> None:
    members = chunked(vmdk, 65536)
    members.pop("disk.vmdk.000000001")
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert "disk 'disk1'" in bundle.facts["problems"][0]
        with pytest.raises(FormatError, match="chunk"):
            bundle.open_disk()
        assert {"bad", "missing"} <= set(states(bundle).values())


# Chains


def chain(tmp_path: Path, **parents: str) -> Path:
    """A base and two deltas, as linked clones are exported; ``parents`` by id."""
    base = tmp_path / "base.vmdk"
    sparse = ("-o", "subformat=monolithicSparse")
    base.write_bytes(by_hand.image(CONTENT, tmp_path, "vmdk", *sparse))
    changed = bytearray(CONTENT)
    changed[SIZE // 2 : SIZE // 2 + 4096] = b"delta 1 " * 512
    delta = tmp_path / "delta.vmdk"
    delta.write_bytes(by_hand.image(bytes(changed), tmp_path, "vmdk", *sparse, backing=base))
    files = [File("f1", "renamed.vmdk"), File("f2", "delta.vmdk")]
    wanted = {"base": "", "delta": "base"} | parents
    disks = [
        Disk("base", "f1", SIZE, VMDK, wanted["base"]),
        Disk("delta", "f2", SIZE, VMDK, wanted["delta"]),
    ]
    members = {"machine.ovf": descriptor(files, disks, [System(disks=["delta"])])}
    # The name that the delta knows its parent by is another one here.
    members |= {"renamed.vmdk": base.read_bytes(), "delta.vmdk": delta.read_bytes()}
    return by_hand.ova(tmp_path / "chain.ova", members)


def test_a_delta_disk_stands_above_the_one_that_the_descriptor_names(tmp_path: Path) -> None:
    with open_bundle(chain(tmp_path)) as bundle:
        found = content(bundle, "delta")
        assert found[SIZE // 2 : SIZE // 2 + 4096] == b"delta 1 " * 512
        assert found[: SIZE // 2] == CONTENT[: SIZE // 2]
        assert found[SIZE // 2 + 4096 :] == CONTENT[SIZE // 2 + 4096 :]
        assert content(bundle, "base") == CONTENT
        assert bundle.facts["parents"] == {"delta": "base"}


@pytest.mark.parametrize("parents", [{"base": "delta"}, {"delta": "delta"}, {"delta": "gone"}])
def test_parents_without_end_or_beginning_are_refused(
    tmp_path: Path, parents: dict[str, str]
) -> None:
    with open_bundle(chain(tmp_path, **parents)) as bundle, pytest.raises(ChainError):
        bundle.open_disk("delta")


def test_a_delta_above_another_disk_than_its_own_is_refused(tmp_path: Path) -> None:
    path = chain(tmp_path)
    with tarfile.open(path) as archive:
        members = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    members["renamed.vmdk"] = by_hand.image(
        OTHER, tmp_path, "vmdk", "-o", "subformat=monolithicSparse"
    )
    with open_bundle(by_hand.ova(path, members)) as bundle, pytest.raises(ChainError):
        bundle.open_disk("delta")


# Lies


def test_a_changed_disk_and_a_wrong_size_are_told(tmp_path: Path, vmdk: bytes) -> None:
    members = by_hand.one_disk(vmdk, SIZE)
    members["disk.vmdk"] = vmdk[:-1] + b"\1"
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert states(bundle) == {"machine.ovf": "good", "disk.vmdk": "bad"}
    members["disk.vmdk"] = vmdk + b"more"
    with open_bundle(by_hand.ova(tmp_path / "b.ova", members)) as bundle:
        told = [(v.subject, v.what) for v in bundle.verify() if v.state == "bad"]
        assert told == [("disk.vmdk", "size"), ("disk.vmdk", "SHA256")]


def test_what_the_manifest_does_not_name_is_told(tmp_path: Path, vmdk: bytes) -> None:
    members = by_hand.one_disk(vmdk, SIZE) | {"extra.iso": b"x"}
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert states(bundle)["extra.iso"] == "unlisted"
    del members["machine.mf"]
    with open_bundle(by_hand.ova(tmp_path / "b.ova", members)) as bundle:
        assert set(states(bundle).values()) == {"unlisted"}


def test_a_file_that_is_not_there_is_told_and_the_others_are_read(
    tmp_path: Path, vmdk: bytes
) -> None:
    members = two_disks(vmdk, "one", "two")
    del members["b.raw"]
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert content(bundle, "one") == CONTENT
        assert states(bundle)["b.raw"] == "missing"
        with pytest.raises(FormatError, match="not there"):
            bundle.open_disk("two")


@pytest.mark.parametrize("href", ["../secret", "/etc/passwd", "..\\x", "c:\\x", "%2e%2e/secret"])
def test_a_file_outside_of_the_package_is_refused(tmp_path: Path, vmdk: bytes, href: str) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    members = by_hand.one_disk(vmdk, SIZE, href=href, name="disk.vmdk")
    for path in (
        by_hand.ova(tmp_path / "a.ova", members),
        by_hand.folder(tmp_path / "package", members),
    ):
        with pytest.raises(UnsafeImage):
            open_bundle(path)


def test_two_members_of_one_name_or_names_that_lead_out_are_refused(
    tmp_path: Path, vmdk: bytes
) -> None:
    members = by_hand.one_disk(vmdk, SIZE)
    path = by_hand.ova(tmp_path / "a.ova", members)
    with tarfile.open(path, "a") as archive:
        second = tarfile.TarInfo("disk.vmdk")
        second.size = SIZE
        archive.addfile(second, io.BytesIO(OTHER))
    with pytest.raises(UnsafeImage, match="twice"):
        open_bundle(path)
    for name in ("../evil", "/evil"):
        with pytest.raises(UnsafeImage, match="leads out"):
            open_bundle(by_hand.ova(tmp_path / "b.ova", {**members, name: b"x"}))


def test_a_url_is_not_fetched(tmp_path: Path, vmdk: bytes) -> None:
    members = by_hand.one_disk(vmdk, SIZE, href="http://127.0.0.1:9/d.vmdk", name="disk.vmdk")
    with (
        open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle,
        pytest.raises(VmimgError, match="not fetched"),
    ):
        bundle.open_disk()


def test_an_image_in_an_ova_opens_nothing_outside_of_it(tmp_path: Path) -> None:
    (tmp_path / "flat.bin").write_bytes(CONTENT)
    text = (
        b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        b'createType="monolithicFlat"\nRW %d FLAT "%s" 0\n'
    )
    for name in (str(tmp_path / "flat.bin").encode(), b"../flat.bin", b"flat.bin"):
        members = by_hand.one_disk(text % (SIZE // 512, name), SIZE)
        with (
            open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle,
            pytest.raises(VmimgError),
        ):
            content(bundle)
    inside = by_hand.one_disk(text % (SIZE // 512, b"flat.bin"), SIZE) | {"flat.bin": CONTENT}
    with open_bundle(by_hand.ova(tmp_path / "b.ova", inside)) as bundle:
        assert content(bundle) == CONTENT


def test_a_link_in_an_ova_is_no_file(tmp_path: Path, vmdk: bytes) -> None:
    path = tmp_path / "a.ova"
    members = by_hand.one_disk(vmdk, SIZE)
    del members["disk.vmdk"]
    by_hand.ova(path, members)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("disk.vmdk")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(VmimgError), open_bundle(path) as bundle:
        bundle.open_disk()


@pytest.mark.parametrize("cut", [0, 100, 600, 1500])
def test_a_descriptor_that_is_cut_off_is_an_error_of_ours(
    tmp_path: Path, vmdk: bytes, cut: int
) -> None:
    members = by_hand.one_disk(vmdk, SIZE)
    members["machine.ovf"] = members["machine.ovf"][:cut]
    folder = by_hand.folder(tmp_path / "package", members)
    with pytest.raises(VmimgError):
        open_bundle(folder / "machine.ovf")


def test_a_package_of_many_disks_opens_at_once(tmp_path: Path) -> None:
    files = [File(f"f{number}", f"d{number}.raw", 512) for number in range(2000)]
    disks = [Disk(f"disk-{number}", f"f{number}", 512, RAW) for number in range(2000)]
    members = {"machine.ovf": descriptor(files, disks, [System()])}
    members |= {f"d{number}.raw": bytes([number % 256]) * 512 for number in range(2000)}
    with open_bundle(by_hand.ova(tmp_path / "a.ova", members)) as bundle:
        assert isinstance(bundle, OvfBundle)
        assert content(bundle, "disk-1999") == bytes([1999 % 256]) * 512
