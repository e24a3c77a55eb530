"""vet: what an image from a stranger could make its reader do, as a list of findings.

What the file is (detect), what its format says of itself (`Driver.vet`, `inspect`, opening it
without following anything), what bundles and other files hold (`probe.vetters`), and then what a
policy makes of all that. Nothing that is named in the image is opened. Imports detecting, the
vetters and disk formats.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from vmimg.errors import (
    ChainError,
    FormatError,
    LockedImage,
    UnsafeImage,
    UnsupportedFeature,
    VmimgError,
)
from vmimg.formats.descriptor import Format
from vmimg.formats.driver import ImageInfo
from vmimg.formats.opening import open_file
from vmimg.formats.raw.findings import View
from vmimg.formats.registry import FORMATS, find
from vmimg.formats.vetting import Finding, Severity, of_info
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import Detection, detect, detect_storage
from vmimg.probe.policy import Policy
from vmimg.probe.vetters import disks_inside, unpacked, vetters
from vmimg.probe.vetters.folders import vet_folder
from vmimg.storage.base import Storage
from vmimg.storage.slice import SliceStorage
from vmimg.units import format_size

__all__ = ["Report", "vet", "vet_storage"]

# What formats call their kind in ImageInfo.details.
_KIND_KEYS: Final = ("subformat", "create-type", "version")
# Disks in a bundle that are vetted; what has more than that has no room for them in a machine.
_MAX_DISKS: Final = 16


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in ``filename``, worst first, as ``policy`` (its name) judges it.

    ``virtual_size`` in bytes, None where the file is no disk or does not say.
    """

    detection: Detection
    policy: str
    declared: str | None
    findings: tuple[Finding, ...]
    virtual_size: int | None = None

    @property
    def filename(self) -> str:
        """What was vetted."""
        return self.detection.filename

    @property
    def clean(self) -> bool:
        """Whether there is nothing worse than a note."""
        return all(finding.severity == Severity.NOTE for finding in self.findings)

    @property
    def safe(self) -> bool:
        """Whether there is no error: what has only warnings waits for somebody's decision."""
        return all(finding.severity < Severity.ERROR for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything, with hyphens in the names."""
        best = self.detection.best
        return {
            "filename": self.filename,
            "format": best.name,
            "disk-format": best.disk_format or None,
            "container-format": best.container_format or None,
            "declared": self.declared,
            "virtual-size": self.virtual_size,
            "file-size": self.detection.size,
            "policy": self.policy,
            "clean": self.clean,
            "safe": self.safe,
            "findings": [finding.to_json() for finding in self.findings],
        }


def vet(
    path: str | os.PathLike[str],
    *,
    policy: Policy | str = "strict",
    declared: str | None = None,
) -> Report:
    """Vet the file, block device or directory at ``path``.

    ``policy``: one of strict, openstack and desktop, the path of a policy file, or a Policy.
    ``declared``: the format that the sender says it has; a name of the registry or of the OpenStack
    Image API. Raises StorageError where it cannot be read, OptionError for a policy that is none.
    """
    judge = policy if isinstance(policy, Policy) else Policy.load(policy)
    text = os.fspath(path)
    if os.path.isdir(text):
        detection = detect(text)
        return _report(
            detection, _Vetting(judge).folder(text, detection, declared), judge, declared
        )
    with open_file(text, lock=False) as storage:
        return vet_storage(storage, policy=judge, declared=declared)


def vet_storage(
    storage: Storage, *, policy: Policy | str = "strict", declared: str | None = None
) -> Report:
    """The same of bytes that are open; they stay so."""
    judge = policy if isinstance(policy, Policy) else Policy.load(policy)
    detection = detect_storage(storage)
    vetting = _Vetting(judge)
    findings = vetting.file(storage, detection, declared)
    return _report(detection, findings, judge, declared, vetting)


def _report(
    detection: Detection,
    findings: Iterator[Finding],
    policy: Policy,
    declared: str | None,
    vetting: _Vetting | None = None,
) -> Report:
    judged = [policy.judge(finding) for finding in dict.fromkeys(findings)]
    judged.sort(key=lambda finding: -finding.severity)
    size = vetting.virtual_size if vetting is not None else None
    return Report(detection, policy.name, declared, tuple(judged), size)


class _Vetting:
    """One file on its way, with what is inside it."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.virtual_size: int | None = None

    def file(
        self, storage: Storage, detection: Detection, declared: str | None = None
    ) -> Iterator[Finding]:
        """Everything about the file itself, then about what it holds."""
        best = detection.best
        yield from _identity(detection, declared)
        yield from _allowed(best, self._policy)
        if best.family in ("disk", "content") or best.name == "raw":
            yield from self._disk(storage, FORMATS.get(best.name) or FORMATS["raw"])
            return
        view = View(storage, 0, storage.size)
        for name in (best.name, *best.refines):
            for vetter in vetters(name):
                yield from _guarded(partial(vetter, view))
        yield from self._inside(storage, view, best)

    def folder(self, path: str, detection: Detection, declared: str | None) -> Iterator[Finding]:
        """Everything about a directory."""
        yield from _identity(detection, declared)
        yield from _allowed(detection.best, self._policy)
        for claim in detection.claims:
            if claim.family == "disk":
                with open_file(path, lock=False) as storage:
                    yield from self._disk(storage, find(claim.name))
        yield from vet_folder(path)

    def _disk(self, storage: Storage, format: Format) -> Iterator[Finding]:
        """What its format says, what all formats have in common, and whether it opens."""
        driver = format.driver()
        own = list(_guarded(partial(driver.vet, storage)))
        yield from own
        known = any(f.severity == Severity.ERROR and f.code != "malformed" for f in own)
        try:
            info = driver.inspect(storage)
        except VmimgError as error:
            yield from _unless(known, own, error)
            return
        yield from of_info(info)
        yield from self._sizes(info, format)
        kinds = self._policy.subformats.get(format.name)
        kind = _kind(info)
        if kinds is not None and kind is not None and kind not in kinds:
            yield Finding.of(
                "subformat-not-allowed",
                f"it is a {format.name} of the kind {kind}; policy {self._policy.name} takes "
                f"{', '.join(kinds)}",
                evidence=kind,
            )
        try:
            # A layer closes its storage with it, and this one is only lent.
            lent = SliceStorage(storage, 0, storage.size)
            driver.open(lent, writable=False, companions=_no_companions, keys=None).close()
        except (_NotFollowed, LockedImage, ChainError):
            pass
        except VmimgError as error:
            yield from _unless(known, own, error)

    def _sizes(self, info: ImageInfo, format: Format) -> Iterator[Finding]:
        self.virtual_size = info.virtual_size
        limit = self._policy.max_virtual_size
        if limit is not None and info.virtual_size > limit:
            yield Finding.of(
                "too-large",
                f"the disk has {format_size(info.virtual_size)} ({info.virtual_size} bytes); "
                f"policy {self._policy.name} takes {format_size(limit)}",
            )
        if info.virtual_size > format.limits.max_size:
            yield Finding.of(
                "impossible-size",
                f"the disk has {info.virtual_size} bytes, more than a {format.name} can hold",
            )

    def _inside(self, storage: Storage, view: View, best: Claim) -> Iterator[Finding]:
        """The disks of a bundle, and what a stream unpacks to."""
        for name, start, size in disks_inside(view, best)[:_MAX_DISKS]:
            member = SliceStorage(storage, start, size, f"{storage.name}:{name}")
            yield from self._nested(member, name)
        if best.family == "compressed":
            held, whole = unpacked(view, best)
            if held is None:
                return
            if whole:
                yield from self._nested(held, "inside")
            else:
                yield Finding.of(
                    "unfinished",
                    f"only the first {format_size(held.size)} of what it unpacks to was looked at",
                    severity=Severity.WARNING,
                )
                inner = [claim for claim in best.inside if claim.name != "raw"]
                for claim in inner[:1]:
                    yield from _allowed(claim, self._policy)

    def _nested(self, storage: Storage, name: str) -> Iterator[Finding]:
        for finding in _Vetting(self._policy).file(storage, detect_storage(storage)):
            yield replace(finding, within="/".join(filter(None, (name, finding.within))))


def _identity(detection: Detection, declared: str | None) -> Iterator[Finding]:
    best = detection.best
    if detection.polyglot:
        names = detection.contradictions
        marks = [
            f"{claim.name} ({claim.evidence[0].meaning} at {claim.evidence[0].offset})"
            for claim in detection.claims
            if claim.name in names and claim.evidence
        ]
        yield Finding.of(
            "several-formats",
            f"it bears the marks of {' and of '.join(names)}",
            evidence=", ".join(marks),
        )
    if declared is not None and not _is_declared(best, declared):
        yield Finding.of(
            "declared-wrong",
            f"it was declared as {declared}, and is {best.name}: {best.title}",
            evidence=best.evidence[0].meaning if best.evidence else "",
            offset=best.evidence[0].offset if best.evidence else None,
        )
    if best.name == "raw":
        yield Finding.of("unrecognised")


def _is_declared(best: Claim, declared: str) -> bool:
    """Whether ``declared`` is a right word for ``best``."""
    wanted = declared.lower()
    names = {best.name, best.disk_format, best.container_format, *best.refines} - {"", "bare"}
    if best.family == "content":
        names.add("raw")
    for format in FORMATS.values():
        if format.name in names and format.name != "raw":
            names |= set(format.aliases)
    # The three of an Amazon machine: a kernel, its first file system, and the disk.
    if best.family == "boot":
        names |= {"aki"} if "initrd" not in best.name and best.name != "cpio" else {"ari"}
    if best.family == "compressed":
        names.add("ari")
    if "raw" in names:
        names.add("ami")
    return wanted in names


def _allowed(best: Claim, policy: Policy) -> Iterator[Finding]:
    names = {best.name, best.disk_format, best.container_format, *best.refines} - {"", "bare"}
    if best.family == "content":
        names.add("raw")
    if best.family == "boot":
        names |= {"aki", "ari"}
    if policy.formats and not names & set(policy.formats):
        yield Finding.of(
            "format-not-allowed",
            f"it is {best.name} ({best.title}); policy {policy.name} takes "
            f"{', '.join(policy.formats)}",
            evidence=best.name,
        )


def _kind(info: ImageInfo) -> str | None:
    for key in _KIND_KEYS:
        if key in info.details:
            return str(info.details[key])
    return None


def _guarded(vetter: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What ``vetter`` finds; that it cannot go on is a finding as well."""
    try:
        yield from vetter()
    except (UnsupportedFeature, UnsafeImage) as error:
        yield Finding.of("unsupported", _without_name(error))
    except FormatError as error:
        yield Finding.of("malformed", _without_name(error))


def _unless(known: bool, own: list[Finding], error: VmimgError) -> Iterator[Finding]:
    """A finding for ``error`` if nothing more telling has been said."""
    if known:
        return
    code = "unsupported" if isinstance(error, UnsupportedFeature | UnsafeImage) else "malformed"
    if isinstance(error, FormatError | UnsupportedFeature | UnsafeImage):
        found = Finding.of(code, _without_name(error))
        if found not in own:
            yield found
        return
    raise error


def _without_name(error: VmimgError) -> str:
    before, colon, rest = str(error).partition(": ")
    return rest if colon else before


class _NotFollowed(UnsafeImage):
    """Vetting opens nothing that an image names."""


def _no_companions(named: str, role: str, *, read_only: bool = False) -> Storage:
    raise _NotFollowed(f"its {role} is not opened")
