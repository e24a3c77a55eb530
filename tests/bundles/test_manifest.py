"""Manifests of OVF packages: every spelling that programs have, and lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import peers
from vmimg.bundles.archives import DirectoryFolder
from vmimg.bundles.bundle import Verdict
from vmimg.bundles.manifest import (
    digest_of,
    manifest_size,
    parse_manifest,
    verify_manifest,
    write_manifest,
)
from vmimg.errors import FormatError, OptionError, StorageError
from vmimg.storage.memory import MemoryStorage

OVF, DISK = b"<Envelope/>", b"the disk" * 1000


def package(folder: Path, manifest: str) -> DirectoryFolder:
    (folder / "a.ovf").write_bytes(OVF)
    (folder / "disk 1.vmdk").write_bytes(DISK)
    (folder / "a.mf").write_bytes(manifest.encode())
    return DirectoryFolder(folder)


def verdicts(folder: DirectoryFolder, *expected: str) -> list[Verdict]:
    return list(verify_manifest(folder, "a.mf", expected))


def states(found: list[Verdict]) -> dict[str, str]:
    return {verdict.subject: verdict.state for verdict in found}


def hexed(name: str, data: bytes) -> str:
    return hashlib.new(name, data).hexdigest()


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize(
    "form",
    [
        "{A}({n})= {h}\n",  # ovftool
        "{A} ({n}) = {h}\n",  # VirtualBox
        "{A}({n})={h}\r\n",  # tools on Windows
        "  {A} ( {n} ) = {H} \r",
        "\ufeff{A}({n})= {h}",
    ],
)
def test_every_spelling_of_a_line_is_read(tmp_path: Path, algorithm: str, form: str) -> None:
    value = hexed(algorithm, DISK)
    text = form.format(A=algorithm.upper(), n="disk 1.vmdk", h=value, H=value.upper())
    assert states(verdicts(package(tmp_path, text))) == {"disk 1.vmdk": "good"}


def test_a_changed_file_is_bad_and_both_digests_are_told(tmp_path: Path) -> None:
    folder = package(tmp_path, f"SHA256(disk 1.vmdk)= {hexed('sha256', DISK)}\n")
    with open(tmp_path / "disk 1.vmdk", "r+b") as file:
        file.write(b"T")
    (found,) = verdicts(folder)
    assert (found.state, found.what) == ("bad", "SHA256")
    assert hexed("sha256", DISK) in found.detail
    assert hexed("sha256", b"T" + DISK[1:]) in found.detail


def test_files_that_are_not_there_or_not_listed_are_told(tmp_path: Path) -> None:
    text = f"SHA1(a.ovf)= {hexed('sha1', OVF)}\nSHA1(gone.vmdk)= {'0' * 40}\n"
    assert states(verdicts(package(tmp_path, text), "a.ovf", "disk 1.vmdk")) == {
        "a.ovf": "good",
        "gone.vmdk": "missing",
        "disk 1.vmdk": "unlisted",
    }


def test_names_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    inner = tmp_path / "package"
    inner.mkdir()
    value = hexed("sha1", b"x")
    text = "".join(f"SHA1({name})= {value}\n" for name in ("../secret", "/etc/passwd", "c:\\x"))
    found = verdicts(package(inner, text))
    assert [verdict.state for verdict in found] == ["bad"] * 3


def test_percent_encoding_is_read_where_there_is_no_such_file(tmp_path: Path) -> None:
    text = f"SHA1(disk%201.vmdk)= {hexed('sha1', DISK)}\n"
    assert states(verdicts(package(tmp_path, text))) == {"disk 1.vmdk": "good"}


def test_two_digests_of_one_file_must_both_be_right(tmp_path: Path) -> None:
    text = f"SHA1(a.ovf)= {'0' * 40}\nSHA256(a.ovf)= {hexed('sha256', OVF)}\n"
    found = verdicts(package(tmp_path, text))
    assert [(v.what, v.state) for v in found] == [("SHA1", "bad"), ("SHA256", "good")]


def test_other_algorithms_and_lines_are_said_not_to_be_known(tmp_path: Path) -> None:
    text = f"MD5(a.ovf)= {hexed('md5', OVF)}\nwhat is this?\n"
    found = verdicts(package(tmp_path, text))
    assert [verdict.state for verdict in found] == ["unknown", "unknown"]
    assert any("line 2" in verdict.detail for verdict in found)


def test_an_empty_manifest_proves_nothing(tmp_path: Path) -> None:
    assert [verdict.state for verdict in verdicts(package(tmp_path, "\n"))] == ["bad"]


def test_a_manifest_of_too_many_lines_or_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="lines"):
        parse_manifest(b"\n" * 100_000, "x")
    folder = package(tmp_path, "")
    (tmp_path / "a.mf").write_bytes(bytes(9 << 20))
    with pytest.raises(StorageError, match="bytes"):
        verdicts(folder)


def test_what_is_written_is_read_and_its_size_known_before() -> None:
    values = [("a.ovf", hexed("sha256", OVF)), ("d\u00fc 1.vmdk", hexed("sha256", DISK))]
    data = write_manifest("sha256", values)
    digests, odd = parse_manifest(data, "x")
    assert [(d.name, d.value) for d in digests] == values
    assert not odd
    assert manifest_size("sha256", ["a.ovf", "d\u00fc 1.vmdk"]) == len(data)
    with pytest.raises(OptionError):
        write_manifest("md5", values)
    with pytest.raises(OptionError):
        write_manifest("sha1", [("a\nb", "0")])


def test_a_large_file_is_hashed_block_by_block() -> None:
    data = bytes(range(256)) * (40 << 10) + b"tail"
    found = digest_of(MemoryStorage(data), ("sha1", "sha512"))
    assert found == (hexed("sha1", data), hexed("sha512", data))


@pytest.mark.peer("sha256sum")
def test_coreutils_agree_with_the_manifest(tmp_path: Path) -> None:
    package(tmp_path, "")
    values = [(n, hexed("sha256", (tmp_path / n).read_bytes())) for n in ("a.ovf", "disk 1.vmdk")]
    # BSD's form of checksums, which coreutils read as well.
    text = write_manifest("sha256", values).decode().replace("(", " (").replace(")= ", ") = ")
    (tmp_path / "sums").write_text(text)
    peers.run("sha256sum", "--strict", "-c", "sums", cwd=tmp_path)
