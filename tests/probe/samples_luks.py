"""LUKS volumes to vet: good ones of cryptsetup, QEMU and by hand, and one for each thing that is
wrong.

The bad ones are by hand, with one thing changed. PLACES says where in the file it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
from formats import luks1_by_hand as one
from formats import luks_by_hand as two
from formats.luks1_by_hand import Volume
from probe.making import of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD", "PLACES", "second"]

PLACES: dict[str, int] = {}
"""Where in the file what is wrong with a bad volume is said to be."""
JSON = 4096
# With data enough for what begins in front of it to end in it.
DATA = 1 << 18
VOLUME = Volume(content=DATA)


def _bad(name: str, code: str, place: int | None, build: Callable[[], bytes]) -> Sample:
    if place is not None:
        PLACES[name] = place
    return of_bytes(name, "disk.luks", build, "luks", code)


# Version 1


def _first(
    name: str, code: str, place: int | None, offset: int, value: int | bytes, width: int = 4
) -> Sample:
    def build() -> bytes:
        file = VOLUME.build()
        new = value.to_bytes(width, "big") if isinstance(value, int) else value
        file[offset : offset + len(new)] = new
        return bytes(file)

    return _bad(name if name.startswith("oslo") else f"luks1-{name}", code, place, build)


SLOT, FREE = VOLUME.slot(0), VOLUME.slot(1)

LUKS1 = (
    _first("cipher", "unknown-features", one.CIPHER, one.CIPHER, b"rot13\0"),
    _first("no-cipher", "odd-field", one.CIPHER, one.CIPHER, b"cipher_null\0"),
    _first("mode", "unknown-features", one.CIPHER, one.MODE, b"sideways\0"),
    _first("key-bytes", "impossible-size", one.KEY_BYTES, one.KEY_BYTES, 4096),
    _first("payload", "truncated", one.PAYLOAD, one.PAYLOAD, 1 << 30),
    _first("digest-iterations", "costly-key", one.ITERATIONS, one.ITERATIONS, 1 << 31),
    _first("digest-none", "impossible-size", one.ITERATIONS, one.ITERATIONS, 0),
    _first("oslo-luks-iterations", "costly-key", SLOT + 4, SLOT + 4, 12_000_001),
    _first("slot-iterations-none", "impossible-size", SLOT + 4, SLOT + 4, 0),
    _first("slot-state", "odd-field", FREE, FREE, 1),
    _first("slot-stripes", "impossible-size", SLOT + 44, SLOT + 44, 1 << 30),
    _first("slot-free-stripes", "odd-field", FREE + 44, FREE + 44, 1),
    _first("slot-outside", "table-outside", SLOT + 40, SLOT + 40, 1 << 30),
    _first("slot-over-header", "tables-overlap", SLOT + 40, SLOT + 40, 1),
    _first("slot-over-payload", "tables-overlap", SLOT + 40, SLOT + 40, VOLUME.payload // 512 - 1),
    _first("slots-none", "odd-field", one.SLOTS, SLOT, one.FREE),
    _bad("luks1-slots-overlap", "tables-overlap", FREE + 40, lambda: _slots_overlap()),
)


def _slots_overlap() -> bytes:
    file = VOLUME.build()
    # The second is in use, too, and begins inside the first.
    file[FREE : FREE + 8] = one.ACTIVE.to_bytes(4, "big") + (1000).to_bytes(4, "big")
    file[FREE + 40 : FREE + 44] = (16).to_bytes(4, "big")
    return bytes(file)


# Version 2

Change = Callable[[dict[str, Any]], object]


def second(change: Change | None = None, **more: Any) -> bytes:
    """A volume of version 2 with its JSON changed."""
    file, root = two.volume(bytes(DATA))
    if change is not None:
        change(root)
    file[: 2 * two.HEADER] = two.headers(root, **more)
    return bytes(file)


def _json(name: str, code: str, change: Change, place: int = JSON) -> Sample:
    return _bad(f"luks2-{name}", code, place, lambda: second(change))


def _damaged(name: str, code: str, place: int, offset: int, data: bytes) -> Sample:
    def build() -> bytes:
        file = bytearray(second())
        file[offset : offset + len(data)] = data
        return bytes(file)

    return _bad(f"luks2-{name}", code, place, build)


def _hidden() -> bytes:
    file, root = two.volume(bytes(DATA))
    text = json.dumps(root).encode()
    file[: 2 * two.HEADER] = two.headers(text + b"\0\0more")
    PLACES["luks2-hidden"] = JSON + len(text) + 2
    return bytes(file)


def _slot(**fields: Any) -> Change:
    return lambda root: root["keyslots"]["0"].update(fields)


def _kdf(**fields: Any) -> Change:
    argon = {"type": "argon2id", "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "time": 4, "cpus": 4}
    return lambda root: root["keyslots"]["0"].update({"kdf": argon | fields})


def _area(offset: int) -> Change:
    return lambda root: root["keyslots"]["0"]["area"].update({"offset": str(offset)})


def _segment(**fields: Any) -> Change:
    return lambda root: root["segments"]["0"].update(fields)


def _two_segments(root: dict[str, Any]) -> None:
    root["segments"]["0"]["size"] = "1024"
    root["segments"]["1"] = root["segments"]["0"] | {"offset": str(two.PAYLOAD + 512)}
    root["digests"]["0"]["segments"].append("1")


def _require(*names: str) -> Change:
    return lambda root: root["config"].update({"requirements": {"mandatory": list(names)}})


LUKS2 = (
    _bad("luks-version", "unknown-version", 6, lambda: second()[:6] + b"\0\3" + second()[8:]),
    _damaged("checksum", "checksum-wrong", 448, 100, b"x"),
    _damaged("checksum-second", "checksum-wrong", two.HEADER + 448, two.HEADER + 100, b"x"),
    _damaged("second-gone", "copies-disagree", two.HEADER, two.HEADER, bytes(4096)),
    _damaged("size", "impossible-size", 8, 8, (12345).to_bytes(8, "big")),
    _bad("luks2-cut", "truncated", two.HEADER, lambda: second()[: two.HEADER + 5000]),
    _bad("luks2-older", "copies-disagree", two.HEADER, lambda: second(second_seqid=2)),
    _bad("luks2-hidden", "hidden-data", None, _hidden),
    _json("features", "unknown-features", _require("time-travel")),
    _json("cipher", "unknown-features", _segment(encryption="rot13-xts-plain64")),
    _json("segment-type", "unknown-features", _segment(type="warp")),
    _json("segment-outside", "truncated", _segment(offset=str(1 << 40))),
    _json("segment-over-header", "tables-overlap", _segment(offset="512")),
    _json("segments-overlap", "tables-overlap", _two_segments),
    _json("slot-outside", "table-outside", _area(1 << 40)),
    _json("slot-over-header", "tables-overlap", _area(4096)),
    _json("slot-over-segment", "tables-overlap", _area(two.PAYLOAD - 4096)),
    _json("slot-iterations", "costly-key",
          lambda root: root["keyslots"]["0"]["kdf"].update(iterations=1 << 31)),
    _json("slot-memory", "costly-key", _kdf(memory=8 << 20)),
    _json("slot-passes", "costly-key", _kdf(memory=1 << 20, time=1000)),
    _json("slot-threads", "costly-key", _kdf(memory=1 << 20, cpus=4096)),
    _json("digest-iterations", "costly-key",
          lambda root: root["digests"]["0"].update(iterations=1 << 31)),
    _json("digest-of-nothing", "malformed",
          lambda root: root["digests"]["0"].update(keyslots=["7"])),
    _json("token", "odd-field",
          lambda root: root["tokens"].update({"0": {"type": "../../x", "keyslots": []}})),
    _json("slots-none", "odd-field",
          lambda root: (root["keyslots"].clear(), root["digests"]["0"]["keyslots"].clear())),
)  # fmt: skip

BAD = (*LUKS1, *LUKS2)


def _cryptsetup(name: str, kind: str, *options: str, then: tuple[str, ...] = ()) -> Sample:
    def make(folder: Path) -> Path:
        key, path = folder / "key", folder / "disk.luks"
        key.write_bytes(b"secret")
        # Enough for two headers of version 2; its usual 16 MiB of slots are told to be less.
        path.write_bytes(bytes(4 << 20))
        given = ("-q", "--key-file", str(key))
        peers.run("cryptsetup", *given, "luksFormat", "--type", kind, *options, path)
        if then:
            peers.run("cryptsetup", *given, *then, path)
        key.unlink()
        return path

    return Sample(f"cryptsetup-{name}", make, "luks", peers=("cryptsetup",))


FAST = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
SMALL = ("--luks2-keyslots-size", "1m", *FAST)
ARGON = ("--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64")


def _cipher(cipher: str, bits: int) -> tuple[str, ...]:
    return ("--cipher", cipher, "--key-size", str(bits))


GOOD = (
    _cryptsetup("luks1", "luks1", *FAST),
    _cryptsetup("luks1-essiv", "luks1", *_cipher("aes-cbc-essiv:sha256", 256), *FAST),
    _cryptsetup("luks1-slot-5", "luks1", "--key-slot", "5", "--key-size", "256", *FAST),
    _cryptsetup("luks1-erased", "luks1", "--key-size", "256", *FAST, then=("luksErase",)),
    _cryptsetup("luks2", "luks2", *SMALL),
    _cryptsetup("luks2-argon2id", "luks2", "--luks2-keyslots-size", "1m", *ARGON),
    _cryptsetup("luks2-sectors", "luks2", "--sector-size", "4096", *SMALL),
    _cryptsetup("luks2-label", "luks2", "--label", "disk", "--luks2-metadata-size", "64k", *SMALL),
    _cryptsetup("luks2-token", "luks2", *SMALL, then=("token", "add", "--key-description", "k")),
    of_bytes("by-hand-luks1", "disk.luks", lambda: bytes(VOLUME.build()), "luks"),
    of_bytes(
        "by-hand-luks1-serpent", "disk.luks",
        lambda: bytes(Volume(b"serpent", b"xts-plain64", 64).build()), "luks",
    ),
    of_bytes("by-hand-luks2", "disk.luks", second, "luks"),
    of_bytes(
        "by-hand-luks2-reencrypting", "disk.luks",
        lambda: second(_require("online-reencrypt-v2")), "luks",
    ),
)  # fmt: skip
