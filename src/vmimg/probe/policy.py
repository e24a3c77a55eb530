"""Policy: which images are taken, as a small TOML file says it.

Three come with vmimg: `strict`, `openstack` and `desktop`. A file of one's own has the same keys::

    title = "what our upload service takes"
    based-on = "strict"                    # the rest is as there
    formats = ["raw", "qcow2", "vmdk"]     # names of claims, or Glance's; none given: all
    max-virtual-size = "2T"
    refuse = ["snapshots", "dirty"]        # these are errors; "*": every warning is
    allow = ["hidden-data"]                # these are notes, and count for nothing

    [subformats]
    vmdk = ["streamOptimized"]

Imports the table of codes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from vmimg.errors import OptionError, StorageError
from vmimg.formats.vetting import CODES, Finding, Severity, printable
from vmimg.units import parse_size

__all__ = ["BUILT_IN", "Policy"]

BUILT_IN: Final = ("strict", "openstack", "desktop")
_FOLDER: Final = Path(__file__).with_name("policies")
_MAX_BYTES: Final = 1 << 20
_EVERY_WARNING: Final = "*"


@dataclass(frozen=True, slots=True)
class Policy:
    """``formats``: what may be taken, by the names of claims or of the OpenStack Image API; empty:
    all. ``subformats``: for some formats, which kinds. ``max_virtual_size`` in bytes. ``refuse``:
    codes that are errors, "*" for all warnings; ``allow``: codes that are notes, stronger.
    """

    name: str
    title: str = ""
    formats: tuple[str, ...] = ()
    subformats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    max_virtual_size: int | None = None
    refuse: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Policy:
        """The one of that name, or the one in the file at that path.

        Raises OptionError where it is neither, or the file is not a policy.
        """
        text = os.fspath(name)
        if text in BUILT_IN:
            return cls._read(_FOLDER / f"{text}.toml", text)
        if not os.path.exists(text):
            raise OptionError(
                f"there is no policy '{text}', and no such file; there are {', '.join(BUILT_IN)}"
            )
        return cls._read(Path(text), text)

    @classmethod
    def _read(cls, path: Path, name: str) -> Policy:
        try:
            with open(path, "rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StorageError(f"{name}: cannot read the policy: {reason}") from error
        if len(data) > _MAX_BYTES:
            raise OptionError(f"{name}: is no policy: it has more than {_MAX_BYTES} bytes")
        return cls.parse(data, name)

    @classmethod
    def parse(cls, data: bytes, name: str) -> Policy:
        """The policy that ``data`` is. Raises OptionError, saying which key is wrong."""
        try:
            given = tomllib.loads(data.decode("utf-8"))
        # ValueError: of UTF-8, of TOML, and of a number of thousands of digits.
        except (ValueError, RecursionError) as error:
            raise OptionError(f"{name}: is no policy: {printable(str(error))}") from error
        base = given.pop("based-on", None)
        if base is not None and base not in BUILT_IN:
            raise OptionError(f"{name}: based-on is one of {', '.join(BUILT_IN)}")
        policy = cls.load(base) if base is not None else cls(name)
        return replace(policy, name=name, **_fields(given, name))

    def judge(self, finding: Finding) -> Finding:
        """``finding`` with the severity that it has here."""
        if finding.code in self.allow:
            return replace(finding, severity=Severity.NOTE)
        # Vetting itself made a note of it: this case of the code is harmless.
        played_down = finding.severity < min(CODES[finding.code].severity, Severity.WARNING)
        raised = (finding.code in self.refuse and not played_down) or (
            _EVERY_WARNING in self.refuse and finding.severity == Severity.WARNING
        )
        return replace(finding, severity=Severity.ERROR) if raised else finding


def _fields(given: dict[str, Any], name: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in given.items():
        wrong = f"{name}: the policy's {key} is not "
        if key == "title":
            if not isinstance(value, str):
                raise OptionError(f"{wrong}text")
            fields["title"] = value
        elif key == "max-virtual-size":
            try:
                size = parse_size(value) if isinstance(value, str) else value
            except OptionError as error:
                raise OptionError(f"{wrong}a size: {printable(str(error))}") from None
            if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
                raise OptionError(f'{wrong}a size such as "2T"')
            fields["max_virtual_size"] = size
        elif key in ("formats", "refuse", "allow"):
            if not _is_names(value):
                raise OptionError(f"{wrong}a list of names")
            if key != "formats":
                _check_codes(value, name, key)
            fields[key] = tuple(value)
        elif key == "subformats":
            if not isinstance(value, dict) or not all(map(_is_names, value.values())):
                raise OptionError(f"{wrong}a table with a list of names for each format")
            fields["subformats"] = {format: tuple(kinds) for format, kinds in value.items()}
        else:
            raise OptionError(
                f"{name}: a policy has no key '{printable(key)}'; it has title, based-on, formats, "
                "subformats, max-virtual-size, refuse and allow"
            )
    return fields


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _check_codes(codes: list[str], name: str, key: str) -> None:
    for code in codes:
        if code not in CODES and not (code == _EVERY_WARNING and key == "refuse"):
            shown = printable(code)
            raise OptionError(f"{name}: {key} names '{shown}', which no finding is called")
