"""docs/service.md shows every setting, in an example that can be used as it stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vmimg.service.settings import Settings, load

PAGE = Path(__file__).resolve().parents[2] / "docs" / "service.md"


def example() -> str:
    """The settings of the page."""
    found = re.search(r"^## Settings$.*?^```toml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert found is not None
    return found.group(1)


def lacking(model: type[BaseModel], said: dict[str, Any], where: str = "") -> Iterator[str]:
    """The settings of ``model`` that are not among those that are ``said``."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if name not in said:
            yield where + name
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from lacking(kind, said[name], f"{where}{name}.")
        elif name == "stores":
            shown = set().union(*said[name].values())
            yield from (f"stores.{key}" for key in _of_a_store() - shown)


def _of_a_store() -> set[str]:
    from vmimg.service.settings import Store

    return set(Store.model_fields)


def test_the_example_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "vmimg.toml"
    path.write_text(example())
    settings = load(path)
    assert settings.first_store == "fast"
    assert settings.limits.quotas == "keystone"


def test_every_setting_is_in_the_example() -> None:
    assert list(lacking(Settings, tomllib.loads(example()))) == []
