"""Manifests of OVF packages: one line for each file, with the digest of its bytes.

    SHA256(machine.ovf)= 9e107d9d372bb6826bd81d3542a419d6...
    SHA256(disk1.vmdk)= 1a79a4d60de6718e8e5b326e338ae533...

Programs differ in their spaces, in capitals and in the ends of lines; names are those of files
beside the manifest. Spec: DMTF DSP0243 2.1, section 5.4 (a manifest's grammar). Imports storage.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from vmimg.bundles.bundle import Verdict
from vmimg.errors import FormatError, OptionError, UnsafeImage, VmimgError
from vmimg.formats.vetting import printable
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder, joined
from vmimg.units import MIB

__all__ = [
    "ALGORITHMS",
    "Digest",
    "digest_all",
    "digest_of",
    "manifest_size",
    "parse_manifest",
    "verify_manifest",
    "write_manifest",
]

ALGORITHMS: Final = {"sha1": "SHA1", "sha256": "SHA256", "sha384": "SHA384", "sha512": "SHA512"}
"""What hashlib calls a digest, and what a manifest does."""
MAX_BYTES: Final = 8 << 20
"""The largest manifest that is read: some 65,000 lines."""
_MAX_LINES: Final = 65536
_MAX_ODD: Final = 8
_LINE: Final = re.compile(
    r"\s*([A-Za-z][A-Za-z0-9]{0,15}(?:-\d{1,4})?)\s*\((.{1,4096})\)\s*=\s*([0-9A-Fa-f]{1,512})\s*"
)
_BLOCK: Final = 4 * MIB
_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class Digest:
    """``algorithm``: of ALGORITHMS, "" for one that is none of them; ``label``: as it was written.
    ``value``: in lower-case hexadecimal. ``line``: counted from 1.
    """

    algorithm: str
    label: str
    name: str
    value: str
    line: int


def parse_manifest(data: bytes, where: str) -> tuple[tuple[Digest, ...], tuple[int, ...]]:
    """The digests in a manifest, and the numbers of the lines that are none (the first few).

    Raises FormatError for one of too many lines.
    """
    text = data.decode("utf-8-sig", "surrogateescape")
    lines = re.split(r"\r\n|\n|\r", text)
    if len(lines) > _MAX_LINES:
        raise FormatError(f"{where}: has {len(lines)} lines, and {_MAX_LINES} are the most")
    digests, odd = list[Digest](), list[int]()
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is not None:
            label, name, value = match.groups()
            digests.append(Digest(algorithm_of(label), label, name.strip(), value.lower(), number))
        elif line.strip(" \t\0") and len(odd) < _MAX_ODD:
            odd.append(number)
    return tuple(digests), tuple(odd)


def algorithm_of(label: str) -> str:
    """What hashlib calls the ``label`` of a manifest or a signature; "" for what is unknown."""
    plain = label.replace("-", "").lower()
    return plain if plain in ALGORITHMS else ""


def write_manifest(algorithm: str, values: Iterable[tuple[str, str]]) -> bytes:
    """A manifest of (name, digest in hexadecimal), in that order. Raises OptionError for names that
    it cannot say.
    """
    lines = list[bytes]()
    for name, value in values:
        if any(each in name for each in "\r\n\0"):
            raise OptionError(f"a manifest cannot name the file {printable(name)}")
        lines.append(f"{_label(algorithm)}({name})= {value}\n".encode("utf-8", "surrogateescape"))
    return b"".join(lines)


def manifest_size(algorithm: str, names: Iterable[str]) -> int:
    """Bytes of the manifest of those files, before any digest is known."""
    _label(algorithm)
    value = "0" * (2 * hashlib.new(algorithm).digest_size)
    return len(write_manifest(algorithm, ((name, value) for name in names)))


def _label(algorithm: str) -> str:
    try:
        return ALGORITHMS[algorithm]
    except KeyError:
        known = ", ".join(ALGORITHMS)
        raise OptionError(f"a manifest has digests of {known}, not of '{algorithm}'") from None


def digest_of(storage: Storage, algorithms: Sequence[str]) -> tuple[str, ...]:
    """The digests of all of ``storage``, which is read once, in hexadecimal."""
    hashes = [hashlib.new(name) for name in algorithms]
    if storage.size <= 2 * _BLOCK:
        data = storage.read(0, storage.size)
        for each in hashes:
            each.update(data)
        return tuple(each.hexdigest() for each in hashes)
    # The next block is read while this one is worked on: both leave the interpreter alone.
    buffers = [memoryview(bytearray(_BLOCK)), memoryview(bytearray(_BLOCK))]
    with ThreadPoolExecutor(1) as reader:

        def fetch(offset: int, number: int) -> Any:
            part = buffers[number % 2][: min(_BLOCK, storage.size - offset)]
            return part, reader.submit(storage.read_into, offset, part)

        waiting = fetch(0, 0)
        for number, offset in enumerate(range(_BLOCK, storage.size + _BLOCK, _BLOCK), 1):
            part, read = waiting
            read.result()
            if offset < storage.size:
                waiting = fetch(offset, number)
            for each in hashes:
                each.update(part)
    return tuple(each.hexdigest() for each in hashes)


def digest_all(
    files: Sequence[tuple[Callable[[], Storage], Sequence[str]]], threads: int = 0
) -> Iterator[tuple[str, ...] | VmimgError]:
    """The digests of many files, in the order of ``files`` (what opens it, its algorithms). For one
    that cannot be read: why.
    """

    def one(job: tuple[Callable[[], Storage], Sequence[str]]) -> tuple[str, ...] | VmimgError:
        try:
            with job[0]() as storage:
                return digest_of(storage, job[1])
        except VmimgError as error:
            return error

    pool = ThreadPoolExecutor(threads or min(_THREADS, os.cpu_count() or 1))
    try:
        yield from pool.map(one, files)
    finally:
        pool.shutdown(cancel_futures=True)


def verify_manifest(folder: Folder, name: str, expected: Sequence[str]) -> Iterator[Verdict]:
    """What came of each line of the manifest ``name`` in ``folder``.

    ``expected``: the files that it should speak of, by their names in the folder. Raises what
    reading the manifest raises.
    """
    digests, odd = parse_manifest(folder.read(name, MAX_BYTES), f"{folder.name}: '{name}'")
    for number in odd:
        yield Verdict(name, "unknown", "manifest", f"its line {number} is no digest of a file")
    if not digests:
        yield Verdict(name, "bad", "manifest", "there is no digest in it")
    files = dict[str, list[Digest]]()
    for digest in digests:
        member = _member(name, digest.name, folder)
        if member is None:
            yield Verdict(printable(digest.name), "bad", digest.label, "its name leads out of here")
        else:
            files.setdefault(member, []).append(digest)
    jobs = list[_Job]()
    for member, lines in files.items():
        for line in lines:
            if not line.algorithm:
                detail = f"digests of '{line.label}' are not known here"
                yield Verdict(printable(member), "unknown", line.label, detail)
        known = tuple(sorted({line.algorithm for line in lines if line.algorithm}))
        if not folder.exists(member):
            yield Verdict(printable(member), "missing", lines[0].label, "the manifest names it")
        elif known:
            jobs.append(_Job(member, known))
    results = digest_all([(partial(folder.open, job.member), job.algorithms) for job in jobs])
    for job, result in zip(jobs, results, strict=True):
        yield from _judged(job, files[job.member], result)
    for member in expected:
        if member not in files:
            yield Verdict(printable(member), "unlisted", "", "the manifest does not name it")


@dataclass(frozen=True, slots=True)
class _Job:
    member: str
    algorithms: tuple[str, ...]


def _judged(
    job: _Job, lines: Sequence[Digest], result: tuple[str, ...] | VmimgError
) -> Iterator[Verdict]:
    name = printable(job.member)
    for line in lines:
        if not line.algorithm:
            continue
        if isinstance(result, VmimgError):
            yield Verdict(name, "unknown", line.label, str(result))
            continue
        value = result[job.algorithms.index(line.algorithm)]
        if value == line.value:
            yield Verdict(name, "good", line.label)
        else:
            yield Verdict(name, "bad", line.label, f"it is {value}, the manifest says {line.value}")


def _member(manifest: str, named: str, folder: Folder) -> str | None:
    """The file that a manifest means; None for one that lies outside."""
    try:
        found = joined(manifest, named)
        # Some write names as the descriptor does: as a part of a URI.
        plain = joined(manifest, unquote(named))
    except UnsafeImage:
        return None
    return plain if not folder.exists(found) and folder.exists(plain) else found
