"""What whom is allowed: rules by name, with Glance's defaults, and those of vmimg.toml above them.

    [policy]
    publicize_image = "role:admin or role:publisher"
    delete_image = "role:admin or (role:member and owner)"

A rule is made of ``role:NAME``, ``owner`` (the caller's project has the thing), ``member`` (it was
shared with the caller's project), ``community``, ``public``, ``shared`` (the thing's visibility),
``rule:NAME``, ``all``, ``none``; ``not``, ``and``, ``or`` and brackets. What a project has no part
in is not found by it, whatever the rules say: only then they are asked. Names and defaults are
those of Glance's policy reference
(https://docs.openstack.org/glance/latest/configuration/glance_policy.html).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from vmimg.errors import OptionError
from vmimg.service.identity.caller import Caller

__all__ = ["DEFAULTS", "Policy", "Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """What an operation is about, as far as a rule looks at it."""

    owner: str | None = None
    visibility: str = "private"
    is_member: bool = False
    """It was shared with the caller's project."""


_SEEN: Final = "(owner or member or community or public or shared)"
_READ: Final = f"role:admin or (role:reader and {_SEEN})"
_DOWNLOAD: Final = f"role:admin or (role:member and {_SEEN})"
_OWN: Final = "role:admin or (role:member and owner)"
_METADEF_READ: Final = "role:admin or (role:reader and (owner or public))"
_METADEF_CHANGE: Final = "rule:metadef_admin"
DEFAULTS: Final[Mapping[str, str]] = {
    "add_image": "role:admin or (role:member and owner)",
    "delete_image": _OWN,
    "restore_image": "role:admin",
    "get_image": _READ,
    "get_images": "role:admin or role:reader",
    "modify_image": _OWN,
    "publicize_image": "role:admin",
    "communitize_image": _OWN,
    "download_image": _DOWNLOAD,
    "download_from_store": _DOWNLOAD,
    "upload_image": _OWN,
    "delete_image_location": "role:admin",
    "get_image_location": "role:admin or (role:reader and owner)",
    "set_image_location": _OWN,
    "add_image_location": "role:service or role:admin or (role:member and owner)",
    "fetch_image_location": "role:service or role:admin",
    "add_member": _OWN,
    "delete_member": _OWN,
    "get_member": "role:admin or (role:reader and (owner or member))",
    "get_members": "role:admin or (role:reader and (owner or member))",
    "modify_member": "role:admin or (role:member and member)",
    "deactivate": _OWN,
    "reactivate": _OWN,
    "copy_image": "role:admin",
    "get_task": "all",
    "get_tasks": "all",
    "add_task": "all",
    "modify_task": "all",
    "tasks_api_access": "role:admin",
    "manage_image_cache": "role:admin",
    "cache_list": "role:admin",
    "cache_image": "role:admin",
    "cache_delete": "role:admin",
    "cache_clean": "role:admin",
    "cache_prune": "role:admin",
    "list_cached_nodes": "role:admin",
    "stores_info_detail": "role:admin or role:service",
    "metadef_default": "all",
    "metadef_admin": "role:admin",
    "get_metadef_namespace": _METADEF_READ,
    "get_metadef_namespaces": "role:admin or (role:reader and owner)",
    "modify_metadef_namespace": _METADEF_CHANGE,
    "add_metadef_namespace": _METADEF_CHANGE,
    "delete_metadef_namespace": _METADEF_CHANGE,
    "get_metadef_object": _METADEF_READ,
    "get_metadef_objects": _METADEF_READ,
    "modify_metadef_object": _METADEF_CHANGE,
    "add_metadef_object": _METADEF_CHANGE,
    "delete_metadef_object": _METADEF_CHANGE,
    "list_metadef_resource_types": _METADEF_READ,
    "get_metadef_resource_type": _METADEF_READ,
    "add_metadef_resource_type_association": _METADEF_CHANGE,
    "remove_metadef_resource_type_association": _METADEF_CHANGE,
    "get_metadef_property": _METADEF_READ,
    "get_metadef_properties": _METADEF_READ,
    "modify_metadef_property": _METADEF_CHANGE,
    "add_metadef_property": _METADEF_CHANGE,
    "remove_metadef_property": _METADEF_CHANGE,
    "get_metadef_tag": _METADEF_READ,
    "get_metadef_tags": _METADEF_READ,
    "modify_metadef_tag": _METADEF_CHANGE,
    "add_metadef_tag": _METADEF_CHANGE,
    "add_metadef_tags": _METADEF_CHANGE,
    "delete_metadef_tag": _METADEF_CHANGE,
    "delete_metadef_tags": _METADEF_CHANGE,
}

_Rule = Callable[[Caller, Target], bool]
_TOKENS: Final = re.compile(r"\s*(\(|\)|[A-Za-z0-9_:.-]+)")
_MAX_DEPTH: Final = 32
_WORDS: Final[Mapping[str, _Rule]] = {
    "all": lambda caller, target: True,
    "none": lambda caller, target: False,
    "owner": lambda caller, target: caller.project is not None and caller.project == target.owner,
    "member": lambda caller, target: target.is_member,
    "community": lambda caller, target: target.visibility == "community",
    "public": lambda caller, target: target.visibility == "public",
    "shared": lambda caller, target: target.visibility == "shared",
}


class Policy:
    """The rules of a deployment.

    Raises OptionError for a rule that does not exist or cannot be read.
    """

    def __init__(self, rules: Mapping[str, str] | None = None) -> None:
        said = {**DEFAULTS, **(rules or {})}
        unknown = sorted(set(rules or {}) - set(DEFAULTS) - _referred(said))
        if unknown:
            raise OptionError(f"policy.{unknown[0]}: there is no such rule")
        self._said = said
        self._rules = {name: self._read(name, text, 0) for name, text in said.items()}

    def allows(self, rule: str, caller: Caller, target: Target) -> bool:
        """Whether ``caller`` may do to ``target`` what ``rule`` is about."""
        return self._rules[rule](caller, target)

    def _read(self, name: str, text: str, depth: int) -> _Rule:
        tokens = _tokens(name, text)
        rule = self._either(name, tokens, depth)
        if tokens:
            raise OptionError(f"policy.{name}: {tokens[0]!r} is not expected in {text!r}")
        return rule

    def _either(self, name: str, tokens: list[str], depth: int) -> _Rule:
        rules = [self._both(name, tokens, depth)]
        while tokens and tokens[0] == "or":
            tokens.pop(0)
            rules.append(self._both(name, tokens, depth))
        return lambda caller, target: any(rule(caller, target) for rule in rules)

    def _both(self, name: str, tokens: list[str], depth: int) -> _Rule:
        rules = [self._one(name, tokens, depth)]
        while tokens and tokens[0] == "and":
            tokens.pop(0)
            rules.append(self._one(name, tokens, depth))
        return lambda caller, target: all(rule(caller, target) for rule in rules)

    def _one(self, name: str, tokens: list[str], depth: int) -> _Rule:
        if not tokens:
            raise OptionError(f"policy.{name}: the rule ends where a condition is expected")
        if depth > _MAX_DEPTH:
            raise OptionError(
                f"policy.{name}: too many brackets, or rules that refer to each other in a circle"
            )
        word = tokens.pop(0)
        if word == "not":
            rule = self._one(name, tokens, depth + 1)
            return lambda caller, target: not rule(caller, target)
        if word == "(":
            inside = self._either(name, tokens, depth + 1)
            if not tokens or tokens.pop(0) != ")":
                raise OptionError(f"policy.{name}: a bracket is not closed")
            return inside
        kind, _, value = word.partition(":")
        if kind == "role" and value:
            role = value.lower()
            return lambda caller, target: role in caller.roles
        if kind == "rule" and value in self._said:
            return self._read(name, self._said[value], depth + 1)
        if word in _WORDS:
            return _WORDS[word]
        raise OptionError(f"policy.{name}: {word!r} is no condition")


def _tokens(name: str, text: str) -> list[str]:
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise OptionError(f"policy.{name}: cannot be read from {text[at:]!r} on")
        found.append(match[1])
        at = match.end()
    return found


def _referred(rules: Mapping[str, str]) -> set[str]:
    return {found for text in rules.values() for found in re.findall(r"rule:([\w.-]+)", text)}
