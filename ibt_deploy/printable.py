"""Text that is safe to show: names come from files, and files come from anywhere."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""``text`` with every character that cannot be seen as its escape: ``\x1b`` recolours a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, where another package may have written pages; else its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_line(text: object) -> str:
    """``text`` as one printable line."""
    return printable(" ".join(str(text).split()))
