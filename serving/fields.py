"""What the fields of a JSON object must be."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

from serving.problems import Problem

_RECORD = re.compile(r"[A-Za-z0-9_-]{1,64}")


def as_object(value: Any, allowed: Set[str], *, required: Set[str] = frozenset()) -> dict[str, Any]:
    """``value`` as an object with the ``required`` fields and none but the ``allowed``."""
    if not isinstance(value, dict):
        raise Problem("bad_fields", "The body must be a JSON object.")
    if not allowed >= value.keys():
        raise Problem("bad_fields", f"There is an unknown field; known are: {', '.join(sorted(allowed))}.")
    if missing := sorted(required - value.keys()):
        raise Problem("bad_fields", f"There is no field {', '.join(map(repr, missing))}.")
    return value


def record_name(value: Any, default: str) -> str:
    """A record's name as the client states it, or the default for None."""
    if value is None:
        return default
    if not isinstance(value, str) or not _RECORD.fullmatch(value):
        raise Problem(
            "bad_fields",
            "'record' must be 1 to 64 letters, digits, underscores or hyphens (no personal data).",
        )
    return value
