"""YAML of strangers: what is wrong with it, found before anything is built from it.

No aliases, of which a few lines nest to more than any memory; and bounds on bytes, depth and
events. Source: YAML 1.1 as PyYAML reads it.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

__all__ = ["LOADER", "yaml_problem"]

LOADER: Final[Any] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""Texts, lists and mappings: no types, no tags."""
_MAX_BYTES: Final = 512 << 10
_MAX_EVENTS: Final = 40_000
_MAX_DEPTH: Final = 64


def yaml_problem(data: bytes) -> str:
    """In words that follow the name of what it is, "" where it can be read."""
    if len(data) > _MAX_BYTES:
        return f"has {len(data)} bytes, which no metadata has"
    depth = 0
    try:
        for count, event in enumerate(yaml.parse(data, Loader=LOADER)):
            if isinstance(event, yaml.AliasEvent):
                return f"has an alias ('*{event.anchor}'), which it needs not"
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH or count > _MAX_EVENTS:
                return "is larger or deeper than any metadata"
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return f"the YAML is broken{line}: {error.problem}"
    except (yaml.YAMLError, ValueError, RecursionError):
        return "is no YAML"
    return ""
