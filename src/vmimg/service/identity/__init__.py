"""Who asks: a `caller.Caller`, from nobody in particular on loopback, or from Keystone."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

from starlette.requests import Request

from vmimg.errors import OptionError
from vmimg.service.identity.caller import Caller
from vmimg.service.settings import Settings

__all__ = ["Authenticator", "authenticator"]

Authenticator = Callable[[Request], Awaitable[Caller]]
"""Says who sent a request; raises HTTPError 401."""


def authenticator(settings: Settings) -> Authenticator:
    """How this deployment finds out who asks.

    Raises OptionError for one that asks nobody and listens beyond loopback.
    """
    if settings.identity.mode == "keystone":
        from vmimg.service.identity.keystone import Keystone

        return Keystone(settings.identity.keystone).authenticate
    if not settings.identity.allow_anyone and not _is_loopback(settings.server.host):
        raise OptionError(
            f"server.host = {settings.server.host!r}: whoever reaches it would be an administrator;"
            " set identity.mode = 'keystone', or identity.allow_anyone = true to allow that"
        )
    from vmimg.service.identity import open

    return open.authenticate


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
