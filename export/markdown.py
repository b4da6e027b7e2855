"""Markdown of a model card: tables, and figures as a reader wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from ibt_deploy.evaluation.subgroups import AGE_BANDS, UNKNOWN

T = TypeVar("T")
NOTHING = "-"
YOUNGEST = AGE_BANDS[0][1]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; columns whose title ends in ``>`` are aligned to the right."""
    titles = [title.removesuffix(">") for title in header]
    rule = ["---:" if title.endswith(">") else "---" for title in header]
    lines = ([cell.replace("|", "\\|") for cell in row] for row in (titles, rule, *rows))
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""]


def decimal(value: float | None, digits: int = 3) -> str:
    """A number, or a dash; never minus zero."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def ranged(figure: dict[str, Any] | None, digits: int = 3) -> str:
    """A figure with its interval: ``0.812 (0.790-0.833)``."""
    if figure is None or figure["value"] is None:
        return NOTHING
    if figure["interval"] is None:
        return decimal(figure["value"], digits)
    low, high = (decimal(bound, digits) for bound in figure["interval"])
    # a dash between two negative numbers cannot be read
    between = " to " if "-" in low + high else "-"
    return f"{decimal(figure['value'], digits)} ({low}{between}{high})"


def count(value: int) -> str:
    """A whole number with thousands."""
    return f"{value:,}"


def bullets(lines: Iterable[str]) -> list[str]:
    """One line each."""
    return ["", *(f"- {line}" for line in lines), ""]


def in_order(groups: dict[str, T]) -> list[tuple[str, T]]:
    """Sub-groups in the order a reader expects: the youngest first, what is unknown last."""
    return sorted(groups.items(), key=lambda entry: (entry[0] == UNKNOWN, entry[0] != YOUNGEST, entry[0]))


def counted(counts: dict[str, int]) -> str:
    """``a 3, b 2`` of a dictionary of counts; ``none`` for an empty one."""
    return ", ".join(f"{name} {count(n)}" for name, n in counts.items()) or "none"
