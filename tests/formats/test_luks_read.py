"""Reading LUKS volumes that QEMU, cryptsetup and the specification made."""

from __future__ import annotations

import base64
import copy
import random
import subprocess
import sys
from pathlib import Path

import pytest

import luks_by_hand as by_hand
import peers
from luks_by_hand import HEADER, KEY, PASSPHRASE, PAYLOAD, xts
from samples import awkward_disk
from vmimg.disk.extent import Kind
from vmimg.errors import FormatError, LockedImage, OptionError, UnsupportedFeature
from vmimg.formats.detect import identify
from vmimg.formats.info import image_info
from vmimg.formats.luks import keyslots
from vmimg.formats.luks.luks2 import Keyslot
from vmimg.formats.opening import open_disk
from vmimg.storage import open as open_storage
from vmimg.storage.base import Storage
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert

MIB = 1 << 20


def content_of(path: Path, key: bytes = PASSPHRASE) -> bytes:
    with open_disk(path, keys=key) as disk:
        return bytes(disk.read(0, disk.size))


def key_file(folder: Path, key: bytes = PASSPHRASE) -> Path:
    path = folder / "key"
    path.write_bytes(key)
    return path


def cryptsetup(folder: Path, *arguments: str | Path) -> bytes:
    """Its output; the passphrase comes from a file."""
    return peers.run("cryptsetup", "-q", "--key-file", key_file(folder), *arguments).stdout


def by_qemu(folder: Path, raw: Path, **options: str) -> Path:
    """A volume with the content of ``raw``."""
    image = folder / "qemu.luks"
    given = {"key-secret": "s", "iter-time": "100"} | options
    command: list[str | Path] = [
        "convert", "-f", "raw", "-O", "luks",
        "--object", f"secret,id=s,file={key_file(folder)}",
        "-o", ",".join(f"{name}={value}" for name, value in given.items()), raw, image,
    ]  # fmt: skip
    for _ in range(10):
        # On a machine that is busy it measures no CPU time at all, says so, and gives up.
        done = peers.run("qemu-img", *command, ok=(0, 1))
        if not done.returncode:
            return image
        assert b"CPU usage" in done.stderr, done.stderr
    pytest.skip("qemu-img cannot measure the time that a passphrase takes")


def by_hand_file(folder: Path, file: bytes | bytearray) -> Path:
    path = folder / "a.luks"
    path.write_bytes(file)
    return path


# Version 1


@pytest.mark.peer("qemu-img")
def test_what_qemu_encrypted_is_read(tmp_path: Path) -> None:
    content = awkward_disk(2 * MIB + 512)
    raw = tmp_path / "raw"
    raw.write_bytes(content)
    image = by_qemu(tmp_path, raw)
    assert content_of(image) == content
    assert compare(image, raw, keys=PASSPHRASE).identical
    (ours,) = image_info(image)
    theirs = peers.run_json("qemu-img", "info", "--output", "json", image)
    said = ours.to_json()
    assert said["format-specific"] == theirs["format-specific"]
    assert (said["format"], said["virtual-size"], said["encrypted"]) == ("luks", len(content), True)


@pytest.mark.peer("cryptsetup", "pyluksde")
@pytest.mark.parametrize(
    ("cipher", "bits", "digest"),
    [
        ("aes-xts-plain64", 512, "sha256"),
        ("aes-xts-plain64", 256, "sha512"),
        ("aes-cbc-essiv:sha256", 256, "sha1"),
        ("aes-cbc-plain", 128, "sha256"),
    ],
)
def test_a_key_in_any_slot_of_cryptsetup_opens_it(
    tmp_path: Path, cipher: str, bits: int, digest: str
) -> None:
    import pyluksde

    image = tmp_path / "a.luks"
    image.write_bytes(random.Random(1).randbytes(3 * MIB))
    cryptsetup(
        tmp_path, "luksFormat", "--type", "luks1", "--key-slot", "5", "--cipher", cipher,
        "--key-size", str(bits), "--hash", digest, "--pbkdf-force-iterations", "1000", image,
    )  # fmt: skip
    volume = pyluksde.volume()
    volume.set_password(PASSPHRASE.decode())
    with image.open("rb") as file:
        volume.open_file_object(file)
        content = volume.read_buffer_at_offset(volume.size, 0)
    assert content_of(image) == content
    (info,) = image_info(image)
    slots = info.to_json()["format-specific"]["data"]["slots"]
    assert [slot["active"] for slot in slots] == [number == 5 for number in range(8)]


# Version 2


@pytest.mark.peer("cryptsetup")
@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("kdf", ["pbkdf2", "argon2i", "argon2id"])
def test_what_cryptsetup_opens_is_read(tmp_path: Path, kdf: str, sector_size: int) -> None:
    """The content is encrypted here, by the volume key that cryptsetup says."""
    image, content = tmp_path / "a.luks", awkward_disk(64 << 10)
    with image.open("wb") as file:
        file.truncate(16 * MIB + len(content))
    costs = ["--pbkdf-memory", "64"] if kdf != "pbkdf2" else []
    iterations = "4" if costs else "1000"
    cryptsetup(
        tmp_path, "luksFormat", "--type", "luks2", "--pbkdf", kdf, *costs, "--sector-size",
        str(sector_size), "--pbkdf-force-iterations", iterations, "--label", "wine", image,
    )  # fmt: skip
    dump = tmp_path / "volume key"
    cryptsetup(tmp_path, "luksDump", "--dump-volume-key", "--volume-key-file", dump, image)
    with image.open("r+b") as file:
        file.seek(16 * MIB)
        file.write(xts(dump.read_bytes(), content, 0, sector_size))
    assert content_of(image) == content
    (info,) = image_info(image)
    facts = info.to_json()["format-specific"]["data"]
    assert (facts["version"], facts["label"], facts["sector-size"]) == (2, "wine", sector_size)
    assert facts["uuid"] == cryptsetup(tmp_path, "luksUUID", image).decode().strip()
    assert facts["slots"][0]["kdf"] == kdf
    assert info.to_json()["virtual-size"] == len(content)


@pytest.mark.peer("cryptsetup")
def test_what_cryptsetup_encrypted_is_read(tmp_path: Path) -> None:
    image, content = tmp_path / "a.luks", awkward_disk(2 * MIB)
    image.write_bytes(content)
    with image.open("r+b") as file:
        file.truncate(34 * MIB)  # twice 16 MiB behind the data, for the header and to shift by
    reencrypt = (
        "reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M",
        "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
    )  # fmt: skip
    cryptsetup(tmp_path, *reencrypt, image)
    assert content_of(image)[: len(content)] == content


@pytest.mark.peer("cryptsetup")
def test_a_volume_in_the_middle_of_its_encryption_is_described_and_refused(tmp_path: Path) -> None:
    image = tmp_path / "a.luks"
    with image.open("wb") as file:
        file.truncate(34 * MIB)
    cryptsetup(
        tmp_path, "reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M",
        "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--init-only", image,
    )  # fmt: skip
    (info,) = image_info(image)
    assert info.to_json()["format-specific"]["data"]["requirements"] == ["online-reencrypt-v2"]
    with pytest.raises(UnsupportedFeature, match="requires online-reencrypt-v2"):
        open_disk(image, keys=PASSPHRASE)


@pytest.mark.peer("cryptsetup")
def test_volumes_made_by_hand_are_what_cryptsetup_opens(tmp_path: Path) -> None:
    content = awkward_disk(128 << 10)
    file, _ = by_hand.volume(content, sector_size=4096)
    image = by_hand_file(tmp_path, file)
    cryptsetup(tmp_path, "open", "--test-passphrase", image)
    assert content_of(image) == content


def test_sectors_begin_to_count_where_the_segment_says(tmp_path: Path) -> None:
    content = awkward_disk(64 << 10)
    file, root = by_hand.volume(b"", sector_size=4096)
    root["segments"]["0"]["iv_tweak"] = "80"
    file[: 2 * HEADER] = by_hand.headers(root)
    assert content_of(by_hand_file(tmp_path, file + xts(KEY, content, 80, 4096))) == content


def test_several_segments_are_one_disk(tmp_path: Path) -> None:
    content = awkward_disk(96 << 10)
    file, root = by_hand.volume(b"")
    first = root["segments"]["0"]
    # Numbers, not their order as text, say what comes first.
    root["segments"] = {
        "10": first | {"offset": str(PAYLOAD), "iv_tweak": "128"},
        "2": first | {"offset": str(PAYLOAD + 65536), "size": "65536"},
    }
    root["digests"]["0"]["segments"] = ["10", "2"]
    root["segments"]["10"]["size"] = "32768"
    file[: 2 * HEADER] = by_hand.headers(root)
    file += xts(KEY, content[65536:], 128).ljust(65536, b"\0") + xts(KEY, content[:65536], 0)
    image = by_hand_file(tmp_path, file)
    assert content_of(image) == content
    with open_disk(image, keys=PASSPHRASE) as disk:
        assert disk.read(65000, 1000) == content[65000:66000]
    (info,) = image_info(image)
    assert len(info.to_json()["format-specific"]["data"]["segments"]) == 2


def test_the_last_part_of_a_sector_is_not_the_disks(tmp_path: Path) -> None:
    content = awkward_disk(8192)
    file, _ = by_hand.volume(content, sector_size=4096)
    assert content_of(by_hand_file(tmp_path, file + bytes(4095))) == content


# Keys


def test_slots_that_are_preferred_come_first_and_those_to_ignore_do_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = awkward_disk(4096)
    file, root = by_hand.volume(content)
    by_hand.add_slot(root, file, 1, b"preferred", priority=2)
    by_hand.add_slot(root, file, 2, b"ignored", priority=0)
    file[: 2 * HEADER] = by_hand.headers(root)
    image = by_hand_file(tmp_path, file)
    assert content_of(image, b"secret") == content == content_of(image, b"preferred")
    with pytest.raises(LockedImage, match=r"a\.luks: the passphrase or key is wrong"):
        open_disk(image, keys=b"ignored")
    tried: list[str] = []
    original = keyslots._open_slot

    def watched(storage: Storage, slot: Keyslot, key: bytes) -> bytes:
        tried.append(slot.id)
        return original(storage, slot, key)

    monkeypatch.setattr(keyslots, "_open_slot", watched)
    open_disk(image, keys=b"preferred").close()
    assert tried == ["1"]


def test_a_slot_for_another_key_does_not_open_the_volume(tmp_path: Path) -> None:
    file, root = by_hand.volume(bytes(4096))
    by_hand.add_slot(root, file, 1, b"other", key=KEY[::-1])
    file[: 2 * HEADER] = by_hand.headers(root)
    image = by_hand_file(tmp_path, file)
    with pytest.raises(LockedImage, match="wrong"):
        open_disk(image, keys=b"other")
    open_disk(image, keys=PASSPHRASE).close()


def test_a_newline_behind_the_passphrase_does_no_harm(tmp_path: Path) -> None:
    file, _ = by_hand.volume(content := awkward_disk(4096))
    image = by_hand_file(tmp_path, file)
    for key in (b"secret", b"secret\n", b"secret\r\n"):
        assert content_of(image, key) == content
    with pytest.raises(LockedImage):
        open_disk(image, keys=b"secret \n")


def test_without_a_key_it_is_mapped_and_not_read(tmp_path: Path) -> None:
    file, _ = by_hand.volume(bytes(65536))
    image = by_hand_file(tmp_path, file)
    with open_disk(image, sealed=True) as disk:
        assert [(e.start, e.length, e.kind, e.offset) for e in disk.map()] == [
            (0, 65536, Kind.DATA, None)
        ]
        with pytest.raises(LockedImage, match=r"a\.luks: its data is encrypted"):
            disk.read(0, 512)
    with pytest.raises(LockedImage, match=r"a\.luks: is encrypted, and no passphrase"):
        open_disk(image)


def test_the_key_stands_in_no_message(tmp_path: Path) -> None:
    file, _ = by_hand.volume(bytes(4096))
    with pytest.raises(LockedImage) as caught:
        open_disk(by_hand_file(tmp_path, file), keys=b"hunter2")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


def test_a_volume_has_no_snapshots(tmp_path: Path) -> None:
    file, _ = by_hand.volume(bytes(4096))
    with pytest.raises(OptionError, match="no snapshots"):
        open_disk(by_hand_file(tmp_path, file), keys=PASSPHRASE, snapshot="1")


@pytest.mark.parametrize(
    ("kdf", "says"),
    [
        ({"type": "pbkdf2", "hash": "sha256", "iterations": 1 << 28}, "268435456 iterations"),
        ({"type": "argon2id", "time": 4, "memory": (4 << 20) + 1, "cpus": 1}, "4194305 KiB"),
        ({"type": "argon2i", "time": 100, "memory": 1 << 20, "cpus": 1}, "100 passes"),
        ({"type": "argon2id", "time": 4, "memory": 1 << 14, "cpus": 1000}, "1000 threads"),
        ({"type": "pbkdf2", "hash": "md5", "iterations": 1000}, "hash 'md5'"),
        ({"type": "scrypt"}, "'scrypt', which is not supported"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_a_slot_may_cost_is_bounded(tmp_path: Path, kdf: dict[str, object], says: str) -> None:
    file, root = by_hand.volume(bytes(4096))
    salt = base64.b64encode(bytes(32)).decode()
    root["keyslots"]["0"]["kdf"] = {"salt": salt} | kdf
    file[: 2 * HEADER] = by_hand.headers(root)
    with pytest.raises(UnsupportedFeature, match=says):
        open_disk(by_hand_file(tmp_path, file), keys=PASSPHRASE)


@pytest.mark.parametrize(
    ("kdf", "says"), [({"hash": "md5"}, "hash 'md5'"), ({"type": "scrypt"}, "slot 0 .*'scrypt'")]
)
def test_a_slot_that_cannot_be_tried_does_not_keep_the_next_from_it(
    tmp_path: Path, kdf: dict[str, str], says: str
) -> None:
    content = awkward_disk(4096)
    file, root = by_hand.volume(content)
    by_hand.add_slot(root, file, 1, b"second")
    root["keyslots"]["0"]["kdf"] |= kdf
    file[: 2 * HEADER] = by_hand.headers(root)
    image = by_hand_file(tmp_path, file)
    assert content_of(image, b"second") == content
    with pytest.raises(LockedImage, match=rf"a\.luks: .*{says}.*none of the other key slots"):
        open_disk(image, keys=b"third")


# What is damaged, and what is not supported


def test_the_second_header_is_used_where_the_first_is_damaged(tmp_path: Path) -> None:
    content = awkward_disk(4096)
    file, _ = by_hand.volume(content)
    for start, data in (
        (5000, b"?"),
        (0, bytes(512)),
        (450, bytes(10)),
        (0, bytes(4096)),
        (8, (4 << 20).to_bytes(8, "big")),  # a length that it might have
    ):
        damaged = bytearray(file)
        damaged[start : start + len(data)] = data
        image = by_hand_file(tmp_path, damaged)
        with open_disk(image, format="luks", keys=PASSPHRASE) as disk:
            assert disk.read(0, 4096) == content


@pytest.mark.parametrize("newer", [0, 1])
def test_of_two_whole_headers_the_newer_counts(tmp_path: Path, newer: int) -> None:
    content = awkward_disk(8192)
    file, root = by_hand.volume(content)
    old = copy.deepcopy(root)
    old["segments"]["0"]["size"] = "4096"
    for copy_, (said, seqid) in enumerate([(old, 3), (root, 4)][:: -1 if newer == 0 else 1]):
        part = slice(copy_ * HEADER, (copy_ + 1) * HEADER)
        file[part] = by_hand.headers(said, seqid=seqid)[part]
    assert content_of(by_hand_file(tmp_path, file)) == content


def test_two_damaged_headers_are_not_believed(tmp_path: Path) -> None:
    file, _ = by_hand.volume(bytes(4096))
    file[5000] ^= 1
    file[HEADER + 5000] ^= 1
    with pytest.raises(FormatError, match=r"no LUKS 2 header is whole: .*checksum"):
        open_disk(by_hand_file(tmp_path, file), keys=PASSPHRASE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"integrity": {"type": "hmac(sha256)"}}, "integrity"),
        ({"type": "linear"}, "'linear'"),
        ({"encryption": "serpent-xts-plain64"}, "cipher serpent-xts-plain64"),
        ({"encryption": "cipher_null-ecb"}, "cipher cipher_null-ecb"),
        ({"encryption": "capi:xts(aes)-plain64"}, "cipher capi:xts"),
        ({"offset": "0"}, "its data lies in another file"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    file, root = by_hand.volume(bytes(4096))
    root["segments"]["0"] |= change
    file[: 2 * HEADER] = by_hand.headers(root)
    image = by_hand_file(tmp_path, file)
    with pytest.raises(UnsupportedFeature, match=f"a.luks: .*{says}"):
        open_disk(image, keys=PASSPHRASE)
    assert image_info(image)[0].to_json()["format"] == "luks"


def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    file, _ = by_hand.volume(bytes(4096))
    image = by_hand_file(tmp_path, file)
    code = (
        "import sys\n"
        "sys.modules['cryptography'] = None\n"
        "from vmimg.formats.opening import open_disk\n"
        "from vmimg.errors import UnsupportedFeature\n"
        "open_disk(sys.argv[1], sealed=True).close()\n"
        "try: open_disk(sys.argv[1], keys=b'secret')\n"
        "except UnsupportedFeature as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, image], capture_output=True, check=True)
    assert b"pip install 'vmimg[crypt]'" in said.stdout


# Reading


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_reads_begin_and_end_anywhere(tmp_path: Path, sector_size: int) -> None:
    content = awkward_disk(64 << 10)
    file, _ = by_hand.volume(content, sector_size=sector_size)
    dice = random.Random(5)
    with open_disk(by_hand_file(tmp_path, file), keys=PASSPHRASE) as disk:
        for _ in range(200):
            start = dice.randrange(len(content))
            length = dice.randrange(len(content) - start)
            assert disk.read(start, length) == content[start : start + length]


def test_it_converts_to_other_formats(tmp_path: Path) -> None:
    content = awkward_disk(256 << 10)
    file, _ = by_hand.volume(content)
    image = by_hand_file(tmp_path, file)
    convert(image, tmp_path / "raw", format="raw", keys=PASSPHRASE)
    assert (tmp_path / "raw").read_bytes() == content
    convert(image, tmp_path / "a.qcow2", keys=PASSPHRASE)
    assert compare(tmp_path / "a.qcow2", tmp_path / "raw").identical


def test_a_magic_alone_is_no_volume(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"LUKS\xba\xbe\0\3".ljust(4096, b"\0"))
    with open_storage(path) as storage:
        assert identify(storage).name == "raw"


@pytest.mark.parametrize("version", [1, 2])
def test_a_disk_in_another_format_may_hold_a_volume(tmp_path: Path, version: int) -> None:
    """What is on a raw disk does not make the image that it lies in one of LUKS."""
    raw, image = tmp_path / "raw", tmp_path / "a.vhd"
    raw.write_bytes(b"LUKS\xba\xbe\0" + bytes([version]) + bytes(MIB - 8))
    convert(raw, image, source_format="raw", options={"subformat": "fixed"})
    for path, expected in ((raw, "luks"), (image, "vhd")):
        with open_storage(path) as storage:
            assert identify(storage).name == expected
