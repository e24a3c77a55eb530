"""check of LUKS volumes, and what malformed ones may do: raise one clear error, at once."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_luks_read import by_hand_file, content_of, cryptsetup

import luks_by_hand as by_hand
from damaged import Outcome, missed, objections, put_through
from luks_by_hand import HEADER, PASSPHRASE, PAYLOAD
from rounds import rounds
from samples import awkward_disk
from vmimg.formats.checking import check
from vmimg.transfer.create import create

CONTENT = 256 << 10

# check


def test_a_sound_volume_has_nothing_wrong(tmp_path: Path) -> None:
    file, _ = by_hand.volume(bytes(4096))
    report = check(by_hand_file(tmp_path, file))
    assert (report.exit_code, report.problems) == (0, [])


@pytest.mark.peer("cryptsetup")
@pytest.mark.parametrize("broken", [0, 1])
def test_repair_writes_the_damaged_header_anew(tmp_path: Path, broken: int) -> None:
    content = awkward_disk(4096)
    file, _ = by_hand.volume(content)
    file[broken * HEADER + 5000] ^= 1
    image = by_hand_file(tmp_path, file)
    report = check(image)
    assert (report.exit_code, report.corruptions) == (2, 1)
    assert report.problems == [f"the header at {broken * HEADER} does not have its checksum"]
    assert image.read_bytes() == file
    report = check(image, repair="all")
    assert (report.exit_code, report.fixed_corruptions, report.corruptions) == (0, 1, 0)
    assert check(image).problems == []
    # Now the copy that was sound may go.
    mended = bytearray(image.read_bytes())
    mended[(1 - broken) * HEADER + 5000] ^= 1
    image.write_bytes(mended)
    assert content_of(image) == content
    cryptsetup(tmp_path, "open", "--test-passphrase", image)


def test_an_older_header_is_reported(tmp_path: Path) -> None:
    file, root = by_hand.volume(bytes(4096))
    file[: 2 * HEADER] = by_hand.headers(root, seqid=5, second_seqid=4)
    report = check(by_hand_file(tmp_path, file))
    assert report.problems == ["the second header is older than the other one"]


def test_slots_that_share_their_place_are_reported(tmp_path: Path) -> None:
    file, root = by_hand.volume(bytes(4096))
    by_hand.add_slot(root, file, 1)
    root["keyslots"]["1"]["area"]["offset"] = str(2 * HEADER + 4096)
    file[: 2 * HEADER] = by_hand.headers(root)
    report = check(by_hand_file(tmp_path, file))
    assert report.problems == ["key slots 0 and 1 lie over each other at 36864"]

    image = tmp_path / "first.luks"
    create(image, 1 << 20, format="luks", options={"iter-time": 1}, keys=PASSPHRASE)
    first = bytearray(image.read_bytes())
    first[208 + 48 : 208 + 96] = first[208 : 208 + 48]
    image.write_bytes(first)
    report = check(image)
    assert report.problems == ["key slots 0 and 1 lie over each other at 4096"]


# Malformed


Change = Callable[[bytearray], None]
Edit = Callable[[dict[str, Any]], object]

OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ALL
    version: int = 1


def put(offset: int, *values: int) -> Change:
    return lambda file: struct.pack_into(f">{len(values)}I", file, offset, *values)


def text(offset: int, data: bytes) -> Change:
    def change(file: bytearray) -> None:
        file[offset : offset + len(data)] = data

    return change


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def said(edit: Edit) -> Change:
    """The JSON edited, the checksums right."""

    def change(file: bytearray) -> None:
        root = json.loads(bytes(file[4096:HEADER]).rstrip(b"\0"))
        edit(root)
        file[: 2 * HEADER] = by_hand.headers(root)

    return change


def without(kind: str) -> Edit:
    return lambda root: root.pop(kind)


def listed(kind: str) -> Edit:
    return lambda root: root.update({kind: []})


def written(json_text: bytes) -> Change:
    def change(file: bytearray) -> None:
        file[: 2 * HEADER] = by_hand.headers(json_text)

    return change


def both(offset: int, data: bytes) -> Change:
    """In both headers, whose checksums are wrong then."""

    def change(file: bytearray) -> None:
        for start in (0, HEADER):
            file[start + offset : start + offset + len(data)] = data

    return change


def slot(**more: object) -> Change:
    return said(lambda root: root["keyslots"]["0"].update(more))


def area(**more: object) -> Change:
    return said(lambda root: root["keyslots"]["0"]["area"].update(more))


def segment(**more: object) -> Change:
    return said(lambda root: root["segments"]["0"].update(more))


def digest(**more: object) -> Change:
    return said(lambda root: root["digests"]["0"].update(more))


SLOT = 208
PAYLOAD_OFFSET, KEY_BYTES, DIGEST_ITERATIONS = 104, 108, 164

CASES = [
    # Version 1
    Case("empty", cut(0), "", ()),
    Case("the magic only", cut(6), "", ()),
    Case("half a header", cut(300), "no LUKS 1 header"),
    Case("a header only", cut(592), "slot 0 is said to be"),
    Case("half of the key material", cut(100000), "slot 0 is said to be"),
    Case("no payload", cut(2068480), "", ()),
    Case("the payload behind the end", cut(2068000), "said to be at 2068480"),
    Case("half a sector", cut(2068480 + 300), "", ()),
    Case("payload at 0", put(PAYLOAD_OFFSET, 0), "lies in another file"),
    Case("payload over the slots", put(PAYLOAD_OFFSET, 100), "not between"),
    Case("payload at 2^41", put(PAYLOAD_OFFSET, 2**32 - 1), "said to be at"),
    *(
        Case(f"a key of {n} bytes", put(KEY_BYTES, n), f"key of {n} bytes")
        for n in (0, 15, 65, 2**32 - 1)
    ),
    Case("a key that the cipher has not", put(KEY_BYTES, 40), "no key of 40 bytes", OPENING),
    Case("no iterations of the digest", put(DIGEST_ITERATIONS, 0), "no iterations"),
    Case("too many for the digest", put(DIGEST_ITERATIONS, 2**32 - 1), "4294967295", OPENING),
    Case("no iterations", put(SLOT + 4, 0), "slot 0 has no iterations"),
    Case("too many iterations", put(SLOT + 4, 2**32 - 1), "4294967295 iterations", OPENING),
    Case("a slot over the header", put(SLOT + 40, 0), "slot 0 is said to be at 0"),
    Case("a slot behind the end", put(SLOT + 40, 2**32 - 1), "slot 0 is said to be"),
    Case("a slot in the payload", put(SLOT + 40, 4040), "slot 0 is said to be"),
    Case("no stripes", put(SLOT + 44, 0), "0 stripes"),
    Case("2^32-1 stripes", put(SLOT + 44, 2**32 - 1), "stripes"),
    Case("another number of stripes", put(SLOT + 44, 3999), "wrong", OPENING),
    Case("all slots unused", put(SLOT, 0xDEAD), "wrong", OPENING),
    Case("another salt", put(SLOT + 8, 1, 2, 3), "wrong", OPENING),
    Case("another digest", put(112, 1, 2, 3), "wrong", OPENING),
    Case("a cipher that is no text", text(8, b"\xff" * 32), "is not supported", OPENING),
    Case("no cipher", text(8, bytes(32)), "is not supported", OPENING),
    Case("a mode that is no text", text(40, b"\n" * 32), "is not supported", OPENING),
    Case("a hash that is no text", text(72, b"\xfe" * 32), "hash", OPENING),
    Case("no hash", text(72, bytes(32)), "hash", OPENING),
    Case("a UUID that is no text", text(168, b"\xff" * 40), "", ()),
    # Version 2: the binary header
    Case("version 2 cut off", cut(4000), "no LUKS 2 header is whole", version=2),
    Case("one header", cut(HEADER), "truncated", version=2),
    Case("headers only", cut(2 * HEADER), "", ALL, version=2),
    Case("key material cut off", cut(2 * HEADER + 5000), "", ALL, version=2),
    Case("no data", cut(PAYLOAD), "", (), version=2),
    Case("header size 0", both(8, bytes(8)), "takes 0 bytes", version=2),
    Case("header size 2^64-1", both(8, b"\xff" * 8), "takes 18446744073709551615", version=2),
    Case("header size 4 MiB", both(8, (4 << 20).to_bytes(8, "big")), "whole", version=2),
    Case("no checksum", both(448, bytes(32)), "checksum", version=2),
    Case("an unknown checksum", both(72, b"crc32\0\0"), "unknown kind", version=2),
    # JSON
    Case("no JSON", written(b""), "JSON", version=2),
    Case("no object", written(b"[]"), "an object is missing", version=2),
    Case("empty object", written(b"{}"), "config is missing", version=2),
    Case("half of it", written(b'{"config": {'), "JSON", version=2),
    Case("a deep one", written(b"[" * 12000), "JSON", version=2),
    Case("no UTF-8", written(b'{"\xff": 1}'), "JSON", version=2),
    Case("a key twice", written(b'{"config": {}, "config": {}}'), "same key twice", version=2),
    Case("no number", written(b'{"config": NaN}'), "no number", version=2),
    Case("a float", written(b'{"config": 1e400}'), "no number", version=2),
    Case("a number of 5000 digits", written(b'{"a":' + b"9" * 5000 + b"}"), "JSON", version=2),
    *(
        Case(f"no {kind}", said(without(kind)), "is missing", version=2)
        for kind in ("config", "keyslots", "segments", "digests", "tokens")
    ),
    *(
        Case(f"{kind} as a list", said(listed(kind)), "is missing", version=2)
        for kind in ("config", "keyslots", "segments", "digests", "tokens")
    ),
    Case("too many tokens", said(lambda root: root["tokens"].update(
        {str(n): {} for n in range(1000)})), "1000 tokens", version=2),
    Case("a slot without a number", said(lambda root: root["keyslots"].update(x={})), "number",
         version=2),
    Case("a slot with a long number", said(lambda root: root["keyslots"].update({"9" * 99: {}})),
         "number", version=2),
    Case("no segment", said(lambda root: root["segments"].clear()), "no segment", version=2),
    Case("segments that nobody speaks for", digest(segments=[]), "0 digests", version=2),
    Case("a digest's slots as text", digest(keyslots="00"), "no list", version=2),
    Case("a digest without slots", digest(keyslots=[]), "wrong", OPENING, version=2),
    Case("a digest that is empty", digest(digest=""), "empty", version=2),
    Case("a digest that is no base64", digest(digest="!!!!"), "base64", version=2),
    Case("a digest of 2^33 iterations", digest(iterations=2**33), "iterations", version=2),
    Case("a digest of 2^31 iterations", digest(iterations=2**31), "iterations", OPENING, version=2),
    Case("a digest by something else", digest(type="x"), "'x' are not supported", OPENING,
         version=2),
    Case("a slot's key of 0 bytes", slot(key_size=0), "slot 0 has", version=2),
    Case("a slot's key of 2^40 bytes", slot(key_size=2**40), "key_size", version=2),
    Case("a key size as text", slot(key_size="64"), "key_size", version=2),
    Case("a key size that is true", slot(key_size=True), "key_size", version=2),
    Case("a slot's key that the cipher has not", slot(key_size=40), "wrong", OPENING, version=2),
    Case("2^24 stripes", slot(af={"type": "luks1", "stripes": 2**24, "hash": "sha256"}),
         "slot 0 has", version=2),
    Case("no stripes", slot(af={"type": "luks1", "stripes": 0, "hash": "sha256"}), "slot 0 has",
         version=2),
    Case("another splitter", slot(af={"type": "x"}), "'x'", OPENING, version=2),
    Case("a long hash", slot(af={"type": "luks1", "stripes": 9, "hash": "x" * 99}), "hash",
         version=2),
    Case("an area over the headers", area(offset="0"), "slot 0 is said to be", version=2),
    Case("an area in the data", area(offset=str(PAYLOAD - 4096)), "slot 0 is said", version=2),
    Case("an area at 2^63-1", area(offset=str(2**63 - 1)), "slot 0 is said to be", version=2),
    Case("an area at 2^64", area(offset=str(2**64)), "too large", version=2),
    Case("an area at -1", area(offset="-1"), "no number", version=2),
    Case("an area at a number that JSON can say", area(offset=32768), "no number", version=2),
    Case("an area that is too small", area(size="4096"), "in an area of 4096", version=2),
    Case("an area's key of 1 byte", area(key_size=1), "no key of 1 bytes", OPENING, version=2),
    Case("an area's cipher", area(encryption="x" * 60), "is not supported", OPENING, version=2),
    Case("a kdf without salt", slot(kdf={"type": "pbkdf2", "hash": "sha1", "iterations": 9}),
         "salt", version=2),
    Case("a segment over the headers", segment(offset="4096"), "is not possible", version=2),
    Case("a segment behind the end", segment(offset=str(2**62)), "", ALL, version=2),
    Case("a segment that is cut off", segment(size=str(2**40)), "truncated", version=2),
    Case("a segment of half a sector", segment(size="700"), "is not possible", version=2),
    Case("a segment off the sectors", segment(offset=str(PAYLOAD + 9)), "not possible", version=2),
    *(Case(f"sectors of {n}", segment(sector_size=n), "sector", version=2)
      for n in (0, 1, 500, 8192, 2**31)),
    Case("a tweak of 2^63", segment(iv_tweak=str(2**63)), "too large", version=2),
    Case("a tweak of 2^63-1", segment(iv_tweak=str(2**63 - 1)), "", (), version=2),
    Case(
        "a tweak inside a sector",
        segment(iv_tweak="7", sector_size=4096),
        "inside a sector",
        version=2,
    ),
    Case("flags as a number", segment(flags=7), "no list", version=2),
    Case("a requirement", said(lambda root: root["config"].update(
        requirements={"mandatory": ["magic"]})), "requires magic", OPENING, version=2),
    Case("requirements as a list", said(lambda root: root["config"].update(requirements=["x"])),
         "missing", version=2),
]  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """A sound volume of each version."""
    image = tmp_path_factory.mktemp("base") / "a.luks"
    create(image, CONTENT, format="luks", options={"iter-time": 1}, keys=PASSPHRASE)
    second, _ = by_hand.volume(bytes(CONTENT), sector_size=512)
    return {1: image.read_bytes(), 2: bytes(second)}


@pytest.fixture(scope="module")
def outcomes(
    bases: dict[int, bytes], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Outcome, Path]]:
    folder = tmp_path_factory.mktemp("malformed")
    images = []
    for number, case in enumerate(CASES):
        file = bytearray(bases[case.version])
        case.change(file)
        images.append(folder / f"{number:03}.luks")
        images[-1].write_bytes(file)
    found = put_through(folder, images)
    return {case.name + str(case.version): (found[image.name], image)
            for case, image in zip(CASES, images, strict=True)}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.version} {case.name}")
def test_a_malformed_volume_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Outcome, Path]]
) -> None:
    outcome, path = outcomes[case.name + str(case.version)]
    wrong = [*objections(outcome, path), *missed(outcome, case.steps, case.says)]
    assert not wrong, "\n".join(wrong)


def test_volumes_with_random_damage_do_no_harm(bases: dict[int, bytes], tmp_path: Path) -> None:
    dice = random.Random(11)
    images = []
    for number in range(rounds(60)):
        version = 1 + number % 2
        file = bytearray(bases[version])
        if version == 1:
            for _ in range(dice.randrange(1, 4)):
                # Not the iterations: an honest volume may ask for a minute of work.
                place = dice.choice([*range(8, 164), *range(168, 212), *range(248, 592)])
                file[place] = dice.randrange(256)
        else:
            said_text = bytearray(bytes(file[4096:HEADER]).rstrip(b"\0"))
            for _ in range(dice.randrange(1, 4)):
                place = dice.randrange(len(said_text))
                if b'"iterations"' not in said_text[max(0, place - 20) : place + 20]:
                    said_text[place] = dice.choice(b'0129{}[]",:aX\xff')
            file[: 2 * HEADER] = by_hand.headers(bytes(said_text))
        images.append(tmp_path / f"random{number}.luks")
        images[-1].write_bytes(file)
    for name, outcome in put_through(tmp_path, images).items():
        wrong = list(objections(outcome, tmp_path / name))
        assert not wrong, (name, wrong)
