"""Markdown of the report: tables, and figures as a reader wants them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_RUN, UNDEFINED = "not run", "-"


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


def bounds(interval: Sequence[float | None] | None, digits: int = 3, *, signed: bool = False) -> str:
    """``0.790-0.833``, or with ``to`` where a dash could be read as a minus; empty for no interval."""
    if interval is None:
        return ""
    low, high = (signed_decimal(b, digits) if signed else decimal(b, digits) for b in interval)
    return f"{low}{' to ' if signed or '-' in low + high else '-'}{high}"


def signed_decimal(value: float | None, digits: int = 3) -> str:
    """A difference with its sign."""
    text = decimal(value, digits)
    return text if value is None or text.startswith("-") or float(text) == 0 else f"+{text}"


def cell(figure: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Value, interval and, with several seeds, their range; ``not run`` where there is no figure."""
    if figure is None:
        return NOT_RUN
    if figure["value"] is None:
        return UNDEFINED
    text = decimal(figure["value"], digits)
    if figure.get("interval"):
        text += f" ({bounds(figure['interval'], digits)})"
    return text + _seeds(figure, digits)


def gap(figure: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A difference with its interval; in bold where that excludes 0."""
    if figure is None:
        return NOT_RUN
    if figure["value"] is None:
        return UNDEFINED
    text = signed_decimal(figure["value"], digits)
    if figure.get("interval"):
        text += f" ({bounds(figure['interval'], digits, signed=True)})"
    text = f"**{text}**" if figure.get("resolved") else text
    return text + _seeds(figure, digits)


def _seeds(figure: Mapping[str, Any], digits: int) -> str:
    if len(figure.get("per_seed", {})) < 2:
        return ""
    return f" [{bounds(figure['range'], digits)}]"


def count(value: int) -> str:
    """A whole number with thousands."""
    return f"{value:,}"


def image(title: str, path: str) -> list[str]:
    """An embedded picture."""
    return ["", f"![{title}]({path})", ""]


def at(tree: Any, *keys: str) -> Any:
    """What lies below ``keys`` in nested dictionaries; None where something is missing on the way."""
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree
