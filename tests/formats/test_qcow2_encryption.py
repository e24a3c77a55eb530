"""Encrypted qcow2 images, LUKS and the old AES: what QEMU makes of ours, and we of its."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

import peers
from model import Operation, Twins, operation_lists
from rounds import rounds
from samples import awkward_disk, border_disk
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, LockedImage, OptionError
from vmimg.formats.checking import check
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import read_header
from vmimg.storage import open as open_storage
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

pytestmark = pytest.mark.peer("qemu-img")

MIB = 1 << 20
KEY = b"a passphrase of more than 16 bytes"
Options = dict[str, OptionValue]
LUKS: Options = {"encrypt.format": "luks", "encrypt.iter-time": 1}
AES: Options = {"encrypt.format": "aes"}
METHODS = pytest.mark.parametrize("method", [LUKS, AES], ids=["luks", "aes"])


def key_file(folder: Path, key: bytes = KEY) -> Path:
    path = folder / "key"
    path.write_bytes(key)
    return path


def secret(folder: Path) -> tuple[str, str]:
    return "--object", f"secret,id=s,file={key_file(folder)}"


def named(image: Path) -> str:
    """The image as --image-opts takes it."""
    return f"driver=qcow2,encrypt.key-secret=s,file.filename={image}"


def by_qemu(image: Path) -> bytes:
    """What the disk reads as, to QEMU."""
    folder = image.parent
    given = (*secret(folder), "--image-opts", "-O", "raw", named(image), "by qemu")
    peers.run("qemu-img", "convert", *given, cwd=folder)  # where it looks for data files
    return (folder / "by qemu").read_bytes()


def qemu_writes(image: Path, *commands: str) -> None:
    script = [part for command in commands for part in ("-c", command)]
    done = peers.run("qemu-io", *secret(image.parent), *script, "--image-opts", named(image))
    assert b"rror" not in done.stdout + done.stderr, done.stdout


def by_us(image: Path, key: bytes = KEY) -> bytes:
    with open_disk(image, keys=key) as disk:
        return disk.read(0, disk.size)


def sound(image: Path) -> None:
    """By our check and by QEMU's, which wants the key for it."""
    report = check(image)
    assert report.exit_code == 0, report.problems
    folder = image.parent
    peers.run("qemu-img", "check", *secret(folder), "--image-opts", named(image), cwd=folder)


def made(folder: Path, content: bytes | bytearray, options: Options, name: str = "a.qcow2") -> Path:
    (folder / "raw").write_bytes(content)
    convert(folder / "raw", folder / name, options=options, keys=KEY)
    return folder / name


# Making


VARIANTS: list[Options] = [
    LUKS,
    AES,
    {"encryption": "on"},
    LUKS | {"cluster_size": 512},
    LUKS | {"cluster_size": 2 * MIB},
    AES | {"cluster_size": 2 * MIB},
    LUKS | {"compat": "0.10"},
    AES | {"compat": "0.10"},
    LUKS | {"extended_l2": "on"},
    AES | {"extended_l2": "on"},
    LUKS | {"data_file": "data.bin"},
    AES | {"data_file": "data.bin"},
    LUKS | {"preallocation": "metadata"},
    LUKS | {"preallocation": "full", "extended_l2": "on"},
    AES | {"preallocation": "falloc"},
    LUKS | {"encrypt.cipher-alg": "aes-128", "encrypt.hash-alg": "sha512"},
    LUKS | {"encrypt.cipher-mode": "cbc", "encrypt.ivgen-alg": "essiv"},
    LUKS | {"encrypt.cipher-mode": "cbc", "encrypt.ivgen-alg": "plain", "refcount_bits": 1},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_qemu_reads_what_we_encrypt(tmp_path: Path, options: Options) -> None:
    content = border_disk(3 * MIB + 512)
    image = made(tmp_path, content, options)
    assert by_us(image) == content == by_qemu(image)
    sound(image)
    stored = (tmp_path / str(options.get("data_file", image))).read_bytes()
    assert b"the quick brown fox" in content and b"the quick brown fox" not in stored


@METHODS
def test_info_says_what_qemu_says(tmp_path: Path, method: Options) -> None:
    image = made(tmp_path, awkward_disk(MIB), method)
    said = peers.run_json("qemu-img", "info", "--output", "json", image)
    ours = image_info(image)[0].to_json()
    assert said["encrypted"] and ours["encrypted"]
    assert ours["format-specific"] == said["format-specific"]


@METHODS
def test_a_stream_is_encrypted_with_the_key_that_its_header_has(
    tmp_path: Path, method: Options
) -> None:
    content = border_disk(2 * MIB)
    (tmp_path / "raw").write_bytes(content)
    code = (
        "import sys; from vmimg.transfer.convert import convert\n"
        f"convert(sys.argv[1], '-', format='qcow2', options={method!r}, keys={KEY!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "raw"], stdout=subprocess.PIPE, check=True
    )
    (tmp_path / "a.qcow2").write_bytes(done.stdout)
    assert by_us(tmp_path / "a.qcow2") == content
    sound(tmp_path / "a.qcow2")


def test_two_images_do_not_share_their_keys(tmp_path: Path) -> None:
    content = border_disk(MIB)
    files = [made(tmp_path, content, LUKS, name).read_bytes() for name in ("a.qcow2", "b.qcow2")]
    blocks = [{file[at : at + 64] for at in range(1 << 21, len(file), 64)} for file in files]
    shared = {block for block in blocks[0] & blocks[1] if block.count(0) < 32}
    assert not shared


@pytest.mark.parametrize("options", [LUKS, LUKS | {"cluster_size": 4096}, AES], ids=str)
def test_the_size_is_known_before_and_without_the_key(tmp_path: Path, options: Options) -> None:
    image = made(tmp_path, border_disk(2 * MIB), options)
    assert (
        measure(tmp_path / "raw", format="qcow2", options=options).required == image.stat().st_size
    )
    create(tmp_path / "empty.qcow2", 2 * MIB, format="qcow2", options=options, keys=KEY)
    empty = measure(size=2 * MIB, format="qcow2", options=options)
    assert empty.required == (tmp_path / "empty.qcow2").stat().st_size
    full = made(tmp_path, random.Random(1).randbytes(2 * MIB), options, "full.qcow2")
    assert empty.fully_allocated == full.stat().st_size


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encrypt.iter-time": 10}, "encrypt.iter-time needs encrypt.format=luks"),
        (AES | {"encrypt.hash-alg": "sha256"}, "needs encrypt.format=luks"),
        (LUKS | {"encryption": "on"}, "encryption=on is encrypt.format=aes"),
        (LUKS | {"encrypt.ivgen-hash-alg": "sha256"}, "essiv only"),
        ({"encrypt.format": "xts"}, "one of aes, luks"),
        (LUKS | {"data_file": "d", "data_file_raw": "on"}, "combined with encryption"),
        (LUKS | {"preallocation": "full", "compat": "0.10"}, "needs compat=1.1"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other(tmp_path: Path, options: Options, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        create(tmp_path / "a.qcow2", MIB, format="qcow2", options=options, keys=KEY)
    assert not list(tmp_path.iterdir())


@METHODS
def test_what_is_encrypted_is_not_compressed(tmp_path: Path, method: Options) -> None:
    (tmp_path / "raw").write_bytes(bytes(MIB))
    with pytest.raises(OptionError, match="cannot be compressed"):
        convert(tmp_path / "raw", tmp_path / "a.qcow2", options=method, compress=True, keys=KEY)
    assert not (tmp_path / "a.qcow2").exists()


@METHODS
def test_no_image_is_made_without_a_passphrase(tmp_path: Path, method: Options) -> None:
    with pytest.raises(LockedImage):
        create(tmp_path / "a.qcow2", MIB, format="qcow2", options=method)
    with pytest.raises(OptionError, match="empty"):
        create(tmp_path / "a.qcow2", MIB, format="qcow2", options=method, keys=b"")
    assert not list(tmp_path.iterdir())


# Reading


@METHODS
@pytest.mark.parametrize(
    "more",
    [{}, {"cluster_size": 4096}, {"compat": "0.10"}, {"extended_l2": "on"}, {"data_file": "d.bin"}],
    ids=str,
)
def test_what_qemu_wrote_is_read(tmp_path: Path, method: Options, more: Options) -> None:
    """Into an image of ours: making one itself takes QEMU seconds."""
    content = border_disk(3 * MIB)
    (tmp_path / "raw").write_bytes(content)
    image = tmp_path / "a.qcow2"
    create(image, 3 * MIB, format="qcow2", options=method | more, keys=KEY)
    peers.run(
        "qemu-img", "convert", "-n", *secret(tmp_path), "-f", "raw", "--target-image-opts",
        tmp_path / "raw", named(image), cwd=tmp_path,
    )  # fmt: skip
    assert by_us(image) == content
    assert compare(image, tmp_path / "raw", keys=KEY).identical


@METHODS
def test_what_qemu_made_from_the_start_is_read(tmp_path: Path, method: Options) -> None:
    content = border_disk(2 * MIB)
    (tmp_path / "raw").write_bytes(content)
    options = {"encrypt.key-secret": "s", "encrypt.format": str(method["encrypt.format"])}
    if method is LUKS:
        options["encrypt.iter-time"] = "100"
    given = ",".join(f"{name}={value}" for name, value in options.items())
    image = tmp_path / "a.qcow2"
    for _ in range(10):
        done = peers.run(
            "qemu-img", "convert", *secret(tmp_path), "-f", "raw", "-O", "qcow2", "-o", given,
            tmp_path / "raw", image, ok=(0, 1),
        )  # fmt: skip
        # On a machine that is busy it measures no CPU time at all, says so, and gives up.
        if not done.returncode:
            break
        assert b"CPU usage" in done.stderr, done.stderr
    else:
        pytest.skip("qemu-img cannot measure the time that a passphrase takes")
    assert by_us(image) == content


def test_a_wrong_passphrase_is_said_and_not_named(tmp_path: Path) -> None:
    image = made(tmp_path, bytes(MIB), LUKS)
    with pytest.raises(LockedImage, match=r"a\.qcow2.*the passphrase or key is wrong") as caught:
        open_disk(image, keys=b"hunter2")
    assert "hunter2" not in str(caught.value)
    assert by_us(image, KEY + b"\n") == bytes(MIB)


def test_the_old_aes_takes_16_bytes_and_notices_nothing(tmp_path: Path) -> None:
    content = border_disk(MIB)
    image = made(tmp_path, content, AES)
    assert by_us(image, KEY[:16]) == content
    assert by_us(image, KEY[:15]) != content
    (note,) = [note for note in image_info(image)[0].image.notes if "AES" in note]
    assert "wrong passphrase is not noticed" in note


@METHODS
def test_without_the_key_it_is_mapped_checked_and_not_read(tmp_path: Path, method: Options) -> None:
    image = tmp_path / "a.qcow2"
    create(image, 4 * MIB, format="qcow2", options=method, keys=KEY)
    with open_disk(image, writable=True, keys=KEY) as disk:
        disk.write(MIB, b"x" * 65536)
        disk.zero(2 * MIB, MIB)
    with open_disk(image, sealed=True) as disk:
        found = [(e.start, e.length, e.kind, e.offset) for e in disk.map() if e.kind == Kind.DATA]
        assert found == [(MIB, 65536, Kind.DATA, None)]
        assert disk.read(0, MIB) == bytes(MIB)  # there is nothing to decrypt
        with pytest.raises(LockedImage, match=r"a\.qcow2: its data is encrypted"):
            disk.read(MIB, 512)
    before = image.read_bytes()
    with open_disk(image, writable=True, sealed=True) as disk:
        with pytest.raises(LockedImage):
            disk.write(MIB + 5, b"y")
        with pytest.raises(LockedImage):
            disk.write(0, b"y" * 65536)
        disk.flush()
    assert image.read_bytes() == before
    with pytest.raises(LockedImage, match="no passphrase or key file was given"):
        open_disk(image)


@METHODS
def test_snapshots_are_read_with_the_same_key(tmp_path: Path, method: Options) -> None:
    first = border_disk(MIB)
    image = made(tmp_path, first, method)
    peers.run("qemu-img", "snapshot", *secret(tmp_path), "-c", "one", "--image-opts", named(image))
    with open_disk(image, writable=True, keys=KEY) as disk:
        disk.write(1000, b"changed" * 20000)  # shared clusters: they move to another place
    second = bytearray(first)
    second[1000 : 1000 + 140000] = b"changed" * 20000
    assert by_us(image) == second == by_qemu(image)
    with open_disk(image, snapshot="one", keys=KEY) as disk:
        assert disk.read(0, MIB) == first
    sound(image)


@METHODS
def test_compressed_clusters_are_not_encrypted(tmp_path: Path, method: Options) -> None:
    """Nobody writes both; QEMU reads it so."""
    content = border_disk(MIB)
    (tmp_path / "raw").write_bytes(content)
    image, packed = tmp_path / "a.qcow2", tmp_path / "packed.qcow2"
    convert(tmp_path / "raw", packed, compress=True)
    with open_storage(packed, "rw") as storage:
        storage.write(s.Header.crypt_method.offset, s.CRYPT_AES.to_bytes(4, "big"))
    packed.rename(image)
    with open_disk(image, keys=KEY) as disk:
        kinds = {(e.kind, e.compressed) for e in disk.map()}
        ours = disk.read(0, MIB)
    assert (Kind.DATA, True) in kinds
    assert ours == by_qemu(image)


# Writing in place


LENGTHS = (1, 511, 512, 600, 4096, 65536, 70000, 200000)
UNITS = (1, 1, 512, 4096, 65536)


@pytest.mark.parametrize(
    "options",
    [LUKS, AES, LUKS | {"compat": "0.10", "cluster_size": 4096},
     AES | {"extended_l2": "on"}, LUKS | {"extended_l2": "on"}, LUKS | {"data_file": "d.bin"}],
    ids=str,
)  # fmt: skip
@given(operations=operation_lists(LENGTHS, UNITS, most=16))
@settings(max_examples=rounds(5), deadline=None, suppress_health_check=list(HealthCheck))
def test_it_holds_what_was_written_last(options: Options, operations: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "a.qcow2"
        create(image, MIB, format="qcow2", options=options, keys=KEY)
        twins = Twins(image, bytes(MIB), key=KEY)
        for operation in operations:
            twins.perform(operation)
        assert twins.disk.read(0, MIB) == twins.content
        twins.disk.close()
        assert by_qemu(image) == twins.content
        report = check(image)
        assert report.exit_code == 0, report.problems


@METHODS
def test_writes_of_both_programs_meet(tmp_path: Path, method: Options) -> None:
    image = tmp_path / "a.qcow2"
    create(image, 2 * MIB, format="qcow2", options=method, keys=KEY)
    qemu_writes(image, "write -P 1 0 200k", "write -z 100k 64k")
    with open_disk(image, writable=True, keys=KEY) as disk:
        disk.write(50_001, b"\2" * 100_000)
    qemu_writes(image, "write -P 3 120k 1k", "discard 0 64k", "write -P 4 1M 512")
    expected = bytearray(b"\1" * 204800 + bytes(2 * MIB - 204800))
    expected[102400 : 102400 + 65536] = bytes(65536)
    expected[50_001:150_001] = b"\2" * 100_000
    expected[122880 : 122880 + 1024] = b"\3" * 1024
    expected[:65536] = bytes(65536)
    expected[MIB : MIB + 512] = b"\4" * 512
    assert by_us(image) == expected == by_qemu(image)
    sound(image)


def test_a_part_of_a_sector_is_written_into_the_whole_of_it(tmp_path: Path) -> None:
    content = bytearray(random.Random(2).randbytes(256 << 10))
    for method in (LUKS, AES):
        image = made(tmp_path, content, method, f"{method['encrypt.format']}.qcow2")
        dice = random.Random(3)
        expected = bytearray(content)
        with open_disk(image, writable=True, keys=KEY) as disk:
            for _ in range(50):
                start, length = dice.randrange(250_000), dice.randrange(1, 3000)
                data = dice.randbytes(length)
                disk.write(start, data)
                expected[start : start + length] = data
        assert by_us(image) == expected == by_qemu(image)


# Chains


@pytest.mark.parametrize("lower", [LUKS, AES, {}], ids=["luks", "aes", "plain"])
@pytest.mark.parametrize("upper", [LUKS, AES, {}], ids=["luks", "aes", "plain"])
def test_each_layer_of_a_chain_asks_for_its_own_key(
    tmp_path: Path, lower: Options, upper: Options
) -> None:
    if not lower and not upper:
        return
    content = border_disk(MIB)
    (tmp_path / "raw").write_bytes(content)
    keys = {"base.qcow2": b"one key", "top.qcow2": b"another key"}
    asked: list[str] = []

    def give(name: str) -> bytes:
        asked.append(Path(name).name)
        return keys[Path(name).name]

    convert(tmp_path / "raw", tmp_path / "base.qcow2", options=lower, keys=give)
    top = tmp_path / "top.qcow2"
    create(
        top, format="qcow2", options=upper, backing="base.qcow2", backing_format="qcow2", keys=give
    )
    with open_disk(top, writable=True, keys=give) as disk:
        disk.write(65000, b"new" * 1000)  # parts of clusters, so that they are copied up
        disk.zero(300_000, 100_000)
    expected = bytearray(content)
    expected[65000:68000] = b"new" * 1000
    expected[300_000:400_000] = bytes(100_000)
    asked.clear()
    with open_disk(top, keys=give) as disk:
        assert disk.read(0, MIB) == expected
    assert sorted(asked) == sorted(
        name for name, options in (("base.qcow2", lower), ("top.qcow2", upper)) if options
    )
    target = tmp_path / "by qemu"
    given = ["driver=qcow2", f"file.filename={top}", "backing.driver=qcow2"]
    given.append(f"backing.file.filename={tmp_path / 'base.qcow2'}")
    given += ["encrypt.key-secret=upper"] if upper else []
    given += ["backing.encrypt.key-secret=lower"] if lower else []
    peers.run(
        "qemu-img", "convert", "--object", "secret,id=lower,data=one key", "--object",
        "secret,id=upper,data=another key", "--image-opts", "-O", "raw", ",".join(given), target,
    )  # fmt: skip
    assert target.read_bytes() == expected


def test_a_new_layer_above_an_encrypted_parent_holds_what_differs(tmp_path: Path) -> None:
    content = bytearray(border_disk(2 * MIB))
    made(tmp_path, content, LUKS, "base.qcow2")
    content[MIB : MIB + 10] = b"0123456789"
    (tmp_path / "raw").write_bytes(content)
    top = tmp_path / "top.qcow2"
    convert(
        tmp_path / "raw", top, options=AES, backing="base.qcow2", backing_format="qcow2", keys=KEY
    )
    with open_disk(top, sealed=True) as disk:
        assert sum(e.length for e in disk.top.map(0, disk.size) if e.kind == Kind.DATA) == 65536
    assert by_us(top) == content


# Damage


def luks_place(image: Path) -> int:
    with open_storage(image) as storage:
        data = read_header(storage).extension(s.EXT_ENCRYPTION)
    assert data is not None
    return int(s.EncryptionExtension.from_buffer_copy(data).offset)


@pytest.mark.parametrize(
    ("offset", "data", "kind", "says"),
    [
        (0, b"LUKX", FormatError, "there is no LUKS 1 header"),
        (6, b"\0\2", FormatError, "there is no LUKS 1 header"),
        (104, bytes(4), Exception, "lies in another file"),
        (108, b"\xff" * 4, FormatError, "volume key of 4294967295 bytes"),
        (208 + 40, b"\xff" * 4, FormatError, "key slot 0 is said to be"),
        (208, bytes(4), LockedImage, "wrong"),
        (8, b"serpent\0", Exception, "cipher serpent-xts-plain64"),
        (4096, bytes(512), LockedImage, "wrong"),
    ],
)
def test_a_damaged_luks_header_is_one_clear_error(
    tmp_path: Path, offset: int, data: bytes, kind: type[Exception], says: str
) -> None:
    image = made(tmp_path, bytes(MIB), LUKS)
    place = luks_place(image)
    file = bytearray(image.read_bytes())
    file[place + offset : place + offset + len(data)] = data
    image.write_bytes(file)
    with pytest.raises(kind, match=says) as caught:
        open_disk(image, keys=KEY)
    assert "a.qcow2" in str(caught.value)
    with open_disk(image, sealed=True) as disk:  # the tables are as they were
        assert disk.read(0, MIB) == bytes(MIB)


def test_a_luks_header_that_is_cut_off(tmp_path: Path) -> None:
    image = tmp_path / "a.qcow2"
    create(image, MIB, format="qcow2", options=LUKS, keys=KEY)
    file = image.read_bytes()
    with open_storage(image, "rw") as storage:
        data = read_header(storage).extension(s.EXT_ENCRYPTION)
    assert data is not None
    at = file.index(data)
    for offset, length in (
        (1 << 60, 1 << 21),
        (65536, 100),
        (100, 1 << 21),
        (2**64 - 1, 2**64 - 1),
    ):
        moved = offset.to_bytes(8, "big") + length.to_bytes(8, "big")
        image.write_bytes(file[:at] + moved + file[at + 16 :])
        with pytest.raises(FormatError, match=r"a\.qcow2.*LUKS header"):
            open_disk(image, keys=KEY)
