"""Making LUKS volumes and writing into them: what QEMU, cryptsetup and libluksde make of it."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from test_luks_read import by_hand_file, content_of, cryptsetup, key_file

import luks_by_hand as by_hand
import peers
from luks_by_hand import KEY, PASSPHRASE, PAYLOAD, xts
from model import Operation, Twins, operation_lists
from rounds import rounds
from samples import awkward_disk
from vmimg.errors import LockedImage, OptionError, StorageError
from vmimg.formats.checking import check
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB = 1 << 20
Options = dict[str, OptionValue]
QUICK: Options = {"iter-time": 1}


def qemu_options(folder: Path, image: Path) -> tuple[str, ...]:
    """How qemu-img names an image that it needs the key of."""
    secret = f"secret,id=s,file={key_file(folder)}"
    return "--object", secret, "--image-opts", f"driver=luks,key-secret=s,file.filename={image}"


def by_qemu(folder: Path, image: Path) -> bytes:
    peers.run("qemu-img", "convert", "-O", "raw", *qemu_options(folder, image), folder / "qemu.raw")
    return (folder / "qemu.raw").read_bytes()


# Making volumes


@pytest.mark.peer("qemu-img", "cryptsetup")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cipher-alg": "aes-128"},
        {"cipher-alg": "aes-192", "ivgen-alg": "plain", "hash-alg": "ripemd160"},
        {"cipher-mode": "cbc", "ivgen-alg": "essiv", "hash-alg": "sha1"},
        {"cipher-mode": "cbc", "ivgen-alg": "essiv", "ivgen-hash-alg": "sha256"},
        {"cipher-mode": "cbc", "cipher-alg": "aes-128", "hash-alg": "sha512"},
    ],
    ids=str,
)
def test_other_programs_read_what_we_make(tmp_path: Path, options: Options) -> None:
    content = awkward_disk(2 * MIB + 512)
    raw, image = tmp_path / "raw", tmp_path / "a.luks"
    raw.write_bytes(content)
    convert(raw, image, options=QUICK | options, keys=PASSPHRASE)
    assert content_of(image) == content == by_qemu(tmp_path, image)
    if options.get("cipher-alg") != "aes-192":  # for that it would need the kernel
        cryptsetup(tmp_path, "open", "--test-passphrase", image)
    report = check(image)
    assert report.exit_code == 0, report.problems


@pytest.mark.peer("qemu-img", "cryptsetup", "pyluksde")
def test_the_defaults_are_those_of_qemu(tmp_path: Path) -> None:
    import pyluksde

    content = awkward_disk(MIB)
    raw, image = tmp_path / "raw", tmp_path / "a.luks"
    raw.write_bytes(content)
    convert(raw, image, options=QUICK, keys=PASSPHRASE)
    said = peers.run_json("qemu-img", "info", "--output", "json", image)["format-specific"]["data"]
    kept = ("cipher-alg", "cipher-mode", "ivgen-alg", "hash-alg", "payload-offset")
    assert [said[key] for key in kept] == ["aes-256", "xts", "plain64", "sha256", 2068480]
    assert image_info(image)[0].to_json()["format-specific"]["data"] == said
    assert [slot["key-offset"] for slot in said["slots"]][:2] == [4096, 262144]
    assert said["slots"][0]["iters"] >= 1000 and said["master-key-iters"] >= 1000
    volume = pyluksde.volume()
    volume.set_password(PASSPHRASE.decode())
    with image.open("rb") as file:
        volume.open_file_object(file)
        assert volume.read_buffer_at_offset(MIB, 0) == content


def test_keys_salts_and_identifiers_are_never_the_same_twice(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(MIB))
    files = []
    for name in ("a.luks", "b.luks"):
        convert(tmp_path / "raw", tmp_path / name, options=QUICK, keys=PASSPHRASE)
        files.append((tmp_path / name).read_bytes())
    first, second = (
        [file[112:132], file[132:164], file[168:208], file[4096:4160], file[2068480:2068496]]
        for file in files
    )
    assert not set(first) & set(second)


def test_zeros_are_stored_like_other_data(tmp_path: Path) -> None:
    with (tmp_path / "raw").open("wb") as file:
        file.truncate(3 * MIB)
    convert(tmp_path / "raw", tmp_path / "a.luks", options=QUICK, keys=PASSPHRASE)
    stored = (tmp_path / "a.luks").read_bytes()[2068480:]
    assert len(stored) == 3 * MIB
    assert all(any(stored[start : start + 4096]) for start in range(0, len(stored), 4096))
    assert content_of(tmp_path / "a.luks") == bytes(3 * MIB)


def test_a_stream_is_a_volume_as_well(tmp_path: Path) -> None:
    content = awkward_disk(2 * MIB)
    (tmp_path / "raw").write_bytes(content)
    code = (
        "import sys; from vmimg.transfer.convert import convert\n"
        "convert(sys.argv[1], '-', format='luks', options={'iter-time': 1}, keys=b'secret')"
    )
    with (tmp_path / "a.luks").open("wb") as file:
        # Through a pipe, which cannot seek.
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "raw"], stdout=subprocess.PIPE, check=True
        )
        file.write(done.stdout)
    assert content_of(tmp_path / "a.luks") == content


@pytest.mark.peer("cryptsetup", "qemu-img")
def test_an_empty_volume_is_made_at_once(tmp_path: Path) -> None:
    image = tmp_path / "a.luks"
    create(image, 1 << 40, format="luks", options=QUICK, keys=PASSPHRASE)
    assert image.stat().st_size == 2068480 + (1 << 40)
    assert image.stat().st_blocks * 512 < MIB
    cryptsetup(tmp_path, "open", "--test-passphrase", image)
    with open_disk(image, keys=PASSPHRASE) as disk:
        assert disk.size == 1 << 40
        assert len(list(disk.map())) == 1


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_its_size_is_known_before_and_without_a_key(tmp_path: Path, bits: int) -> None:
    options: Options = {"cipher-alg": f"aes-{bits}"}
    measured = measure(size=MIB, format="luks", options=options)
    create(tmp_path / "a.luks", MIB, format="luks", options=QUICK | options, keys=PASSPHRASE)
    assert measured.required == measured.fully_allocated == (tmp_path / "a.luks").stat().st_size


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ivgen-hash-alg": "sha256"}, "essiv only"),
        ({"cipher-alg": "serpent-256"}, "cipher-alg is one of"),
        ({"cipher-mode": "ecb"}, "cipher-mode is one of"),
        ({"cipher-alg": "aes-192", "cipher-mode": "cbc"}, "needs cipher-mode=xts"),
    ],
)
def test_options_that_contradict_each_other(
    tmp_path: Path, options: dict[str, str], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        create(tmp_path / "a.luks", MIB, format="luks", options=options, keys=PASSPHRASE)
    assert not list(tmp_path.iterdir())


def test_a_volume_is_not_made_without_a_passphrase(tmp_path: Path) -> None:
    with pytest.raises(LockedImage, match="no passphrase"):
        create(tmp_path / "a.luks", MIB, format="luks", options=QUICK)
    with pytest.raises(OptionError, match="is empty"):
        create(tmp_path / "a.luks", MIB, format="luks", options=QUICK, keys=b"")
    assert not list(tmp_path.iterdir())


def test_a_target_has_a_key_of_its_own(tmp_path: Path) -> None:
    content = awkward_disk(MIB)
    (tmp_path / "raw").write_bytes(content)
    convert(tmp_path / "raw", tmp_path / "a.luks", options=QUICK, keys=b"one")
    convert(
        tmp_path / "a.luks", tmp_path / "b.luks", options=QUICK, keys=b"one", target_keys=b"two"
    )
    assert content_of(tmp_path / "b.luks", b"two") == content
    with pytest.raises(LockedImage):
        open_disk(tmp_path / "b.luks", keys=b"one")


# Writing in place


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("by_them", [False, True])
def test_writes_of_either_are_read_by_the_other(tmp_path: Path, by_them: bool) -> None:
    content = awkward_disk(MIB)
    raw, image = tmp_path / "raw", tmp_path / "a.luks"
    create(image, MIB, format="luks", options=QUICK, keys=PASSPHRASE)
    raw.write_bytes(content)
    if by_them:
        option, secret, _, said = qemu_options(tmp_path, image)
        peers.run(
            "qemu-img",
            "convert",
            "-n",
            option,
            secret,
            "-f",
            "raw",
            "--target-image-opts",
            raw,
            said,
        )
        assert content_of(image) == content
    else:
        with open_disk(image, writable=True, keys=PASSPHRASE) as disk:
            disk.write(0, content)
        assert by_qemu(tmp_path, image) == content


LENGTHS = (1, 511, 512, 513, 4096, 5000, 65536, 70000)
UNITS = (1, 1, 512, 4096)


@pytest.mark.parametrize("sector_size", [512, 4096])
@given(operations=operation_lists(LENGTHS, UNITS, most=20))
@settings(max_examples=rounds(10), deadline=None, suppress_health_check=list(HealthCheck))
def test_it_holds_what_was_written_last(sector_size: int, operations: list[Operation]) -> None:
    content = awkward_disk(256 << 10)
    file, _ = by_hand.volume(content, sector_size=sector_size)
    with tempfile.TemporaryDirectory() as folder:
        image = by_hand_file(Path(folder), file)
        twins = Twins(image, content, key=PASSPHRASE)
        for operation in operations:
            twins.perform(operation)
        assert twins.disk.read(0, len(content)) == twins.content
        twins.disk.close()
        stored = image.read_bytes()
    assert stored[:PAYLOAD] == bytes(file[:PAYLOAD])
    assert xts(KEY, stored[PAYLOAD:], 0, sector_size, decrypt=True) == twins.content


def test_large_writes_go_through_in_pieces(tmp_path: Path) -> None:
    file, _ = by_hand.volume(bytes(5 * MIB), sector_size=4096)
    data = random.Random(1).randbytes(4 * MIB)
    with open_disk(by_hand_file(tmp_path, file), writable=True, keys=PASSPHRASE) as disk:
        disk.write(1000, data)
        disk.zero(MIB + 77, 2 * MIB)
        expected = bytearray(1000) + data + bytes(MIB - 1000)
        expected[MIB + 77 : 3 * MIB + 77] = bytes(2 * MIB)
        assert disk.read(0, 5 * MIB) == expected


def test_what_is_sealed_or_read_only_is_not_written(tmp_path: Path) -> None:
    file, _ = by_hand.volume(bytes(4096))
    image = by_hand_file(tmp_path, file)
    with open_disk(image, writable=True, sealed=True) as disk, pytest.raises(LockedImage):
        disk.write(0, bytes(512))
    with open_disk(image, keys=PASSPHRASE) as disk, pytest.raises(StorageError):
        disk.write(0, bytes(512))
    assert image.read_bytes() == file


@pytest.mark.peer("qemu-img")
def test_the_whole_way_round(tmp_path: Path) -> None:
    content = awkward_disk(MIB)
    (tmp_path / "raw").write_bytes(content)
    convert(tmp_path / "raw", tmp_path / "a.luks", options=QUICK, keys=PASSPHRASE)
    assert compare(tmp_path / "a.luks", tmp_path / "raw", keys=PASSPHRASE).identical
    for kind in ("qcow2", "vdi", "raw", "vmdk"):
        target = tmp_path / f"b.{kind}"
        convert(tmp_path / "a.luks", target, format=kind, keys=PASSPHRASE)
        peers.run("qemu-img", "compare", "-f", kind, target, tmp_path / "raw")
