"""check: one image file's metadata, through its format's driver."""

from __future__ import annotations

import os

from vmimg.disk.policy import ParentPolicy
from vmimg.errors import OptionError, UnsupportedFeature
from vmimg.formats.detect import identify
from vmimg.formats.driver import CheckReport
from vmimg.formats.keys import Keys, as_keys
from vmimg.formats.opening import Chain, open_file
from vmimg.formats.registry import find

__all__ = ["NothingToCheck", "check"]

_DEFAULT_POLICY = ParentPolicy()


class NothingToCheck(UnsupportedFeature):
    """The format has no metadata that could be inconsistent, or none that vmimg can check."""


def check(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    repair: str = "",
    share: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
) -> CheckReport:
    """Check the metadata of the image at ``path``; its parents are not looked at.

    ``format``: detected where None. ``repair``: "leaks" or "all" mends what is found; the image is
    opened for writing then. ``share`` takes no locks. ``keys``: of an image whose metadata is
    encrypted as well, see `open_disk`. Raises NothingToCheck for a format that
    cannot be checked.
    """
    if repair not in ("", "leaks", "all"):
        raise OptionError(f"repair is leaks or all, not '{repair}'")
    if share and repair:
        raise OptionError("an image cannot be shared (-U) and repaired")
    found = find(format) if format is not None else None
    chain = Chain(policy, share=share)
    try:
        storage = chain.adopt(open_file(path, "rw" if repair else "r", lock=not share))
        if found is None:
            found = identify(storage)
        if not found.capabilities.check:
            raise NothingToCheck(f"{storage.name}: {found.name} images have nothing to check")
        companions = chain.companions(storage, writable=bool(repair))
        return found.driver().check(
            storage, companions=companions, repair=repair, keys=as_keys(keys)
        )
    finally:
        chain.close()
