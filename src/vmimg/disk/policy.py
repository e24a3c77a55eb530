"""ParentPolicy: what an image may make its reader do: which other files it may have opened, and how
large a disk it may claim to be.

An image names other files: a parent, a data file, extents. Following such a name is a decision
about trust, so it is made here and nowhere else: a companion is opened only if it lies in the
image's own directory or below a directory that the user allowed, and a parent only with the format
that the image declares for it. Clouds were broken by the other way: CVE-2024-32498 is a data file
called /etc/passwd, CVE-2008-2004 a guest that wrote a qcow2 header into its raw disk. Imports
errors only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from vmimg.errors import ChainError, UnsafeImage

__all__ = ["ParentPolicy"]

# Backup tools make chains of some hundreds. A stack is read by recursion, one frame for each layer,
# and Python allows 1000 of them with the caller's own.
_MAX_DEPTH = 512
# The most that VHDX holds; what says more is nearly always a header that lies, and everything that
# reads whole disks (convert, compare) would go through all of it.
_MAX_SIZE = 64 << 40


@dataclass(frozen=True, slots=True)
class ParentPolicy:
    """What the user allows.

    ``allowed``: directories below which companions may lie, besides the image's own directory.
    ``parent_format``: the format of a parent whose child declares none.
    ``follow``: False to open the top layer only, as `info` does.
    ``max_depth``: layers a chain may have.
    ``max_size``: virtual bytes that an image may say it has, and bytes that a compressed source may
    unpack to.
    ``allow_changed``: read a child above a parent that is not, or no longer, the one it was made
    for.
    """

    allowed: tuple[str | os.PathLike[str], ...] = ()
    parent_format: str | None = None
    follow: bool = True
    max_depth: int = _MAX_DEPTH
    max_size: int = _MAX_SIZE
    allow_changed: bool = False

    def admit(self, image: str, size: int) -> None:
        """Raises UnsafeImage where ``image`` says it has more virtual bytes than are allowed."""
        if size > self.max_size:
            raise UnsafeImage(
                f"{image}: says that its disk has {size} bytes, and {self.max_size} are allowed; "
                f"pass --max-size {size} if you believe it"
            )

    def resolve(self, image: str, named: str, role: str) -> str:
        """The path to open for ``named``, as written in ``image``; ``role`` says what it is.

        Symbolic links are resolved before the decision. Raises UnsafeImage, naming what to pass to
        allow it, and ChainError where the name cannot be a file.
        """
        if not named or "\0" in named:
            raise ChainError(f"{image}: the name of its {role} is empty or not a file name")
        scheme = named.partition(":")[0]
        if named.startswith("json:") or "://" in named or scheme in ("nbd", "rbd", "ssh", "iscsi"):
            raise UnsafeImage(
                f"{image}: its {role} is '{named}', which is not a file; "
                "vmimg follows files only: rebase the image, or flatten it where it can be reached"
            )
        named = named.removeprefix("file:")
        home = os.path.dirname(os.path.realpath(image))
        target = os.path.realpath(os.path.join(home, named))
        roots = [home, *(os.path.realpath(root) for root in self.allowed)]
        if any(_is_below(target, root) for root in roots):
            return target
        raise UnsafeImage(
            f"{image}: its {role} '{named}' lies outside the directory of the image; "
            f"pass --allow-dir {os.path.dirname(target)} if you trust it"
        )


def _is_below(path: str, root: str) -> bool:
    return os.path.commonpath((path, root)) == root
