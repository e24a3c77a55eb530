"""The headers of LUKS 2: found, verified, parsed, checked and described. No numpy.

::

    0 binary header | 4096 JSON | hdr_size: the same again | key material | segments

The header is there twice, each with a checksum and a number that grows; where one is damaged, or
older, the other counts. The JSON holds objects by number: key slots, segments of encrypted data,
digests that say which slot gives the key of which segment. Spec: LUKS2 on-disk format 1.1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.luks import structures as s
from vmimg.formats.luks.luks1 import MAX_MATERIAL
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = [
    "Argon2",
    "Digest",
    "HeaderCopy",
    "Keyslot",
    "Luks2",
    "Pbkdf2",
    "Segment",
    "find_headers",
    "read_luks2",
]

_MAX_OBJECTS: Final = 32  # of each kind, as cryptsetup allows
_MAX_KEY_BYTES: Final = 512
_MAX_SALT_BYTES: Final = 1024
_PRIORITY_NORMAL: Final = 1


@dataclass(frozen=True, slots=True)
class Pbkdf2:
    """``length``: bytes of what comes out where the header says it; 0 where the user does."""

    hash: str
    iterations: int
    salt: bytes
    length: int = 0


@dataclass(frozen=True, slots=True)
class Argon2:
    """``kind``: "argon2i" or "argon2id"; ``memory`` in KiB, ``time`` passes over it by ``cpus``."""

    kind: str
    time: int
    memory: int
    cpus: int
    salt: bytes


@dataclass(frozen=True, slots=True)
class Keyslot:
    """A slot of type luks2. ``priority``: 0 is used by those only who ask for it, 2 is tried
    first.
    """

    id: str
    key_bytes: int
    priority: int
    stripes: int
    af_hash: str
    offset: int
    size: int
    encryption: str
    area_key_bytes: int
    kdf: Pbkdf2 | Argon2

    @property
    def material_bytes(self) -> int:
        """Bytes of the key material, in whole sectors."""
        return align_up(self.key_bytes * self.stripes, s.SECTOR)


@dataclass(frozen=True, slots=True)
class Digest:
    """``value`` is what ``kdf`` makes of the volume key of the ``segments``."""

    kdf: Pbkdf2
    value: bytes
    keyslots: frozenset[str]
    segments: frozenset[str]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of encrypted data; bytes. ``size`` None: up to the end of the file. ``iv_tweak``:
    the number of its first sector, in units of 512 bytes.
    """

    id: str
    offset: int
    size: int | None
    iv_tweak: int
    encryption: str
    sector_size: int
    digest: str

    def length(self, storage: Storage) -> int:
        """Its bytes in ``storage``: whole sectors."""
        size = storage.size - self.offset if self.size is None else self.size
        return size // self.sector_size * self.sector_size


@dataclass(frozen=True, slots=True)
class Luks2:
    """What the header says; ``segments`` in the order of the disk. ``refusal``: why the data is not
    to be touched, "" where it may be; then the other fields may be empty.
    """

    uuid: str
    label: str
    subsystem: str
    seqid: int
    segments: tuple[Segment, ...] = ()
    keyslots: Mapping[str, Keyslot] = field(default_factory=dict)
    digests: Mapping[str, Digest] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Why the key slots that are not among ``keyslots`` cannot be tried."""
    refusal: str = ""

    def ready(self, name: str) -> Luks2:
        """Itself. Raises UnsupportedFeature, in the name of the image, where there is a refusal."""
        if self.refusal:
            raise UnsupportedFeature(f"{name}: {self.refusal}")
        return self

    def size(self, storage: Storage) -> int:
        """Virtual bytes."""
        return sum(segment.length(storage) for segment in self.segments)

    def describe(self) -> dict[str, Any]:
        """Facts for `info`; offsets and sizes in bytes."""
        facts: dict[str, Any] = {"version": 2, "uuid": self.uuid}
        facts |= {"label": self.label} if self.label else {}
        facts |= {"subsystem": self.subsystem} if self.subsystem else {}
        if self.segments:
            facts |= {
                "cipher": self.segments[0].encryption,
                "sector-size": self.segments[0].sector_size,
                "payload-offset": self.segments[0].offset,
            }
        if len(self.segments) > 1:
            facts["segments"] = [
                {
                    "offset": segment.offset,
                    "size": segment.size if segment.size is not None else "dynamic",
                    "cipher": segment.encryption,
                    "sector-size": segment.sector_size,
                }
                for segment in self.segments
            ]
        facts["slots"] = [_describe_slot(slot) for slot in self.keyslots.values()]
        for key, names in (
            ("tokens", self.tokens),
            ("flags", self.flags),
            ("requirements", self.requirements),
        ):
            facts |= {key: list(names)} if names else {}
        return facts


@dataclass(slots=True)
class HeaderCopy:
    """One of the two headers: ``problem`` says what is wrong with it, "" nothing."""

    offset: int
    raw: s.Luks2Header | None = None
    json: bytes = b""
    problem: str = ""


def read_luks2(storage: Storage) -> Luks2:
    """The newer of the two headers that is whole. Raises FormatError where none is, or where what
    it says cannot be.
    """
    copies = [copy for copy in find_headers(storage) if not copy.problem]
    if not copies:
        first = find_headers(storage)[0]
        raise FormatError(f"{storage.name}: no LUKS 2 header is whole: {first.problem}")
    best = max(copies, key=lambda copy: copy.raw.seqid if copy.raw is not None else 0)
    assert best.raw is not None
    return _parse(storage, best.raw, best.json)


def find_headers(storage: Storage) -> list[HeaderCopy]:
    """The first header and the second, each with what is wrong with it.

    Where the first is damaged, the second is looked for wherever it may be.
    """
    first = _read_copy(storage, 0, s.MAGIC)
    if first.raw is not None and not first.problem:
        return [first, _read_copy(storage, int(first.raw.hdr_size), s.SECOND_MAGIC)]
    second = HeaderCopy(s.LUKS2_HEADER_SIZES[0], problem="there is no second header")
    for offset in s.LUKS2_HEADER_SIZES:
        found = _read_copy(storage, offset, s.SECOND_MAGIC)
        if not found.problem:
            return [first, found]
        if found.raw is not None:
            second = found
    return [first, second]


def _read_copy(storage: Storage, offset: int, magic: bytes) -> HeaderCopy:
    """``raw`` is None where not even its size can be believed."""
    copy = HeaderCopy(offset)
    if offset + s.JSON_OFFSET > storage.size:
        copy.problem = f"the file ends in front of the header at {offset}"
        return copy
    binary = storage.read(offset, s.JSON_OFFSET)
    raw = s.Luks2Header.from_buffer_copy(binary)
    if binary[:6] != magic or raw.version != 2 or raw.hdr_offset != offset:
        copy.problem = f"there is no header at {offset}"
        return copy
    if raw.hdr_size not in s.LUKS2_HEADER_SIZES or offset not in (0, raw.hdr_size):
        copy.problem = f"the header at {offset} says that it takes {raw.hdr_size} bytes"
        return copy
    copy.raw = raw
    if offset + raw.hdr_size > storage.size:
        copy.problem = f"the file ends inside the header at {offset}"
        return copy
    copy.json = storage.read(offset + s.JSON_OFFSET, raw.hdr_size - s.JSON_OFFSET)
    made = checksum(raw, binary, copy.json)
    if made is None:
        copy.problem = f"the header at {offset} has a checksum of an unknown kind"
    elif made != bytes(raw.csum)[: len(made)]:
        copy.problem = f"the header at {offset} does not have its checksum"
    return copy


def checksum(raw: s.Luks2Header, binary: bytes, text: bytes) -> bytes | None:
    """What ``raw.csum`` begins with when all is well; None where the kind is unknown."""
    kind = raw.checksum_alg.decode("ascii", "replace")
    if kind not in ("sha1", "sha256", "sha512"):
        return None
    start = s.Luks2Header.csum.offset
    end = start + s.Luks2Header.csum.size
    return hashlib.new(kind, binary[:start] + bytes(end - start) + binary[end:] + text).digest()


# JSON: what an object must have is asked for by name, and what it says is checked


def _parse(storage: Storage, raw: s.Luks2Header, text: bytes) -> Luks2:
    name = storage.name
    try:
        root = json.loads(
            text.split(b"\0", 1)[0].decode(),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=_no_constant,
        )
        return _Reader(storage, 2 * int(raw.hdr_size)).header(raw, root)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name}: the JSON of its LUKS 2 header: {error}") from None
    except FormatError as error:
        raise FormatError(f"{name}: the JSON of its LUKS 2 header: {error}") from None


@dataclass(slots=True)
class _Reader:
    """Makes dataclasses of JSON. ``reserved``: bytes that the headers take."""

    storage: Storage
    reserved: int
    payload: int = field(default=0)
    """Where the first segment begins."""

    def header(self, raw: s.Luks2Header, root: object) -> Luks2:
        config = _mapping(root, "config")
        requirements: tuple[str, ...] = ()
        if "requirements" in config:
            requirements = _names(_mapping(config, "requirements"), "mandatory")
        header = Luks2(
            uuid=s.plain_text(raw.uuid),
            label=s.plain_text(raw.label),
            subsystem=s.plain_text(raw.subsystem),
            seqid=int(raw.seqid),
            flags=_names(config, "flags") if "flags" in config else (),
            requirements=requirements,
            tokens=tuple(
                _string(_mapping(token), "type") for token in _objects(root, "tokens").values()
            ),
        )
        if requirements:
            names = ", ".join(requirements)
            header = replace(
                header, refusal=f"its LUKS 2 header requires {names}, which is not supported"
            )
        try:
            digests = {key: _digest(value) for key, value in _objects(root, "digests").items()}
            segments = self._segments(root, digests)
            self.payload = min((segment.offset for segment in segments), default=0)
        except UnsupportedFeature as error:
            return replace(header, refusal=header.refusal or str(error))
        keyslots, skipped = self._keyslots(root)
        return replace(
            header, segments=segments, keyslots=keyslots, digests=digests, skipped=skipped
        )

    def _keyslots(self, root: object) -> tuple[dict[str, Keyslot], tuple[str, ...]]:
        found: dict[str, Keyslot] = {}
        skipped: list[str] = []
        for key, value in _in_order(_objects(root, "keyslots")):
            if _mapping(value).get("type") == "luks2":
                try:
                    found[key] = self._keyslot(key, value)
                except UnsupportedFeature as error:
                    skipped.append(str(error))
        return found, tuple(skipped)

    def _segments(self, root: object, digests: Mapping[str, Digest]) -> tuple[Segment, ...]:
        found: list[Segment] = []
        for key, value in _in_order(_objects(root, "segments")):
            segment = _mapping(value)
            flags = _names(segment, "flags") if "flags" in segment else ()
            if any(flag.startswith("backup-") for flag in flags):
                continue  # what a re-encryption began with
            found.append(self._segment(key, segment, digests))
        if not found:
            raise FormatError("there is no segment of data")
        for one in found[:-1]:
            if one.size is None:
                raise FormatError(f"segment {one.id} goes on up to the end of the file")
        return tuple(found)

    def _segment(
        self, key: str, segment: Mapping[str, Any], digests: Mapping[str, Digest]
    ) -> Segment:
        kind = segment.get("type")
        if kind != "crypt":
            raise UnsupportedFeature(f"LUKS 2 segments of type {kind!r} are not supported")
        if "integrity" in segment:
            raise UnsupportedFeature("LUKS 2 with integrity protection is not supported")
        offset = _long(segment, "offset")
        size = None if segment.get("size") == "dynamic" else _long(segment, "size")
        sector = _integer(segment, "sector_size", max(s.SECTOR_SIZES))
        if sector not in s.SECTOR_SIZES:
            raise FormatError(f"segment {key} has sectors of {sector} bytes")
        if not offset:
            raise UnsupportedFeature(
                "is a LUKS header by itself, its data lies in another file; that is not supported"
            )
        if offset < self.reserved or offset % s.SECTOR or (size or 0) % sector:
            raise FormatError(f"segment {key} at {offset} of {size} bytes is not possible")
        if offset + (size or 0) > self.storage.size:
            raise FormatError(
                f"segment {key} at {offset} lies behind the end of the file "
                f"({self.storage.size}): it is truncated or damaged"
            )
        tweak = _long(segment, "iv_tweak")
        if tweak * s.SECTOR % sector:
            raise FormatError(f"segment {key} begins to count inside a sector, at {tweak}")
        owners = [name for name, digest in digests.items() if key in digest.segments]
        if len(owners) != 1:
            raise FormatError(f"{len(owners)} digests speak for segment {key}")
        return Segment(
            key,
            offset,
            size,
            tweak,
            _string(segment, "encryption"),
            sector,
            owners[0],
        )

    def _keyslot(self, key: str, value: object) -> Keyslot:
        slot = _mapping(value)
        split, area = _mapping(slot, "af"), _mapping(slot, "area")
        if split.get("type") != "luks1" or area.get("type") != "raw":
            raise UnsupportedFeature(
                f"key slot {key} keeps its key as {split.get('type')!r} in {area.get('type')!r}, "
                "which is not supported"
            )
        found = Keyslot(
            id=key,
            key_bytes=_integer(slot, "key_size", _MAX_KEY_BYTES),
            priority=_integer(slot, "priority", 2) if "priority" in slot else _PRIORITY_NORMAL,
            stripes=_integer(split, "stripes", MAX_MATERIAL),
            af_hash=_string(split, "hash"),
            offset=_long(area, "offset"),
            size=_long(area, "size"),
            encryption=_string(area, "encryption"),
            area_key_bytes=_integer(area, "key_size", _MAX_KEY_BYTES),
            kdf=_kdf(key, _mapping(slot, "kdf")),
        )
        end = found.offset + found.size
        if found.offset < self.reserved or end > min(self.payload, self.storage.size):
            raise FormatError(
                f"key slot {key} is said to be at {found.offset}, {found.size} bytes: that is not "
                f"between the headers and the data at {self.payload}"
            )
        material = found.material_bytes
        if not 0 < material <= min(found.size, MAX_MATERIAL) or not found.area_key_bytes:
            raise FormatError(
                f"key slot {key} has {found.stripes} stripes of {found.key_bytes} bytes "
                f"in an area of {found.size}"
            )
        return found


def _kdf(number: str, kdf: Mapping[str, Any]) -> Pbkdf2 | Argon2:
    kind = kdf.get("type")
    if kind == "pbkdf2":
        return Pbkdf2(
            _string(kdf, "hash"), _integer(kdf, "iterations", 1 << 32, 1), _bytes(kdf, "salt")
        )
    if kind in ("argon2i", "argon2id"):
        cpus = _integer(kdf, "cpus", 1 << 24, 1)
        memory = _integer(kdf, "memory", 1 << 32, 8 * cpus)
        salt = _bytes(kdf, "salt")
        if len(salt) < 8:
            raise FormatError(f"key slot {number} has a salt of {len(salt)} bytes")
        return Argon2(str(kind), _integer(kdf, "time", 1 << 32, 1), memory, cpus, salt)
    raise UnsupportedFeature(f"key slot {number} makes its key by {kind!r}, which is not supported")


def _digest(value: object) -> Digest:
    digest = _mapping(value)
    if digest.get("type") != "pbkdf2":
        raise UnsupportedFeature(f"digests of type {digest.get('type')!r} are not supported")
    made = _bytes(digest, "digest")
    if not made:
        raise FormatError("a digest is empty")
    kdf = Pbkdf2(
        _string(digest, "hash"),
        _integer(digest, "iterations", 1 << 32, 1),
        _bytes(digest, "salt"),
        len(made),
    )
    return Digest(
        kdf, made, frozenset(_names(digest, "keyslots")), frozenset(_names(digest, "segments"))
    )


def _describe_slot(slot: Keyslot) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "slot": int(slot.id),
        "key-bits": slot.key_bytes * 8,
        "key-offset": slot.offset,
        "stripes": slot.stripes,
        "cipher": slot.encryption,
    }
    if slot.priority != _PRIORITY_NORMAL:
        facts["priority"] = "prefer" if slot.priority else "ignore"
    if isinstance(slot.kdf, Argon2):
        kdf = slot.kdf
        facts |= {"kdf": kdf.kind, "time": kdf.time, "memory-kib": kdf.memory, "cpus": kdf.cpus}
    else:
        facts |= {"kdf": "pbkdf2", "hash": slot.kdf.hash, "iters": slot.kdf.iterations}
    return facts


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("an object has the same key twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise FormatError(f"{text[:20]} is no number that it can have")


def _mapping(value: object, key: str | None = None) -> Mapping[str, Any]:
    if key is not None:
        value = _mapping(value).get(key)
    if not isinstance(value, dict):
        raise FormatError(f"{key or 'an object'} is missing")
    return value


def _objects(root: object, kind: str) -> Mapping[str, Any]:
    """The numbered objects of a kind, by number as text."""
    found = _mapping(root, kind)
    if len(found) > _MAX_OBJECTS:
        raise FormatError(f"there are {len(found)} {kind}; {_MAX_OBJECTS} are allowed")
    for key in found:
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise FormatError(f"{kind} are numbered, and {key[:20]!r} is no number")
    return found


def _in_order(objects: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(objects.items(), key=lambda item: int(item[0]))


def _string(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text.isprintable() or len(text) > 64:
        raise FormatError(f"{key} is missing, or no name")
    return text


def _names(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = value.get(key, [])
    if (
        not isinstance(names, list)
        or len(names) > _MAX_OBJECTS
        or not all(isinstance(n, str) and n.isprintable() and len(n) <= 64 for n in names)
    ):
        raise FormatError(f"{key} is no list of names")
    return tuple(names)


def _integer(value: Mapping[str, Any], key: str, most: int, least: int = 0) -> int:
    number = value.get(key)
    if type(number) is not int or not least <= number <= most:
        raise FormatError(f"{key} is missing, or not between {least} and {most}")
    return number


def _long(value: Mapping[str, Any], key: str) -> int:
    """A number of 64 bits, which JSON has as text."""
    text = value.get(key)
    if not isinstance(text, str) or not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise FormatError(f"{key} is missing, or no number")
    number = int(text)
    if number >= 1 << 63:
        raise FormatError(f"{key} is {number}, which is too large")
    return number


def _bytes(value: Mapping[str, Any], key: str) -> bytes:
    text = value.get(key)
    if not isinstance(text, str) or len(text) > 2 * _MAX_SALT_BYTES:
        raise FormatError(f"{key} is missing, or too long")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FormatError(f"{key} is not base64") from None
