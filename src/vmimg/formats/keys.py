"""Keys: where the passphrases of encrypted images come from.

A format asks for a key when it opens an image that needs one, and never sees how it was got: from a
file, a prompt, the environment. Keys stand in no message and no repr of ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vmimg.errors import LockedImage

__all__ = ["Keys", "as_keys", "candidates", "no_keys"]

Keys = Callable[[str], bytes]
"""``keys(name)``: the passphrase, or the bytes of the key file, of the image called ``name``.
Raises LockedImage where there is none."""

_NEWLINES: Final = (b"\r\n", b"\n")


def no_keys(name: str) -> bytes:
    """The Keys of those who have none."""
    raise LockedImage(f"{name}: is encrypted, and no passphrase or key file was given")


def as_keys(given: Keys | bytes | str | None) -> Keys:
    """One passphrase for all images, or none, as Keys."""
    if given is None:
        return no_keys
    if isinstance(given, str):
        given = given.encode()
    if isinstance(given, bytes):
        key = given
        return lambda name: key
    return given


def candidates(key: bytes) -> tuple[bytes, ...]:
    """What ``key`` may stand for where the right one can be told: itself, or itself without the
    newline that an editor or echo put behind it.
    """
    for newline in _NEWLINES:
        if key.endswith(newline) and len(key) > len(newline):
            return key, key.removesuffix(newline)
    return (key,)
