"""How the tables came to be what they are, step by step; Alembic runs them."""

from __future__ import annotations

from typing import Final

__all__ = ["LATEST"]

LATEST: Final = "0001"
"""The last step."""
