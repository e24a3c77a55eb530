"""Which work each type of task is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vmimg.service.tasks import importing, legacy, locating
from vmimg.service.tasks.running import Work

__all__ = ["WORK"]

WORK: Final[Mapping[str, Work]] = {
    "api_image_import": importing.run,
    "import": legacy.run,
    "location_import": locating.run,
}
