"""Every sample of every family: what it is, what vetting says of it, and what OpenStack's inspector
does."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import peers
from probe.corpus import BAD, GOOD, made
from probe.sample import Sample
from vmimg.formats.raw.findings import View
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import CODES, Severity
from vmimg.probe import vetters
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import Detection, detect
from vmimg.probe.inspector import Inspector
from vmimg.probe.recognisers import recognisers
from vmimg.probe.vetting import Report, vet
from vmimg.storage.file import FileStorage

_NAMED = {"ids": str}


def codes(report: Report, severity: Severity) -> list[str]:
    return [finding.code for finding in report.findings if finding.severity == severity]


def claimed(samples: list[Sample]) -> set[str]:
    return {sample.claim for sample in samples}


def vetted_families() -> list[str]:
    modules = [each.name for each in pkgutil.iter_modules(vetters.__path__)]
    return [
        name for name in modules if hasattr(import_module(f"vmimg.probe.vetters.{name}"), "VETTERS")
    ]


def test_every_disk_format_has_samples() -> None:
    assert set(FORMATS) <= claimed(GOOD)
    # There are no bytes that a raw disk cannot have.
    assert set(FORMATS) - {"raw"} <= claimed(BAD)


@pytest.mark.parametrize("family", vetted_families())
def test_every_family_of_vetters_has_samples(family: str) -> None:
    names = set(import_module(f"vmimg.probe.vetters.{family}").VETTERS)
    assert names and names & claimed(GOOD) and names & claimed(BAD)
    assert names <= claimed([*GOOD, *BAD])


def test_every_recogniser_knows_a_good_file(tmp_path: Path) -> None:
    missing = set(recognisers())
    for sample in GOOD:
        if missing and all(peers.has(name) for name in sample.peers):
            path = made(sample, tmp_path)
            if path.is_file():
                with FileStorage(path) as storage:
                    view = View(storage, 0, storage.size)
                    missing -= {each for each in missing if any(each(view))}
    assert not missing


@pytest.mark.parametrize("sample", GOOD, **_NAMED)
def test_a_good_file_is_what_it_is_and_has_no_error(sample: Sample, tmp_path: Path) -> None:
    path = made(sample, tmp_path)
    detection = detect(path)
    assert not detection.polyglot, detection.contradictions
    if sample.claim:
        assert detection.best.name == sample.claim
    report = vet(path, policy="desktop")
    assert report.safe, [f for f in report.findings if f.severity == Severity.ERROR]


@pytest.mark.parametrize("sample", BAD, **_NAMED)
def test_what_is_wrong_with_a_bad_file_is_named(sample: Sample, tmp_path: Path) -> None:
    assert sample.codes and set(sample.codes) <= set(CODES)
    path = made(sample, tmp_path)
    if sample.claim:
        assert detect(path).best.name == sample.claim
    report = vet(path, policy="strict")
    assert set(sample.codes) <= set(codes(report, Severity.ERROR)), report.findings
    for finding in report.findings:
        assert finding.message.isprintable() and finding.evidence.isprintable()
        assert finding.remedy


@pytest.mark.parametrize("sample", [*GOOD, *BAD], **_NAMED)
@pytest.mark.peer("oslo_utils")
def test_what_openstack_refuses_is_refused(sample: Sample, tmp_path: Path) -> None:
    path = made(sample, tmp_path)
    if path.is_dir():
        pytest.skip("a directory is nothing that is uploaded")
    refusal = _oslo_refuses(path)
    if refusal is None:
        return
    report = vet(path, policy="openstack")
    assert not report.safe, f"OpenStack says {refusal}; we say {report.findings}"


def _oslo_refuses(path: Path) -> str | None:
    """Why OpenStack does not take it: what it cannot make out, two formats, or a failed check."""
    from oslo_utils.imageutils import format_inspector as oslo

    with open(path, "rb") as file:
        wrapper = oslo.InspectWrapper(file)
        # To the end: a footer counts as well.
        while wrapper.read(1 << 20):
            pass
        wrapper.close()
    found = wrapper.formats or []
    # A disc that boots from disks as well: Nova and Glance take it for the ISO that it is.
    names = sorted(str(inspector) for inspector in found)
    if len(names) > 1 and names != ["gpt", "iso"]:
        return f"several formats: {names}"
    for inspector in found:
        if len(names) > 1 and str(inspector) == "gpt":
            continue
        try:
            inspector.safety_check()
        except (oslo.SafetyCheckFailed, oslo.ImageFormatError) as error:
            return str(error)
    return None


@pytest.mark.parametrize("sample", [*GOOD, *BAD], **_NAMED)
def test_a_stream_is_what_the_file_is(sample: Sample, tmp_path: Path) -> None:
    path = made(sample, tmp_path)
    if path.is_dir():
        pytest.skip("a directory is no stream")
    whole = detect(path)
    if whole.best.name == "split":
        pytest.skip(
            "a series of parts is told by the files beside it, which a stream does not have"
        )
    inspector = Inspector(whole.filename)
    with open(path, "rb") as file:
        while chunk := file.read(50_001):
            inspector.feed(chunk)
    streamed = inspector.finish()
    assert streamed.best.name == whole.best.name
    assert streamed.polyglot == whole.polyglot
    if path.stat().st_size <= 512 << 10:
        assert _facts(streamed) == _facts(whole)


def _facts(detection: Detection) -> dict[str, Any]:
    def names(claims: tuple[Claim, ...]) -> list[Any]:
        return [(claim.name, claim.evidence, names(claim.inside)) for claim in claims]

    # A series of parts is told by the files beside it, which a stream does not have.
    return {
        "size": detection.size,
        "claims": [n for n in names(detection.claims) if n[0] != "split"],
    }
