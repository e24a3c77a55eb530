"""pack, unpack, repack, verify and machine as a user runs them; bundles where disks are taken."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

import peers
from run_vmimg import vmimg, vmimg_json
from vmimg.machines.model import Controller, CPUs, Drive, Firmware, Machine, Network
from vmimg.machines.registry import find
from vmimg.transfer.create import create
from vmimg.transfer.dd import dd

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A qcow2 of 4 MiB with something in it."""
    plain = tmp_path / "plain.raw"
    with plain.open("wb") as file:
        file.truncate(4 * MIB)
        file.seek(MIB)
        file.write(bytes(range(256)) * 512)
    path = tmp_path / "disk.qcow2"
    dd(plain, path, format="qcow2")
    return path


@pytest.fixture
def ova(tmp_path: Path, disk: Path) -> Path:
    path = tmp_path / "web.ova"
    vmimg("pack", disk, "--cpus", "2", "--memory", "2G", "--nic", "e1000", "-o", path)
    return path


def test_pack_says_what_it_made_and_what_it_chose(tmp_path: Path, disk: Path) -> None:
    done = vmimg("pack", disk, "-o", tmp_path / "web.ova")
    assert "web.ova: ova" in done.out and "1 disk" in done.out
    assert "chosen, since nothing was said:" in done.err


def test_a_bundle_is_taken_wherever_a_disk_is(tmp_path: Path, disk: Path, ova: Path) -> None:
    assert "Images are identical" in vmimg("compare", ova, disk).out
    vmimg("convert", ova, tmp_path / "out.raw")
    assert "Images are identical" in vmimg("compare", tmp_path / "out.raw", disk).out
    vmimg("convert", f"{ova}:1", tmp_path / "named.vhdx")
    assert "Images are identical" in vmimg("compare", tmp_path / "named.vhdx", disk).out
    assert vmimg_json("measure", "-O", "raw", "--output", "json", ova)["required"] == 4 * MIB
    assert [row["length"] for row in vmimg_json("map", "--output", "json", ova)]
    vmimg("dd", f"if={ova}", f"of={tmp_path / 'part.raw'}", "bs=1M", "count=2", "-O", "raw")
    assert (tmp_path / "part.raw").stat().st_size == 2 * MIB
    assert vmimg_json("detect", "--output", "json", ova)["format"] == "ova"
    assert vmimg_json("vet", "--policy", "desktop", "--output", "json", ova)["safe"]


def test_info_shows_the_machine_and_the_disks(ova: Path) -> None:
    shown = vmimg("info", ova).out
    assert "ova (OVA appliance)" in shown and "memory:" in shown and "2 GiB" in shown
    facts = vmimg_json("info", "--output", "json", ova)
    assert facts["bundle"] == "ova"
    assert [disk["virtual-size"] for disk in facts["disks"]] == [4 * MIB]
    assert facts["machines"][0]["memory"] == 2 << 30
    name = facts["disks"][0]["name"]
    assert vmimg_json("info", "--output", "json", f"{ova}:{name}")["format"] == "vmdk"


def test_a_disk_that_is_not_there_is_said_with_those_that_are(ova: Path, tmp_path: Path) -> None:
    done = vmimg("convert", f"{ova}:nothing", tmp_path / "out.raw", ok=[1])
    assert "there is no disk 'nothing'" in done.err
    assert not (tmp_path / "out.raw").exists()


def test_unpack_writes_files_as_they_are_or_disks_as_one_likes(
    ova: Path, disk: Path, tmp_path: Path
) -> None:
    vmimg("unpack", ova, tmp_path / "files")
    with tarfile.open(ova) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            assert (tmp_path / "files" / member.name).read_bytes() == content.read()
    vmimg("unpack", ova, "-O", "qcow2", "--machine", "libvirt", tmp_path / "web")
    made = {path.suffix: path for path in (tmp_path / "web").iterdir()}
    assert "Images are identical" in vmimg("compare", made[".qcow2"], disk).out
    assert made[".qcow2"].name in made[".xml"].read_text()
    again = vmimg("unpack", ova, tmp_path / "web", ok=[1])
    assert "directory with something else in it" in again.err


def test_repack_makes_another_kind_of_the_same_disk(ova: Path, disk: Path, tmp_path: Path) -> None:
    made = vmimg_json("repack", ova, "-O", "vagrant", "-o", tmp_path / "w.box", "--output", "json")
    assert made["kind"] == "vagrant" and made["virtual-sizes"] == [4 * MIB]
    assert "Images are identical" in vmimg("compare", tmp_path / "w.box", disk).out


def test_an_existing_bundle_is_not_replaced_without_being_told_to(disk: Path, ova: Path) -> None:
    before = ova.read_bytes()
    assert "exists" in vmimg("pack", disk, "-o", ova, ok=[1]).err
    assert ova.read_bytes() == before
    vmimg("pack", disk, "--force", "-o", ova)


def test_verify_is_0_for_what_is_right_and_1_for_what_is_not(ova: Path, tmp_path: Path) -> None:
    assert "verified" in vmimg("verify", ova).out
    data = bytearray(ova.read_bytes())
    at = data.index(b"KDMV") + 600
    data[at] ^= 1
    (tmp_path / "bad.ova").write_bytes(data)
    facts = json.loads(vmimg("verify", "--output", "json", tmp_path / "bad.ova", ok=[1]).out)
    assert not facts["verified"]
    assert [v["state"] for v in facts["verdicts"] if v["subject"].endswith(".vmdk")] == ["bad"]
    create(tmp_path / "plain.qcow2", MIB, format="qcow2")
    vmimg("verify", tmp_path / "plain.qcow2", ok=[2])


def test_sign_signs_and_verify_says_who(ova: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    peers.run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Example",
        "-keyout", str(key), "-out", str(certificate), "-days", "30",
    )  # fmt: skip
    vmimg("sign", ova, "--key", key, "--certificate", certificate)
    verdicts = json.loads(
        vmimg("verify", "--trust", certificate, "--output", "json", ova).out
    )["verdicts"]  # fmt: skip
    signed = [verdict for verdict in verdicts if verdict["subject"] == "signature"]
    assert [verdict["state"] for verdict in signed] == ["good"]
    assert any("Example" in verdict["detail"] for verdict in verdicts)


def test_machine_translates_and_lists_what_is_lost(ova: Path, tmp_path: Path) -> None:
    assert vmimg_json("machine", "show", "--output", "json", ova)["machines"][0]["name"] == "web"
    done = vmimg("machine", "convert", ova, "-O", "firecracker", "--losses", "json")
    assert json.loads(done.out)["machine-config"]["vcpu_count"] == 2
    assert any(loss["key"].startswith("networks") for loss in json.loads(done.err))
    vmimg("machine", "convert", ova, "-O", "firecracker", "--strict", ok=[1])
    vmimg("machine", "convert", ova, "-o", tmp_path / "web.xml")
    back = vmimg_json("machine", "show", "--output", "json", tmp_path / "web.xml")
    assert back["dialect"] == "libvirt" and back["machines"][0]["memory"] == 2 << 30


def test_a_size_that_the_disk_tells_itself_is_no_loss_for_people(ova: Path, tmp_path: Path) -> None:
    done = vmimg("machine", "convert", ova, "-O", "vmx", "-o", tmp_path / "web.vmx")
    assert "size" not in done.err
    done = vmimg("machine", "convert", ova, "-O", "vmx", "--losses", "json")
    (size,) = (loss for loss in json.loads(done.err) if loss["key"] == "drives[0].size")
    assert (size["value"], size["said-by"]) == (str(4 * MIB), "image")
    assert {loss["said-by"] for loss in json.loads(done.err)} <= {"image", None}
    done = vmimg("repack", ova, "-O", "vmware", tmp_path / "folder")
    assert "drives[0].size" not in done.err


def test_a_size_that_the_disk_tells_itself_is_no_failure_where_nothing_may_be_lost(
    tmp_path: Path,
) -> None:
    disk = Drive("disk", "scsi", 0, 0, "d.vmdk", "file", "vmdk", 8 << 30, 1)
    machine = Machine(
        name="whole", architecture="x86_64", firmware=Firmware("bios"), cpus=CPUs(2, 1, 2, 1),
        memory=MIB << 10, guest="debian12", controllers=(Controller("scsi", 0, "pvscsi"),),
        drives=(disk,), networks=(Network("vmxnet3", "00:50:56:00:00:01", "network", "LAN"),),
    )  # fmt: skip
    (tmp_path / "whole.ovf").write_bytes(find("ovf").write(machine).data)
    vmimg("machine", "convert", tmp_path / "whole.ovf", "-O", "vmx", "--strict")
    done = vmimg("machine", "convert", tmp_path / "whole.ovf", "-O", "vbox", "--strict", ok=[1])
    assert "things would be lost" in done.err


def test_help_lists_kinds_and_their_options(tmp_path: Path) -> None:
    kinds = vmimg("pack", "-O", "help").out
    assert "ova" in kinds and "vagrant" in kinds
    assert "manifest" in vmimg("pack", "-O", "ova", "-b", "help").out
