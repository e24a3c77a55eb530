"""What comes in, judged: while it streams, and as a whole before anybody may have it.

An image whose bytes are not what it was declared as, that names files of its reader, or that can be
taken for two things, never becomes active. What is learned on the way (virtual size, firmware,
architecture, the guest's system) fills in what the owner did not say. Imports probe, machines and
bundles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from vmimg.errors import VmimgError
from vmimg.formats.vetting import Severity
from vmimg.probe.inspector import Inspector
from vmimg.probe.policy import Policy
from vmimg.probe.vetting import Report, vet_storage
from vmimg.service.data.learning import learned
from vmimg.service.http.errors import HTTPError
from vmimg.service.http.receiving import Piece
from vmimg.service.stores.base import StoreUnreachable, Unusable
from vmimg.storage.base import Storage

__all__ = ["Judge", "Judgement"]

# Container formats that are what the file is; in the others it is the disk format.
_PACKED: Final = frozenset({"ova", "ovf", "docker", "compressed"})
_MOST_TOLD: Final = 3
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found out about an image that may become active."""

    virtual_size: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


class Judge:
    """For one image: ``disk_format`` and ``container_format`` as it was declared.

    ``policy``: None stores it unseen. ``max_virtual_size``: bytes, 0 for no limit. ``learn``: tell
    what it says of the machine that it is for.
    """

    def __init__(
        self,
        policy: Policy | None,
        disk_format: str | None,
        container_format: str | None,
        max_virtual_size: int = 0,
        *,
        learn: bool = True,
    ) -> None:
        self._policy = policy
        self._learn = learn
        self._disk_format = disk_format
        self._declared = container_format if container_format in _PACKED else disk_format
        self._max = max_virtual_size
        self._inspector = Inspector("upload") if policy is not None else None

    def look(self, piece: Piece) -> None:
        """The next piece as it streams.

        Raises HTTPError 415 as soon as it is clear that this is not what was declared.
        """
        inspector = self._inspector
        if inspector is None or inspector.answer is not None:
            return
        inspector.feed(piece)
        answer = inspector.answer
        if answer is None or answer.family != "disk" or self._declared is None:
            return
        if self._declared in ("raw", "iso", "aki", "ari", "ami"):
            raise _refused(f"it was declared as {self._declared}, and is {answer.name}")

    def judge(self, storage: Storage) -> Judgement:
        """The whole, as it lies in its store.

        Raises HTTPError 415 where it may not become active.
        """
        if self._policy is None:
            return Judgement()
        try:
            report = vet_storage(storage, policy=self._policy, declared=self._declared)
        except (StoreUnreachable, Unusable):
            raise  # nothing was found out
        except VmimgError as error:
            raise _refused(str(error)) from error
        _check(report, storage.size)
        size = report.virtual_size
        if size is None and self._disk_format in ("raw", "iso") and self._declared != "compressed":
            size = storage.size
        if size is not None and self._max and size > self._max:
            raise _refused(f"its virtual size of {size} bytes is above the limit of {self._max}")
        return Judgement(size, learned(storage, report) if self._learn else {})


def _check(report: Report, size: int) -> None:
    errors = [each for each in report.findings if each.severity >= Severity.ERROR]
    if size < _SECTOR:
        # Without a single sector it is no disk, and nothing that a reader could fall for: what
        # people try a service with.
        errors = [each for each in errors if each.code != "odd-field"]
    if not errors:
        return
    told = [f"{each.code}: {each.message}" for each in errors[:_MOST_TOLD]]
    more = len(errors) - len(told)
    raise _refused("; ".join(told) + (f"; and {more} more" if more else ""))


def _refused(why: str) -> HTTPError:
    return HTTPError(415, f"The image is refused: {why}")
