"""Scenarios: quotas that Keystone has.

For a Glance with ``use_keystone_limits``; what the limits are is set between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from compare import OCTETS, Run

__all__ = ["LIMITS"]

MIB = 1 << 20


def limits_that_are_not_registered(run: Run) -> None:
    run.ask("alice", "GET", "/v2/info/usage")
    run.ask("alice", "POST", "/v2/images", {"name": "x"})


def limits_of_keystone(run: Run) -> None:
    # What Keystone has for all projects: 5 MiB stored, 5 staged, 3 images, 1 coming.
    first, second, third = run.image(), run.image(), run.image()
    run.ask("alice", "POST", "/v2/images", {"name": "the fourth"})
    _say(run, f"{first}/file", 6 * MIB)
    _send(run, f"{first}/file", 3 * MIB)
    _say(run, f"{second}/file", 3 * MIB)
    run.ask("alice", "GET", second)
    _say(run, f"{second}/stage", 6 * MIB)
    _send(run, f"{second}/stage", 2 * MIB)
    _send(run, f"{third}/file", 1)
    run.ask("alice", "GET", "/v2/info/usage")
    run.ask("alice", "POST", f"{second}/import", {"method": {"name": "glance-direct"}})
    run.settled("alice", second)
    _send(run, f"{third}/stage", 2 * MIB)
    run.ask("alice", "POST", f"{third}/import", {"method": {"name": "glance-direct"}})
    run.settled("alice", third)
    # What it has for this one: 1 image, and no other limit.
    own = run.image("bob")
    run.ask("bob", "POST", "/v2/images", {"name": "the second"})
    _send(run, f"{own}/stage", 6 * MIB, "bob")
    run.ask("bob", "GET", "/v2/info/usage")
    # Copies count.
    copied = run.active(b"x" * MIB, "admin")
    copy = {"method": {"name": "copy-image"}, "stores": ["slow"]}
    run.ask("admin", "POST", f"{copied}/import", copy)
    run.settled("admin", copied)
    run.ask("admin", "GET", "/v2/info/usage")


def limits_of_a_keystone_that_is_away(run: Run) -> None:
    run.ask("alice", "GET", "/v2/info/usage")
    run.ask("alice", "POST", "/v2/images", {"name": "x"})


def _send(run: Run, path: str, size: int, who: str = "alice") -> None:
    run.ask(who, "PUT", path, b"x" * size, OCTETS)


def _say(run: Run, path: str, size: int) -> None:
    """As if so much came: who is refused at once sends nothing more."""
    run.ask("alice", "PUT", path, b"x", OCTETS | {"X-OpenStack-Image-Size": str(size)})


LIMITS: Final[Mapping[str, Callable[[Run], None]]] = {
    each.__name__: each
    for each in (
        limits_that_are_not_registered, limits_of_keystone, limits_of_a_keystone_that_is_away
    )
}  # fmt: skip
