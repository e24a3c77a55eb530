"""The exception tree of vmimg: everything that malformed input, a policy or the system can raise.

A message says which file, what is wrong, at which offset where that helps, and what to do. The
command prints it as one line. Imports nothing of vmimg; everyone may import it.
"""

from __future__ import annotations

from unicodedata import category

__all__ = [
    "ChainError",
    "FormatError",
    "InUseError",
    "Interrupted",
    "LockedImage",
    "OptionError",
    "StorageError",
    "UnsafeImage",
    "UnsupportedFeature",
    "VmimgError",
]


class VmimgError(Exception):
    """Root of the tree. ``str()`` of it is the one line that a user reads: whatever a stranger has
    put into a name, it ends no line and steers no terminal.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() or category(c) == "Zs" else "?" for c in text)


class FormatError(VmimgError):
    """The bytes of an image break the rules of its format."""


class UnsupportedFeature(VmimgError):
    """The image is sound but asks for something that this version cannot do; it is named."""


class UnsafeImage(VmimgError):
    """A policy refused what an image asks its reader to do; the message says what allows it."""


class LockedImage(VmimgError):
    """The image is encrypted, and no key was given or it is not the right one."""


class ChainError(VmimgError):
    """A parent, data file or extent is missing, loops, or does not fit its child."""


class StorageError(VmimgError):
    """The operating system (or a server) failed to read, write, open or make room."""


class OptionError(VmimgError):
    """The caller asked for something that does not exist or does not fit together."""


class InUseError(VmimgError):
    """Another process holds the image; the lock is named."""


class Interrupted(VmimgError):
    """The work was stopped on request (SIGINT, SIGTERM, or a progress callback that said so)."""
