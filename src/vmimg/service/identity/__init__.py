"""Who asks: a `caller.Caller`, from nobody in particular on loopback, or from Keystone.

Keystone may also be asked what each project may take: `unified`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request

from vmimg.errors import OptionError
from vmimg.service.identity.caller import Caller
from vmimg.service.settings import Settings

if TYPE_CHECKING:
    from vmimg.service.identity.unified import UnifiedLimits

__all__ = ["Authenticator", "authenticator", "unified_limits"]

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


def unified_limits(settings: Settings) -> UnifiedLimits | None:
    """Who says what projects may take, if it is not the settings.

    Raises OptionError where Keystone could not be asked with them.
    """
    if settings.limits.quotas != "keystone":
        return None
    from vmimg.service.identity.unified import UnifiedLimits

    return UnifiedLimits(settings.limits.keystone, settings.identity.keystone)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
