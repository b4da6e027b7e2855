"""Markdown for reports and model cards: tables and numbers as a reader wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

UNDEFINED = "-"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; columns whose title ends in ``>`` are aligned to the right."""
    titles = [title.removesuffix(">") for title in header]
    rule = ["---:" if title.endswith(">") else "---" for title in header]
    lines = ([cell.replace("|", "\\|") for cell in row] for row in (titles, rule, *rows))
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""]


def decimal(value: float | None, digits: int = 3) -> str:
    """A number, never minus zero; a dash where it is undefined."""
    if value is None:
        return UNDEFINED
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def bounds(interval: Sequence[float | None], digits: int = 3) -> str:
    """``0.790-0.833``, or with ``to`` where a dash could be read as a minus."""
    low, high = (decimal(bound, digits) for bound in interval)
    return f"{low}{' to ' if '-' in low + high else '-'}{high}"


def count(value: int) -> str:
    """A whole number with thousands."""
    return f"{value:,}"
