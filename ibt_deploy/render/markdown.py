"""Markdown for reports and model cards: tables and numbers as a reader wants them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def counted(counts: Mapping[str, int]) -> str:
    """``a 3, b 2`` of counts by name; ``none`` where there are none."""
    return ", ".join(f"{name} {count(n)}" for name, n in counts.items()) or "none"


def ranged(figure: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A figure (``value``, and ``interval`` or None) with its interval: ``0.812 (0.790-0.833)``."""
    if figure is None or figure["value"] is None:
        return UNDEFINED
    value = decimal(figure["value"], digits)
    return value if not figure.get("interval") else f"{value} ({bounds(figure['interval'], digits)})"


def bullets(lines: Iterable[str]) -> list[str]:
    """A list with one item per line, between blank lines."""
    return ["", *(f"- {line}" for line in lines), ""]
