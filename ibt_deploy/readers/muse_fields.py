"""Values in the XML of ECG carts: numbers and samples as text."""

from __future__ import annotations

import base64
import binascii
import math
import re
from xml.etree.ElementTree import Element

from ibt_deploy.errors import MalformedFile

_NUMBER = re.compile(r"\s*[+-]?(?:\d{1,18}\.?\d{0,18}|\.\d{1,18})(?:[eE][+-]?\d{1,3})?\s*")


def text_of(element: Element, path: str) -> str:
    """Text at ``path`` below ``element``, stripped; empty where there is none."""
    return (element.findtext(path) or "").strip()


def number_in(text: str) -> float | None:
    """The finite number that ``text`` is, or None."""
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def decoded(text: str, what: str) -> bytes:
    """Bytes of a Base64 text, blanks and line ends aside; MalformedFile where it is damaged."""
    packed = "".join(text.split())
    try:
        return base64.b64decode(packed.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise MalformedFile(f"{what}: damaged Base64") from error


def sex_of(text: str) -> str | None:
    """``Male`` or ``Female``, or None for anything else."""
    return {"m": "Male", "male": "Male", "f": "Female", "female": "Female"}.get(text.strip().lower())
