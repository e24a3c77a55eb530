"""Making OVAs and OVF packages, and signing them: in one pass, in the specification's order."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

import peers
from bundles import ovf_by_hand as by_hand
from bundles.test_signing import issued, pair
from samples import awkward_disk, write_sparse
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.package import How, Package, PackedDisk
from vmimg.bundles.packing import pack, repack
from vmimg.bundles.registry import find
from vmimg.bundles.signing import sign
from vmimg.disk.layer import Layer
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, LockedImage, OptionError, StorageError
from vmimg.formats.opening import open_disk
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network
from vmimg.storage.memory import MemoryStorage

pytestmark = pytest.mark.peer("qemu-img", "tar")

SIZE = 3 << 20
CONTENT = awkward_disk(SIZE, seed=5)
QEMU = {"vmdk": "vmdk", "vhd": "vpc", "raw": "raw", "qcow2": "qcow2", "vdi": "vdi", "vhdx": "vhdx"}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "disk.raw", CONTENT)


def unpacked(ova: Path, place: Path) -> list[str]:
    """What tar makes of it, in order."""
    place.mkdir()
    peers.run("tar", "-xf", ova, "-C", place)
    return peers.run("tar", "-tf", ova).stdout.decode().splitlines()


def check_sums(folder: Path, manifest: str) -> None:
    """The manifest, by coreutils."""
    text = (folder / manifest).read_text()
    (folder / "sums").write_text(text.replace("(", " (").replace(")= ", ") = "))
    program = text.partition("(")[0].lower() + "sum"
    peers.run(program, "--strict", "-c", "sums", cwd=folder)


@pytest.mark.peer("sha256sum")
@pytest.mark.parametrize("format", sorted(QEMU))
def test_an_ova_is_what_tar_sha256sum_and_qemu_img_expect(
    tmp_path: Path, disk: Path, format: str
) -> None:
    made = pack([disk], tmp_path / "vm.ova", format=format)
    assert made.size == (tmp_path / "vm.ova").stat().st_size
    names = unpacked(tmp_path / "vm.ova", tmp_path / "out")
    assert names[:2] == ["vm.ovf", "vm.mf"]
    check_sums(tmp_path / "out", "vm.mf")
    (image,) = names[2:]
    peers.run(
        "qemu-img", "compare", "-f", QEMU[format], "-F", "raw", tmp_path / "out" / image, disk
    )
    size = (tmp_path / "out" / image).stat().st_size
    assert f'ovf:size="{size}"' in (tmp_path / "out" / "vm.ovf").read_text()
    with open_bundle(tmp_path / "vm.ova") as bundle:
        assert bundle.disks[0].format == format
        assert "problems" not in bundle.facts
        assert {verdict.state for verdict in bundle.verify()} == {"good"}


def test_the_usual_disk_is_a_streamoptimized_vmdk(tmp_path: Path, disk: Path) -> None:
    pack([disk], tmp_path / "vm.ova")
    unpacked(tmp_path / "vm.ova", tmp_path / "out")
    (image,) = (tmp_path / "out").glob("*.vmdk")
    said = peers.run_json("qemu-img", "info", "--output=json", image)
    assert said["format-specific"]["data"]["create-type"] == "streamOptimized"


def test_the_same_disk_makes_the_same_ova_whatever_the_threads(tmp_path: Path, disk: Path) -> None:
    digests = set()
    for threads in (1, 2, 3):
        pack([disk], tmp_path / "vm.ova", threads=threads, replace=True)
        digests.add(hashlib.sha256((tmp_path / "vm.ova").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_nothing_but_the_ova_is_written(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "there is none"))
    pack([disk], tmp_path / "vm.ova")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["disk.raw", "vm.ova"]


class _Failing(Layer):
    """A disk that cannot be read to its end."""

    name, format, size = "failing", "raw", 64 << 20

    def map(self, start: int, end: int):  # type: ignore[no-untyped-def]
        from vmimg.disk.extent import Extent, Kind

        yield Extent(start, end - start, Kind.DATA)

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        if offset + len(buffer) > self.size // 2:
            raise StorageError("failing: cannot read")
        buffer[:] = b"x" * len(buffer)
        return []

    def close(self) -> None:
        pass


@pytest.mark.parametrize("kind", ["ova", "ovf"])
def test_an_error_in_the_middle_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    machine = Machine(name="vm", drives=(Drive(),))
    package = Package(machine, (PackedDisk("disk", Disk([_Failing()]), 0),))
    target = tmp_path / ("vm.ova" if kind == "ova" else "package")
    with pytest.raises(StorageError, match="cannot read"):
        find(kind).make(package, str(target), How())
    assert list(tmp_path.iterdir()) == []


def test_an_ova_that_is_there_is_replaced_only_when_asked(tmp_path: Path, disk: Path) -> None:
    (tmp_path / "vm.ova").write_bytes(b"precious")
    with pytest.raises(OptionError, match="exists"):
        pack([disk], tmp_path / "vm.ova")
    assert (tmp_path / "vm.ova").read_bytes() == b"precious"
    pack([disk], tmp_path / "vm.ova", replace=True)


MACHINE = Machine(
    name="web server",
    cpus=CPUs(count=2),
    memory=2 << 30,
    firmware=Firmware(kind="uefi", variables="vars.fd"),
    drives=(
        Drive(bus="sata", slot=0),
        Drive("cdrom", "sata", 0, 1, path="/isos/debian.iso"),
        Drive(bus="sata", slot=2),
    ),
    networks=(Network("e1000", "52:54:00:12:34:56", "bridge", "lan"),),
)


def test_a_machine_goes_with_all_its_disks_and_files(tmp_path: Path, disk: Path) -> None:
    other = write_sparse(tmp_path / "other.raw", awkward_disk(SIZE, seed=6))
    variables = tmp_path / "vars.fd"
    variables.write_bytes(b"variables" * 100)
    made = pack([disk, other], tmp_path / "vm.ova", machine=MACHINE, files={"vars.fd": variables})
    assert "drives[1].path" in [loss.key for loss in made.losses]
    with open_bundle(tmp_path / "vm.ova") as bundle:
        (machine,) = bundle.machines
        assert (machine.name, machine.cpus.count, machine.memory) == ("web server", 2, 2 << 30)
        assert [drive.device for drive in machine.drives] == ["disk", "cdrom", "disk"]
        assert [each.drive for each in bundle.disks] == [(0, 0), (0, 2)]
        assert bundle.folder.read("vars.fd", 4096) == variables.read_bytes()
        assert {verdict.state for verdict in bundle.verify()} == {"good"}
        for each, content in zip(bundle.disks, (CONTENT, other.read_bytes()), strict=True):
            with bundle.open_disk(each.name) as opened:
                assert opened.read(0, opened.size) == content


def test_what_the_machine_refers_to_and_the_package_has_not_is_told(
    tmp_path: Path, disk: Path
) -> None:
    machine = replace(
        MACHINE,
        firmware=Firmware(kind="uefi", variables="/var/lib/vars.fd"),
        drives=(Drive(bus="sata"), Drive("cdrom", "sata", 0, 1, path="/isos/debian.iso")),
    )
    made = pack([disk], tmp_path / "vm.ova", machine=machine)
    assert {"drives[1].path", "firmware.variables"} <= {loss.key for loss in made.losses}
    with open_bundle(tmp_path / "vm.ova") as bundle:
        assert bundle.folder.names() == ("vm.ovf", "vm.mf", "web-server-disk1.vmdk")
        assert bundle.machines[0].firmware.kind == "uefi"


def test_manifests_as_old_readers_have_them_or_none(tmp_path: Path, disk: Path) -> None:
    for kind in ("sha1", "sha512"):
        ova = tmp_path / f"{kind}.ova"
        pack([disk], ova, options={"manifest": kind})
        unpacked(ova, tmp_path / kind)
        check_sums(tmp_path / kind, f"{kind}.mf")
    pack([disk], tmp_path / "off.ova", options={"manifest": "off"})
    assert "off.mf" not in unpacked(tmp_path / "off.ova", tmp_path / "off")


def test_a_package_is_a_directory_or_files_beside_the_descriptor(
    tmp_path: Path, disk: Path
) -> None:
    made = pack([disk], tmp_path / "package", kind="ovf")
    folder = tmp_path / "package"
    assert sorted(f.name for f in folder.iterdir()) == [
        "package-disk1.vmdk", "package.mf", "package.ovf",
    ]  # fmt: skip
    assert made.size == sum(file.stat().st_size for file in folder.iterdir())
    check_sums(folder, "package.mf")
    beside = tmp_path / "beside"
    beside.mkdir()
    pack([disk], beside / "vm.ovf")
    assert sorted(f.name for f in beside.iterdir()) == ["vm-disk1.vmdk", "vm.mf", "vm.ovf"]
    with pytest.raises(OptionError, match="exists"):
        pack([disk], beside / "vm.ovf")
    peers.run("qemu-img", "compare", beside / "vm-disk1.vmdk", disk)


def test_an_ova_becomes_a_package_and_an_ova_again(tmp_path: Path, disk: Path) -> None:
    pack([disk], tmp_path / "vm.ova", machine=replace(MACHINE, drives=(Drive(bus="sata"),),
         firmware=Firmware(kind="uefi")))  # fmt: skip
    repack(tmp_path / "vm.ova", tmp_path / "package", kind="ovf", format="qcow2")
    repack(tmp_path / "package", tmp_path / "again.ova")
    with open_bundle(tmp_path / "vm.ova") as first, open_bundle(tmp_path / "again.ova") as last:
        assert last.machines[0].memory == first.machines[0].memory == 2 << 30
        assert last.machines[0].firmware == first.machines[0].firmware
        assert last.machines[0].networks == first.machines[0].networks
        with last.open_disk() as opened:
            assert opened.read(0, opened.size) == CONTENT


def test_names_that_meet_are_refused(tmp_path: Path) -> None:
    machine = Machine(name="vm", drives=(Drive(), Drive(slot=1)))
    layers = [Disk([_Failing()]), Disk([_Failing()])]
    same = tuple(PackedDisk("Disk", layer, at) for at, layer in enumerate(layers))
    with pytest.raises(OptionError, match="would be called"):
        find("ova").make(Package(machine, same), str(tmp_path / "a.ova"), How())
    files = {"vm/../../x": MemoryStorage(b"x")}
    with pytest.raises(OptionError, match="no name"):
        find("ova").make(Package(machine, same[:1], files), str(tmp_path / "b.ova"), How())
    assert list(tmp_path.iterdir()) == []


# Signatures


@pytest.fixture
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    root = pair("Root")
    signer = issued(root)
    (folder / "key.pem").write_bytes(signer.key)
    (folder / "cert.pem").write_bytes(signer.certificate)
    (folder / "root.pem").write_bytes(root.certificate)
    return folder


def openssl_agrees(folder: Path, stem: str, algorithm: str = "sha256") -> None:
    line, _, certificate = (folder / f"{stem}.cert").read_bytes().partition(b"\n")
    (folder / "sig").write_bytes(bytes.fromhex(line.partition(b"= ")[2].decode()))
    public = peers.run("openssl", "x509", "-pubkey", "-noout", input=certificate).stdout
    (folder / "public").write_bytes(public)
    peers.run("openssl", "dgst", f"-{algorithm}", "-verify", folder / "public", "-signature",
              folder / "sig", folder / f"{stem}.mf")  # fmt: skip


def judged(path: Path, keys: Path) -> dict[str, str]:
    with open_bundle(path) as bundle:
        found = bundle.verify(trust=(keys / "root.pem").read_bytes())
        return {verdict.subject: verdict.state for verdict in found}


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_an_ova_is_signed_while_it_is_made(
    tmp_path: Path, disk: Path, keys: Path, algorithm: str
) -> None:
    ova = tmp_path / "vm.ova"
    options = {"key": str(keys / "key.pem"), "certificate": str(keys / "cert.pem")}
    pack([disk], ova, options=options | {"manifest": algorithm})
    assert unpacked(ova, tmp_path / "out")[:3] == ["vm.ovf", "vm.mf", "vm.cert"]
    openssl_agrees(tmp_path / "out", "vm", algorithm)
    assert judged(ova, keys) == {
        "vm.ovf": "good", "vm-disk1.vmdk": "good", "signature": "good", "certificate": "good",
    }  # fmt: skip
    with pytest.raises(OptionError, match="both"):
        pack([disk], tmp_path / "x.ova", options={"key": str(keys / "key.pem")})
    with pytest.raises(OptionError, match="manifest"):
        pack([disk], tmp_path / "x.ova", options=options | {"manifest": "off"})


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("manifest", ["sha256", "sha1", "off"])
def test_an_ova_that_is_there_is_signed(
    tmp_path: Path, disk: Path, keys: Path, manifest: str
) -> None:
    ova = tmp_path / "vm.ova"
    pack([disk], ova, options={"manifest": manifest})
    assert sign(ova, keys / "key.pem", keys / "cert.pem") == str(ova)
    names = unpacked(ova, tmp_path / "out")
    assert names == ["vm.ovf", "vm.mf", "vm.cert", "vm-disk1.vmdk"]
    check_sums(tmp_path / "out", "vm.mf")
    openssl_agrees(tmp_path / "out", "vm")
    assert set(judged(ova, keys).values()) == {"good"}
    before = ova.read_bytes()
    sign(ova, keys / "key.pem", keys / "cert.pem")  # once more is no harm
    assert ova.read_bytes() == before


@pytest.mark.peer("openssl")
def test_a_directory_is_signed_by_a_file_beside_the_others(
    tmp_path: Path, disk: Path, keys: Path
) -> None:
    pack([disk], tmp_path / "package", kind="ovf", options={"manifest": "off"})
    before = (tmp_path / "package" / "package.ovf").read_bytes()
    sign(tmp_path / "package", keys / "key.pem", keys / "cert.pem")
    openssl_agrees(tmp_path / "package", "package")
    assert (tmp_path / "package" / "package.ovf").read_bytes() == before
    (tmp_path / "package" / "sig").unlink()
    assert set(judged(tmp_path / "package", keys).values()) == {"good"}


@pytest.mark.peer("openssl")
def test_a_package_that_does_not_hold_is_not_signed_and_not_touched(
    tmp_path: Path, disk: Path, keys: Path
) -> None:
    data = by_hand.image(CONTENT, tmp_path)
    members = by_hand.one_disk(data, SIZE)
    members["disk.vmdk"] = data[:-1] + b"\1"
    ova = by_hand.ova(tmp_path / "vm.ova", members)
    before = ova.read_bytes()
    with pytest.raises(FormatError, match="nothing was signed"):
        sign(ova, keys / "key.pem", keys / "cert.pem")
    with pytest.raises(OptionError):
        sign(ova, keys / "key.pem", keys / "root.pem")
    assert ova.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["disk.raw", "vm.ova"]


@pytest.mark.peer("openssl")
def test_who_asks_for_a_signature_is_not_content_without_one(
    tmp_path: Path, disk: Path, keys: Path
) -> None:
    pack([disk], tmp_path / "vm.ova")
    assert judged(tmp_path / "vm.ova", keys)["signature"] == "missing"
    sign(tmp_path / "vm.ova", keys / "key.pem", keys / "cert.pem")
    names = unpacked(tmp_path / "vm.ova", tmp_path / "out")
    members = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    added = by_hand.ova(tmp_path / "added.ova", members | {"extra.iso": b"unsigned"})
    assert judged(added, keys)["extra.iso"] == "bad"
    with open_bundle(added) as bundle:
        assert {v.subject: v.state for v in bundle.verify()}["extra.iso"] == "unlisted"


@pytest.mark.peer("openssl")
def test_a_signature_of_before_a_change_is_bad(tmp_path: Path, disk: Path, keys: Path) -> None:
    pack([disk], tmp_path / "package", kind="ovf")
    sign(tmp_path / "package", keys / "key.pem", keys / "cert.pem")
    manifest = tmp_path / "package" / "package.mf"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert judged(tmp_path / "package", keys)["signature"] == "bad"


@pytest.mark.peer("openssl")
def test_a_key_with_a_password_signs_when_it_is_given(
    tmp_path: Path, disk: Path, keys: Path
) -> None:
    plain = (keys / "key.pem").read_bytes()
    locked = peers.run("openssl", "pkcs8", "-topk8", "-passout", "pass:secret", input=plain).stdout
    (keys / "locked.pem").write_bytes(locked)
    pack([disk], tmp_path / "vm.ova")
    with pytest.raises(LockedImage):
        sign(tmp_path / "vm.ova", keys / "locked.pem", keys / "cert.pem")
    sign(tmp_path / "vm.ova", keys / "locked.pem", keys / "cert.pem", keys=b"secret")
    assert judged(tmp_path / "vm.ova", keys)["signature"] == "good"


def test_the_descriptor_has_room_for_what_is_known_last(tmp_path: Path, disk: Path) -> None:
    with open_disk(disk) as opened:
        machine = Machine(name="vm", drives=(Drive(),))
        package = Package(machine, (PackedDisk("disk", opened, 0),))
        made = find("ova").make(package, str(tmp_path / "vm.ova"), How())
    with tarfile.open(tmp_path / "vm.ova") as archive:
        file = archive.extractfile("vm.ovf")
        assert file is not None
        text = file.read()
    assert text.rstrip().endswith(b"</Envelope>")
    assert made.size == (tmp_path / "vm.ova").stat().st_size
