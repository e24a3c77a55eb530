"""What clients send, against JSON schemas. jsonschema is imported when the first of it comes: the
service is ready before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

from vmimg.service.http.errors import bad_request

__all__ = ["Schema"]

# A value in a message: what a client sent is no longer than needed to be recognised.
_SHOWN: Final = 400


class Schema:
    """One JSON schema; ``name`` is what clients are told of it."""

    def __init__(self, name: str, said: Mapping[str, Any]) -> None:
        self._name = name
        self._said = said

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import Draft202012Validator

        return Draft202012Validator(self._said)

    def check(self, said: Any) -> None:
        """Raises HTTPError 400 where ``said`` does not match, in Glance's words."""
        from jsonschema.exceptions import best_match

        error = best_match(self._validator.iter_errors(said))
        if error is not None:
            raise bad_request(self._mismatch(error))

    def _mismatch(self, error: Any) -> str:
        where = "".join(f"[{part!r}]" for part in error.absolute_path)
        rule = "".join(f"[{part!r}]" for part in list(error.absolute_schema_path)[:-1])
        message = error.message
        if len(message) > _SHOWN:
            # The value comes first, what is wrong with it last.
            message = f"{message[: _SHOWN // 2]}...{message[-_SHOWN // 2 :]}"
        return (
            f"Provided object does not match schema '{self._name}': {message}\n\n"
            f"Failed validating {error.validator!r} in schema{rule}\n\nOn instance{where}"
        )
