"""pack, repack and unpack at work: where the target is named, progress, interruption, errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import peers
from run_vmimg import start, vmimg, vmimg_json
from samples import awkward_disk, write_sparse

MIB = 1 << 20
LARGE = 128 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "disk.raw", awkward_disk(3 * MIB, seed=3))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("packed")
    raw = write_sparse(folder / "disk.raw", awkward_disk(3 * MIB, seed=3))
    vmimg("pack", raw, "--cpus", "2", "-o", folder / "web.ova", "-q")
    return (folder / "web.ova").read_bytes()


@pytest.fixture
def ova(tmp_path: Path, disk: Path, packed: bytes) -> Path:
    """Beside its disk."""
    path = tmp_path / "web.ova"
    path.write_bytes(packed)
    return path


def noise(path: Path, size: int) -> Path:
    """A disk that does not compress."""
    some = os.urandom(MIB)
    with path.open("wb") as file:
        for at in range(size // MIB):
            file.write(some[at * 4096 :] + some[: at * 4096])
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk that takes a while to be compressed."""
    return noise(tmp_path_factory.mktemp("large") / "large.raw", LARGE)


def test_what_to_make_comes_second_or_after_o(tmp_path: Path, disk: Path, ova: Path) -> None:
    vmimg("repack", ova, "-O", "box", tmp_path / "a.box")
    vmimg("repack", ova, tmp_path / "b.box")
    vmimg("repack", ova, "-o", tmp_path / "c.box")
    assert (tmp_path / "a.box").read_bytes() == (tmp_path / "c.box").read_bytes()
    assert (tmp_path / "b.box").read_bytes() == (tmp_path / "c.box").read_bytes()
    both = vmimg("repack", ova, tmp_path / "d.box", "-o", tmp_path / "e.box", ok=[2])
    assert "Say once what to make" in both.err
    assert "SRC OUT" in vmimg("repack", ova, ok=[2]).err
    assert not (tmp_path / "d.box").exists() and not (tmp_path / "e.box").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pack", "disk.raw", "-O", "nope", "-o", "x"], "no kind of bundle 'nope'; there are: ova"),
        (["pack", "disk.raw", "-o", "x.unknown"], "names no kind of bundle; pass -O"),
        (["pack", "disk.raw"], "Say what to make: -o FILE"),
        (["pack", "-o", "x.ova"], "there is no disk"),
        (["pack", "disk.raw", "-o", "web.ova"], "web.ova exists; pass --force"),
        (["pack", "disk.raw", "-b", "sparse=on", "-o", "x.ova"], "no option 'sparse'; it has: man"),
        (["pack", "disk.raw", "--disk-format", "vdi", "-O", "pvm", "-o", "x"], "as parallels, not"),
        (["pack", "disk.raw", "-O", "netboot", "-o", "x"], "can be opened, but not made"),
        (["pack", "disk.raw", "-O", "uec", "-o", "x"], "give it as a file, as vmlinuz=PATH"),
        (["pack", "disk.raw", "-O", "ec2-bundle", "-o", "x"], "give the options key=FILE and cert"),
        (["pack", "disk.raw", "--machine", "disk.raw", "-o", "x.ova"], "no description of a mach"),
        (["repack", "disk.raw", "x.ova"], "is no bundle"),
        (["repack", "nothing.ova", "x.box"], "nothing.ova: cannot open it: no such file"),
        (["repack", "web.ova", "x.wim"], "made of a directory of files"),
        (["repack", "web.ova", "--system", "db", "x.box"], "there is no machine 'db' in it: web"),
        (["convert", "web.ova:disk7", "x.raw"], "no disk 'disk7' in it; there is: vmdisk1"),
        (["unpack", "web.ova", "-c", "x"], "go with the format"),
        (["unpack", "disk.raw", "x"], "is no bundle"),
        (["verify", "disk.raw"], "is no bundle"),
        (["machine", "convert", "web.ova", "-O", "nope"], "no dialect"),
        (["machine", "show", "disk.raw"], "is no description of a machine"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_to_do(
    tmp_path: Path, ova: Path, arguments: list[str], said: str
) -> None:
    before = sorted(tmp_path.iterdir())
    done = vmimg(*arguments, ok=[1, 2], cwd=tmp_path)
    assert said in done.err
    assert done.err.count("\n") == 1 and done.err.startswith("vmimg: error: ")
    assert sorted(tmp_path.iterdir()) == before


def test_every_verb_speaks_json(tmp_path: Path, disk: Path, ova: Path) -> None:
    made = vmimg_json("pack", disk, "-o", tmp_path / "x.ova", "--output", "json")
    assert made["kind"] == "ova" and made["file-size"] == (tmp_path / "x.ova").stat().st_size
    made = vmimg_json("repack", ova, tmp_path / "x.oci", "-O", "oci", "--output", "json")
    assert ("cpus.count", "2") in {(loss["key"], loss["value"]) for loss in made["losses"]}
    made = vmimg_json("unpack", ova, tmp_path / "files", "--output", "json")
    assert {name: (tmp_path / "files" / name).stat().st_size for name in made["files"]} == (
        made["files"]
    )
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    peers.run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Example",
        "-keyout", str(key), "-out", str(certificate), "-days", "30",
    )  # fmt: skip
    made = vmimg_json(
        "sign", ova, "--key", key, "--certificate", certificate, "--output", "json",
        "-o", tmp_path / "signed.ova",
    )  # fmt: skip
    assert made == {"filename": str(tmp_path / "signed.ova"), "algorithm": "sha256"}
    assert vmimg_json("verify", "--output", "json", tmp_path / "signed.ova")["verified"]


def test_a_description_in_a_bundle_is_one_for_pack(tmp_path: Path, disk: Path, ova: Path) -> None:
    vmimg("pack", disk, "--machine", ova, "--memory", "3G", "-o", tmp_path / "x.xva")
    (machine,) = vmimg_json("info", "--output", "json", tmp_path / "x.xva")["machines"]
    assert machine["memory"] == 3 << 30 and machine["cpus"]["count"] == 2


def test_a_disk_of_a_bundle_streams(tmp_path: Path, disk: Path) -> None:
    other = write_sparse(tmp_path / "other.raw", awkward_disk(2 * MIB, seed=4))
    vmimg("pack", disk, other, "-o", tmp_path / "two.ova")
    done = vmimg("convert", "-O", "raw", f"{tmp_path / 'two.ova'}:disk2", "-")
    assert done.raw == other.read_bytes()


@pytest.mark.parametrize("verb", ["pack", "repack", "unpack", "unpack -O"])
def test_progress_in_json_ends_at_the_total(tmp_path: Path, verb: str) -> None:
    large = noise(tmp_path / "disk.raw", 24 * MIB)
    if verb != "pack":
        vmimg("pack", "--level", "fast", large, "-o", tmp_path / "x.ova")
    arguments: dict[str, list[str | Path]] = {
        "pack": ["pack", "--level", "fast", large, "-o", tmp_path / "y.ova"],
        "repack": ["repack", tmp_path / "x.ova", tmp_path / "y.xva"],
        "unpack": ["unpack", tmp_path / "x.ova", tmp_path / "y"],
        "unpack -O": ["unpack", tmp_path / "x.ova", "-O", "qcow2", tmp_path / "y"],
    }
    done = vmimg(*arguments[verb], "--progress", "json")
    told = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    parts = [each["done"] for each in told]
    assert parts == sorted(parts)
    assert told[-1]["done"] == told[-1]["total"] > 0


@pytest.mark.parametrize("kind", ["ova", "ovf", "xva", "box", "oci", "gce", "lxd"])
def test_ctrl_c_while_packing_leaves_nothing(tmp_path: Path, large: Path, kind: str) -> None:
    options = ["-b", "compress=gzip"] if kind == "xva" else []
    packing = start(
        "pack", large, "-O", kind, *options, "--level", "best", "--threads", "1", "-o",
        tmp_path / "x", "--progress", "json", stderr=subprocess.PIPE,
    )  # fmt: skip
    assert packing.stderr is not None
    assert packing.stderr.readline().startswith(b"{"), "it has begun"
    packing.send_signal(signal.SIGINT)
    packing.communicate(timeout=20)
    assert packing.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peer("virt-xml-validate")
@pytest.mark.parametrize("kind", ["ova", "xva", "box", "vmware", "virtualbox", "pvm", "hyperv"])
def test_the_libvirt_xml_of_every_bundle_is_valid(tmp_path: Path, ova: Path, kind: str) -> None:
    if kind != "ova":
        vmimg("repack", ova, "-O", kind, tmp_path / "it")
    source = ova if kind == "ova" else tmp_path / "it"
    vmimg("machine", "convert", source, "-o", tmp_path / "a.xml")
    vmimg("unpack", source, "-O", "qcow2", "--machine", "libvirt", tmp_path / "files")
    (unpacked,) = (tmp_path / "files").glob("*.xml")
    for made in (tmp_path / "a.xml", unpacked):
        peers.run("virt-xml-validate", made, "domain")
    (disk,) = (tmp_path / "files").glob("*.qcow2")
    assert f'"{disk}"' in unpacked.read_text(), "the domain names the disk that was unpacked"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.vmsd", b'.encoding = "UTF-8"\nsnapshot.numSnapshots = "0"\n', "list of snapshots"),
        ("x.vmss", b"\xd2\xbe\xd2\xbe\x08\0\0\0\1\0\0\0cpt" + bytes(4000), "saved state"),
        ("x.nvram", b"MRVN" + bytes(8680), "firmware settings"),
        ("x.qcow2", b"QFI\xfb\0\0\0\3" + bytes(16) + b"\0\0\0\x10" + bytes(484), "QEMU copy-on"),
    ],
)  # fmt: skip
def test_what_describes_no_machine_is_called_by_its_name(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    done = vmimg("machine", "show", tmp_path / name, ok=[1])
    assert "describes no machine: it is" in done.err and said in done.err
    assert done.err.count("\n") == 1


def test_progress_of_unpacking_is_that_of_all_disks(tmp_path: Path, disk: Path) -> None:
    other = write_sparse(tmp_path / "other.raw", awkward_disk(2 * MIB, seed=4))
    vmimg("pack", disk, other, "-o", tmp_path / "two.ova")
    done = vmimg(
        "unpack", tmp_path / "two.ova", "-O", "qcow2", tmp_path / "files", "--progress", "json"
    )
    told = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert {each["total"] for each in told} == {5 * MIB}
    assert told[-1]["done"] == 5 * MIB


def test_unpack_lists_the_options_of_the_format(tmp_path: Path, ova: Path) -> None:
    assert "cluster_size" in vmimg("unpack", ova, "-O", "qcow2", "-o", "help", tmp_path / "x").out
    assert "no options" in vmimg("unpack", ova, "-o", "help", tmp_path / "x").out
    assert not (tmp_path / "x").exists()


def test_a_sandboxed_info_does_not_take_a_package_for_a_raw_disk(ova: Path) -> None:
    assert "`vmimg vet --sandbox`" in vmimg("info", "--sandbox", ova, ok=[1]).err
