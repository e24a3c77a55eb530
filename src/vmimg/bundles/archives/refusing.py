"""Refusing: what the vetting calls an error of an archive is refused while it is opened.

Members are judged as they come by, so that an archive of any size costs no second walk. Imports
the vetters.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmimg.errors import UnsafeImage
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe.entries import Entry
from vmimg.probe.vetters.members import MemberErrors

__all__ = ["Refusing"]


class Refusing:
    """Of the archive ``name``. ``tree``: where in it the files of a whole system are ("rootfs/"),
    which rightly have links and devices.
    """

    def __init__(self, name: str, *, tree: str | None = None) -> None:
        self._name = name
        self._errors = MemberErrors(tree=tree)

    def member(self, entry: Entry, *, twice: bool) -> None:
        """The next member; ``twice``: there was one of its name before. Raises UnsafeImage."""
        found = self._errors.of(entry, twice=twice)
        if found is not None:
            self.findings((found,))

    def findings(self, findings: Iterable[Finding]) -> None:
        """Raises UnsafeImage for the first of them that is an error."""
        for finding in findings:
            if finding.severity == Severity.ERROR:
                raise UnsafeImage(f"{self._name}: {finding.message} ({finding.code})")
