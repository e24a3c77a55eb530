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
from time import process_time
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
from vmimg.formats.registry import FORMATS, by_extension, find
from vmimg.formats.vetting import Finding, Severity, of_info
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import Detection, detect, detect_storage
from vmimg.probe.identity import vet_allowed, vet_identity, vet_likeness
from vmimg.probe.policy import Policy
from vmimg.probe.vetters import unpacked, vetters
from vmimg.probe.vetters.folders import vet_folder
from vmimg.probe.vetters.inside import disks_inside
from vmimg.storage.base import Storage
from vmimg.storage.listing import listed
from vmimg.storage.slice import SliceStorage
from vmimg.units import format_size

__all__ = ["Report", "vet", "vet_storage"]

# What formats call their kind in ImageInfo.details.
_KIND_KEYS: Final = ("subformat", "create-type", "version")
# Disks in a bundle that are vetted; what has more than that has no room for them in a machine.
_MAX_DISKS: Final = 16
# Bundles in bundles; a disk inside is begun in so much processor time, of the 2 s for everything.
_MAX_DEPTH: Final = 3
_MAX_ENTRIES: Final = 1000
# Files and directories of a directory that are looked at, with all that is below it.
_MAX_FILES: Final = 128
_SECONDS_INSIDE: Final = 0.7


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

    def __init__(self, policy: Policy, budget: _Budget | None = None, depth: int = 0) -> None:
        self._policy = policy
        self._budget = budget or _Budget()
        self._depth = depth
        self.virtual_size: int | None = None

    def file(
        self, storage: Storage, detection: Detection, declared: str | None = None
    ) -> Iterator[Finding]:
        """Everything about the file itself, then about what it holds."""
        best = detection.best
        yield from vet_identity(detection, declared)
        yield from vet_allowed(best, self._policy)
        yield from vet_likeness(storage, best)
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
        for finding in self._folder(path, detection, declared):
            # What a machine's disk names beside itself came with the machine, and was vetted too.
            if finding.code == "external-extent" and finding.within:
                yield replace(finding, severity=Severity.NOTE)
            else:
                yield finding

    def _folder(self, path: str, detection: Detection, declared: str | None) -> Iterator[Finding]:
        yield from vet_identity(detection, declared)
        yield from vet_allowed(detection.best, self._policy)
        for claim in detection.claims:
            if claim.family == "disk":
                with open_file(path, lock=False) as storage:
                    yield from self._disk(storage, find(claim.name))
        yield from vet_folder(path)
        if not any(claim.family == "disk" for claim in detection.claims):
            yield from self._files(path, 0)

    def _files(self, path: str, depth: int) -> Iterator[Finding]:
        """The files of a directory that are something, each by itself; no link is followed."""
        for entry in listed(path, _MAX_ENTRIES):
            inner = os.path.join(path, entry.name)
            if entry.kind not in ("file", "folder") or entry.name == "rootfs":
                continue
            if depth >= _MAX_DEPTH or not self._budget.look():
                yield Finding.of(
                    "unfinished", f"'{entry.name}' was not looked at, nor what is behind it"
                )
                return
            if entry.kind == "folder":
                for finding in (*vet_folder(inner), *self._files(inner, depth + 1)):
                    within = "/".join(filter(None, (entry.name, finding.within)))
                    yield replace(finding, within=within)
            else:
                with open_file(inner, lock=False) as storage:
                    # What says nothing and is not called a disk is nobody's to open: a log, a note.
                    known = detect_storage(storage).best.name != "raw"
                    if known or by_extension(entry.name) is not None:
                        yield from self._nested(storage, entry.name)

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
        for name, disk in disks_inside(view, best):
            if self._depth >= _MAX_DEPTH or not self._budget.spend():
                yield Finding.of(
                    "unfinished",
                    f"the disk in its member '{name}' was not looked at, nor any behind it",
                    evidence=name,
                )
                break
            if disk is None:
                yield Finding.of(
                    "unfinished",
                    f"the disk in its member '{name}' was not unpacked and not looked at",
                    evidence=name,
                )
            else:
                yield from self._nested(disk, name)
        if best.family == "compressed":
            held, whole = unpacked(view)
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
                    yield from vet_allowed(claim, self._policy)

    def _nested(self, storage: Storage, name: str) -> Iterator[Finding]:
        inner = _Vetting(self._policy, self._budget, self._depth + 1)
        for finding in inner.file(storage, detect_storage(storage)):
            yield replace(finding, within="/".join(filter(None, (name, finding.within))))


class _Budget:
    """What all that is inside of one file may take together."""

    def __init__(self) -> None:
        self._disks = _MAX_DISKS
        self._looks = _MAX_FILES
        self._until = process_time() + _SECONDS_INSIDE

    def look(self) -> bool:
        """Whether there is room for a look at one more file or directory."""
        self._looks -= 1
        return self._looks >= 0 and process_time() < self._until

    def spend(self) -> bool:
        """Whether there is room for one more disk."""
        self._disks -= 1
        return self._disks >= 0 and process_time() < self._until


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
