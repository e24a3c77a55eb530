"""The one who asks: what policies and visibility look at."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANYONE", "Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    user: str = ""
    """The user's identifier; empty where nobody is known."""
    project: str | None = None
    """The project that the caller acts for: the owner of what it makes."""
    roles: frozenset[str] = frozenset()
    """Lower case: ``admin``, ``member``, ``reader``, ``service``, and what a deployment has."""
    user_name: str = ""
    project_name: str = ""
    token: str = ""
    """For requests to other services in the caller's name; never logged."""

    def __repr__(self) -> str:
        return f"Caller(user={self.user!r}, project={self.project!r}, roles={sorted(self.roles)})"

    @property
    def is_admin(self) -> bool:
        """Whether the caller is allowed what administrators are."""
        return "admin" in self.roles


ANYONE = Caller(
    user="anyone", project=None, roles=frozenset({"admin", "member", "reader"}), user_name="anyone"
)
"""The caller where nobody is asked who he is: a service on loopback, of one person."""
