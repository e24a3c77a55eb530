"""Vetting LUKS volumes: each thing wrong has its code and its place; good ones have none."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from vetted import Counted, errors, findings, made, where

import luks_by_hand
import peers
from formats.luks1_by_hand import Volume
from probe.sample import Sample
from probe.samples_luks import BAD, GOOD, PLACES, second
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.memory import MemoryStorage


def vet(volume: bytes) -> list[Finding]:
    return list(FORMATS["luks"].driver().vet(MemoryStorage(bytearray(volume))))


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_volume_has_no_errors(sample: Sample, tmp_path: Path) -> None:
    assert not errors(findings(made(sample, tmp_path), "luks"))


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_is_told_with_its_place(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "luks")
    (code,) = sample.codes
    assert where(found, code), found
    if sample.name in PLACES:
        assert PLACES[sample.name] in where(found, code), found
    assert {finding.code for finding in errors(found)} <= {code}, found


@pytest.mark.parametrize(
    "cipher",
    [
        "twofish-xts-plain64", "serpent-cbc-plain", "camellia-xts-plain64",
        "cast5-cbc-essiv:sha256", "aes-lrw-benbi",
        "xchacha12,aes-adiantum-plain64", "xchacha20,aes-adiantum-plain64",
    ],
)  # fmt: skip
def test_what_cryptsetup_calls_ciphers_is_known(cipher: str) -> None:
    name, _, mode = cipher.partition("-")
    volume = Volume(name.encode(), mode.encode()).build()
    assert not errors(vet(volume))


@pytest.mark.peer("cryptsetup")
def test_a_header_by_itself_is_no_error(tmp_path: Path) -> None:
    key, data, header = tmp_path / "key", tmp_path / "data", tmp_path / "header"
    key.write_bytes(b"secret")
    data.write_bytes(bytes(1 << 20))
    for kind in ("luks1", "luks2"):
        header.write_bytes(bytes(4 << 20))
        size = ("--luks2-keyslots-size", "1m") if kind == "luks2" else ()
        peers.run(
            "cryptsetup", "-q", "--key-file", key, "luksFormat", "--type", kind, *size,
            "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--header", header, data,
        )  # fmt: skip
        assert not errors(vet(header.read_bytes()))


def test_iterations_up_to_openstacks_limit_are_taken() -> None:
    volume = Volume().build()
    volume[212:216] = (12_000_000).to_bytes(4, "big")
    assert not vet(volume)


def test_tokens_are_a_note() -> None:
    (found,) = vet(second(lambda root: root["tokens"].update({"0": {"type": "systemd-tpm2"}})))
    assert (found.code, found.severity) == ("odd-field", Severity.NOTE)
    assert "systemd-tpm2" in found.message


@pytest.mark.parametrize("seed", range(60))
def test_noise_in_its_headers_ends_in_findings(seed: int) -> None:
    dice = random.Random(seed)
    file = bytearray(second() if seed % 2 else Volume().build())
    if seed % 4 == 3:
        # JSON that is JSON, with another thing in the place of one.
        file[: 2 * luks_by_hand.HEADER] = luks_by_hand.headers(_mixed(dice))
    else:
        for _ in range(dice.randrange(1, 20)):
            place = dice.randrange(6, dice.choice((20, 592, 5000)))
            file[place] = dice.choice((0, 255, dice.randrange(256)))
    storage = Counted(MemoryStorage(file))
    for finding in FORMATS["luks"].driver().vet(storage):
        assert finding.message.isprintable()
    assert storage.bytes < 6 << 20


def _mixed(dice: random.Random) -> bytes:
    def mix(value: object) -> object:
        if dice.random() < 0.1:
            return dice.choice((None, 1, -1, 10**400, "x", "9" * 30, [], {}, [[]], True, ["a", {}]))
        if isinstance(value, dict):
            return {key: mix(inner) for key, inner in value.items()}
        return [mix(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(mix(luks_by_hand.volume(b"")[1])).encode()


def test_the_evidence_is_the_version_and_what_is_behind_it() -> None:
    driver = FORMATS["luks"].driver()
    first = driver.evidence(MemoryStorage(Volume().build()))
    assert [(e.offset, e.meaning) for e in first] == [
        (6, "version 1"),
        (8, "the cipher 'aes-xts-plain64'"),
        (208, "a key slot in use"),
    ]
    later = driver.evidence(MemoryStorage(bytearray(second())))
    assert [e.offset for e in later] == [6, 4096, luks_by_hand.HEADER]
