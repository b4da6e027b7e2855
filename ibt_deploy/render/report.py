"""Reports: semantic lines and tables, for a terminal or plain text; tables and numbers in Markdown.

The terminal renderer, and rich with it, is imported only for a terminal, because ``ibt predict`` must start
fast in scripts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TextIO

from ibt_deploy.errors import printable

Meaning = Literal["plain", "heading", "positive", "warning", "muted"]


@dataclass(frozen=True)
class Line:
    """One line of text, preceded by ``label`` if that is not empty."""

    text: str
    meaning: Meaning = "plain"
    label: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    cells: tuple[str, ...]
    meaning: Meaning = "plain"


@dataclass(frozen=True)
class Table:
    """Rows under titles; a title ending in ``>`` heads a column of numbers, which is right-aligned."""

    titles: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """The titles without their alignment marks."""
        return tuple(title.removesuffix(">") for title in self.titles)


Report = Sequence[Line | Table]


def plain_text(report: Report) -> str:
    """The report without colour, columns aligned with spaces."""
    report = [_printable(block) for block in report]
    width = _label_width(report)
    lines: list[str] = []
    for block in report:
        if isinstance(block, Table):
            lines += [*([] if lines[-1:] == [""] else [""]), *_plain_table(block), ""]
        elif block.meaning == "heading":
            lines.append(block.text)
        else:
            lines.append(f"  {block.label:<{width}}  {block.text}" if block.label else f"  {block.text}")
    return "\n".join(lines).rstrip("\n")


def show(report: Report, stream: TextIO | None = None) -> None:
    """Write the report: in colour on a terminal (unless NO_COLOR is set), as plain text elsewhere."""
    out = stream or sys.stdout
    if not out.isatty():
        print(plain_text(report), file=out, flush=True)
        return
    from ibt_deploy.render.terminal import print_report

    print_report([_printable(block) for block in report], out, _label_width(report))


def number(value: float, digits: int = 3) -> str:
    """A number for people; a dash if it is undefined."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def spans(numbers: Sequence[int]) -> str:
    """Ascending integers as ranges: ``1-3, 7``."""
    parts: list[tuple[int, int]] = []
    for n in numbers:
        if parts and n == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], n)
        else:
            parts.append((n, n))
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _printable(block: Line | Table) -> Line | Table:
    if isinstance(block, Line):
        return replace(block, text=printable(block.text))
    rows = tuple(replace(row, cells=tuple(map(printable, row.cells))) for row in block.rows)
    return replace(block, rows=rows)


def _label_width(report: Report) -> int:
    return max((len(block.label) for block in report if isinstance(block, Line)), default=0)


def _plain_table(table: Table) -> list[str]:
    cells = [table.heads, *(row.cells for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.titles))]
    right = [title.endswith(">") for title in table.titles]
    return [
        "  "
        + "  ".join(
            f"{cell:>{width}}" if to_right else f"{cell:<{width}}"
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]


UNDEFINED = "-"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; columns whose title ends in ``>`` are right-aligned."""
    titles = [title.removesuffix(">") for title in header]
    rule = ["---:" if title.endswith(">") else "---" for title in header]
    lines = ([cell.replace("|", "\\|") for cell in row] for row in (titles, rule, *rows))
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""]


def decimal(value: float | None, digits: int = 3) -> str:
    """A number, never minus zero; a dash if it is undefined."""
    if value is None:
        return UNDEFINED
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def bounds(interval: Sequence[float | None], digits: int = 3) -> str:
    """``0.790-0.833``, or with ``to`` where a dash could be read as a minus."""
    low, high = (decimal(bound, digits) for bound in interval)
    return f"{low}{' to ' if '-' in low + high else '-'}{high}"


def count(value: int) -> str:
    """An integer with thousands separators."""
    return f"{value:,}"


def counted(counts: Mapping[str, int]) -> str:
    """``a 3, b 2`` from counts by name; ``none`` if there are none."""
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
