"""EC2 bundles: openssl and tar unpack what we make, and we read what they make."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from boxes_by_hand import MACHINE, SIZE, content, disk_file, opened, pack, tree

import peers
from samples import awkward_disk
from vmimg.bundles.archives import DirectoryFolder
from vmimg.bundles.ec2 import Ec2Bundle
from vmimg.bundles.ec2 import open as open_ec2
from vmimg.errors import (
    FormatError,
    LockedImage,
    OptionError,
    StorageError,
    UnsafeImage,
    VmimgError,
)
from vmimg.machines.losses import without
from vmimg.probe.claims import Claim

DISK = awkward_disk(SIZE, seed=5)
CLAIM = Claim("ec2-bundle", "bundle", "", 90)


def openssl(*arguments: str | Path, data: bytes | None = None) -> bytes:
    return peers.run("openssl", *arguments, input=data).stdout


@dataclass(frozen=True, slots=True)
class Pair:
    key: Path
    cert: Path


def _pair(folder: Path, name: str) -> Pair:
    made = Pair(folder / f"{name}.key", folder / f"{name}.pem")
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", made.key, "-out", made.cert,
        "-subj", f"/CN={name}", "-days", "3650",
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A key pair of an account's user, by openssl."""
    return _pair(tmp_path_factory.mktemp("keys"), "user")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Of somebody else: EC2, or a stranger."""
    return _pair(tmp_path_factory.mktemp("keys"), "other")


def by_openssl(folder: Path, user: Pair, *, part: int = 100_000) -> Path:
    """A bundle as the AMI tools make it, with their programs: tar -S, gzip, openssl, split."""
    folder.mkdir()
    disk = disk_file(folder.parent, "image")
    peers.run(
        "tar", "--format=gnu", "-S", "-cf", folder.parent / "x.tar", "-C", folder.parent, "image"
    )
    tar = (folder.parent / "x.tar").read_bytes()
    packed = peers.run("gzip", "-9nc", input=tar).stdout
    key, iv = "00112233445566778899aabbccddeeff", "0f0e0d0c0b0a09080706050403020100"
    sealed = openssl("enc", "-e", "-aes-128-cbc", "-K", key, "-iv", iv, data=packed)
    parts = [sealed[at : at + part] for at in range(0, len(sealed), part)]
    for number, data in enumerate(parts):
        (folder / f"image.part.{number:02}").write_bytes(data)

    def encrypted(text: str) -> str:
        return openssl(
            "pkeyutl", "-encrypt", "-certin", "-inkey", user.cert, data=text.encode()
        ).hex()  # fmt: skip

    listed = "".join(
        f'<part index="{number}"><filename>image.part.{number:02}</filename>'
        f'<digest algorithm="SHA1">{hashlib.sha1(data).hexdigest()}</digest></part>'
        for number, data in enumerate(parts)
    )
    signed = (
        "<machine_configuration><architecture>x86_64</architecture>"
        "<kernel_id>aki-00000001</kernel_id></machine_configuration>"
        "<image><name>image</name><user>123456789012</user><type>machine</type>"
        f'<digest algorithm="SHA1">{hashlib.sha1(tar).hexdigest()}</digest>'
        f"<size>{disk.stat().st_size}</size><bundled_size>{len(sealed)}</bundled_size>"
        f'<ec2_encrypted_key algorithm="AES-128-CBC">{encrypted(key)}</ec2_encrypted_key>'
        f'<user_encrypted_key algorithm="AES-128-CBC">{encrypted(key)}</user_encrypted_key>'
        f"<ec2_encrypted_iv>{encrypted(iv)}</ec2_encrypted_iv>"
        f"<user_encrypted_iv>{encrypted(iv)}</user_encrypted_iv>"
        f'<parts count="{len(parts)}">{listed}</parts></image>'
    )
    signature = openssl("dgst", "-sha1", "-sign", user.key, data=signed.encode()).hex()
    (folder / "image.manifest.xml").write_text(
        "<?xml version='1.0'?><manifest><version>2007-10-10</version><bundler>"
        "<name>ec2-ami-tools</name><version>1.5.7</version><release>0</release></bundler>"
        f"{signed}<signature>{signature}</signature></manifest>"
    )
    return folder


def made(folder: Path, user: Pair, **options: str) -> Path:
    options = {"key": str(user.key), "cert": str(user.cert)} | options
    pack("ec2-bundle", folder / "made", [disk_file(folder)], **options)
    return folder / "made"


@pytest.mark.peer("openssl", "tar")
def test_openssl_and_tar_unpack_what_we_make(tmp_path: Path, user: Pair, other: Pair) -> None:
    folder = made(tmp_path, user, ec2_cert=str(other.cert), part_size="64k")
    text = (folder / "server-disk1.img.manifest.xml").read_text()

    def said(name: str) -> str:
        found = re.search(f"<{name}[^>]*>([^<]+)</{name}>", text)
        assert found is not None
        return found[1]

    def secret(name: str, key: Path) -> str:
        data = bytes.fromhex(said(name))
        return openssl("pkeyutl", "-decrypt", "-inkey", key, data=data).decode()

    key, iv = secret("user_encrypted_key", user.key), secret("user_encrypted_iv", user.key)
    assert key == secret("ec2_encrypted_key", other.key)
    parts = sorted(folder.glob("*.part.*"))
    assert [part.stat().st_size for part in parts[:-1]] == [65536] * (len(parts) - 1)
    sealed = b"".join(part.read_bytes() for part in parts)
    assert len(sealed) == int(said("bundled_size"))
    packed = openssl("enc", "-d", "-aes-128-cbc", "-K", key, "-iv", iv, data=sealed)
    tar = peers.run("gzip", "-dc", input=packed).stdout
    assert hashlib.sha1(tar).hexdigest() == said("digest")
    image = peers.run("tar", "-xOf", "-", "server-disk1.img", input=tar).stdout
    assert image == DISK


@pytest.mark.peer("openssl")
def test_who_runs_the_cloud_opens_it_with_its_own_key(
    tmp_path: Path, user: Pair, other: Pair
) -> None:
    with opened(made(tmp_path, user, ec2_cert=str(other.cert))) as bundle:
        assert content(bundle, keys=other.key.read_bytes()) == DISK


@pytest.mark.peer("openssl")
def test_openssl_verifies_the_signature(tmp_path: Path, user: Pair) -> None:
    text = (made(tmp_path, user) / "server-disk1.img.manifest.xml").read_text()
    signed = "".join(
        text[text.index(f"<{name}>") : text.index(f"</{name}>") + len(name) + 3]
        for name in ("machine_configuration", "image")
    )
    (tmp_path / "signature").write_bytes(
        bytes.fromhex(text.partition("<signature>")[2].partition("<")[0])
    )
    (tmp_path / "public").write_bytes(openssl("x509", "-pubkey", "-noout", "-in", user.cert))
    openssl(
        "dgst", "-sha1", "-verify", tmp_path / "public", "-signature", tmp_path / "signature",
        data=signed.encode(),
    )  # fmt: skip


@pytest.mark.peer("openssl", "tar", "gzip")
def test_a_bundle_of_the_ami_tools_is_read_in_place(tmp_path: Path, user: Pair) -> None:
    with opened(by_openssl(tmp_path / "bundle", user)) as bundle:
        assert content(bundle, keys=user.key.read_bytes()) == DISK
        facts = bundle.facts
        verdicts = list(bundle.verify(trust=user.cert.read_bytes()))
    assert (facts["account"], facts["kernel-id"]) == ("123456789012", "aki-00000001")
    assert facts["bundler"] == "ec2-ami-tools 1.5.7"
    assert {verdict.state for verdict in verdicts} == {"good"}
    assert verdicts[-1].subject == "signature"


@pytest.mark.peer("openssl")
def test_what_we_make_we_read_from_its_manifest_too(tmp_path: Path, user: Pair) -> None:
    folder = made(tmp_path, user)
    with opened(folder / "server-disk1.img.manifest.xml") as bundle:
        assert content(bundle, keys=user.key.read_bytes()) == DISK


@pytest.mark.peer("openssl")
def test_without_the_right_key_it_stays_locked(tmp_path: Path, user: Pair, other: Pair) -> None:
    with opened(made(tmp_path, user)) as bundle:
        with pytest.raises(LockedImage):
            bundle.open_disk()
        with pytest.raises(LockedImage, match="not the one"):
            bundle.open_disk(keys=other.key.read_bytes())
        with pytest.raises(LockedImage, match="PEM"):
            bundle.open_disk(keys=b"a passphrase")


@pytest.mark.peer("openssl", "tar", "gzip")
def test_changes_of_a_part_and_of_the_manifest_are_found(
    tmp_path: Path, user: Pair, other: Pair
) -> None:
    folder = by_openssl(tmp_path / "bundle", user, part=30_000)
    parts = sorted(folder.glob("*.part.*"))
    data = bytearray(parts[0].read_bytes())
    data[5] ^= 1
    parts[0].write_bytes(data)
    parts[1].unlink()
    manifest = folder / "image.manifest.xml"
    manifest.write_text(manifest.read_text().replace("aki-00000001", "aki-00000002"))

    with open_ec2(DirectoryFolder(folder), CLAIM) as bundle:
        states = {v.subject: v.state for v in bundle.verify(trust=user.cert.read_bytes())}
        assert states[parts[0].name] == "bad"
        assert states[parts[1].name] == "missing"
        assert states["signature"] == "bad"
        *_, last = bundle.verify()
        assert (last.subject, last.state) == ("signature", "unknown")
        with pytest.raises(StorageError, match="not in it"):
            bundle.open_disk(keys=user.key.read_bytes())


@pytest.mark.peer("openssl")
def test_all_but_the_architecture_is_listed_as_lost(tmp_path: Path, user: Pair) -> None:
    result = pack(
        "ec2-bundle", tmp_path / "x", [disk_file(tmp_path)], key=str(user.key), cert=str(user.cert)
    )
    left = without(MACHINE, result.losses)
    assert (left.architecture, left.memory, left.name) == ("x86_64", 0, "")


@pytest.mark.peer("openssl")
def test_keys_that_do_not_fit_make_nothing(tmp_path: Path, user: Pair, other: Pair) -> None:
    for options, words in (
        ({"key": str(other.key)}, "not that of the certificate"),
        ({"key": str(user.cert)}, "no private key"),
        ({"cert": str(user.key)}, "no certificate"),
        ({"part_size": "1k"}, "64 KiB"),
    ):
        with pytest.raises(OptionError, match=words):
            made(tmp_path, user, **options)
    with pytest.raises(OptionError, match="key=FILE"):
        pack("ec2-bundle", tmp_path / "made", [disk_file(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw"]


# What lies

PART = b"\0" * 64
GOOD = (
    "<manifest><version>2007-10-10</version><machine_configuration/><image><name>x</name>"
    "<user>1</user><type>machine</type><digest>0</digest><size>512</size>"
    "<bundled_size>64</bundled_size>"
    '<ec2_encrypted_key algorithm="AES-128-CBC">00</ec2_encrypted_key>'
    '<user_encrypted_key algorithm="AES-128-CBC">00</user_encrypted_key>'
    "<ec2_encrypted_iv>00</ec2_encrypted_iv><user_encrypted_iv>00</user_encrypted_iv>"
    '<parts count="1"><part index="0"><filename>x.part.00</filename>'
    f"<digest>{hashlib.sha1(PART).hexdigest()}</digest></part></parts></image></manifest>"
)


def bundle_of(folder: Path, manifest: str) -> Ec2Bundle:
    files = {"x.manifest.xml": manifest.encode(), "x.part.00": PART}
    return open_ec2(DirectoryFolder(tree(folder, files)), CLAIM)


LIES = {
    "a part outside": ("x.part.00</filename>", "../../etc/passwd</filename>"),
    "an absolute part": ("x.part.00</filename>", "/etc/passwd</filename>"),
    "a part of no number": ('index="0"', 'index="-1"'),
    "a part that is the second": ('index="0"', 'index="1"'),
    "a size beyond numbers": ("<size>512", "<size>" + "9" * 5000),
    "a negative size": ("<size>512", "<size>-512"),
    "a key that is no number": (">00</user_encrypted_key", ">xyz</user_encrypted_key"),
    "another cipher": ("AES-128-CBC", "ROT13"),
    "another version": ("2007-10-10", "3000-01-01"),
    "no image": ("<image>", "<picture>"),
    "an entity": ("<manifest>", '<!DOCTYPE a [<!ENTITY a "b">]><manifest>'),
    "another root": ("manifest>", "b>"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_manifest_that_lies_is_an_error_of_one_line(tmp_path: Path, name: str) -> None:
    bundle_of(tmp_path / "good", GOOD).close()
    old, new = LIES[name]
    assert old in GOOD
    lie = GOOD.replace(old, new)
    with pytest.raises((FormatError, UnsafeImage, VmimgError)) as caught:
        bundle_of(tmp_path / "x", lie.replace("</image>", "</picture>") if "pic" in new else lie)
    assert "\n" not in str(caught.value)


@pytest.mark.peer("openssl")
def test_parts_of_no_whole_blocks_are_an_error(tmp_path: Path, user: Pair) -> None:
    folder = made(tmp_path, user)
    part = next(folder.glob("*.part.00"))
    part.write_bytes(part.read_bytes()[:-7])
    with opened(folder) as bundle, pytest.raises(FormatError, match="no whole blocks"):
        bundle.open_disk(keys=user.key.read_bytes())


@pytest.mark.peer("openssl")
def test_an_image_of_another_size_than_promised_is_an_error(tmp_path: Path, user: Pair) -> None:
    folder = made(tmp_path, user)
    manifest = next(folder.glob("*.manifest.xml"))
    manifest.write_text(manifest.read_text().replace(f"<size>{SIZE}", "<size>512"))
    with opened(folder) as bundle, pytest.raises(FormatError, match="the manifest says 512"):
        bundle.open_disk(keys=user.key.read_bytes())


def test_a_kernel_is_no_disk(tmp_path: Path) -> None:
    with bundle_of(tmp_path / "x", GOOD.replace(">machine<", ">kernel<")) as bundle:
        assert bundle.disks == ()
        with pytest.raises(VmimgError, match="no disk"):
            bundle.open_disk()


def test_nothing_of_openssl_is_needed_to_look_at_a_bundle() -> None:
    code = "import sys, vmimg.bundles.ec2.reading; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
