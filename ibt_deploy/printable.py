"""Text that is safe to show: names come from files, and files come from anywhere."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""``text`` with every character that cannot be seen as its escape: ``\x1b`` recolours a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: object) -> str:
    """``text`` as one printable line."""
    return printable(" ".join(str(text).split()))
