"""A report on a terminal: in colour, and complete on a narrow terminal too."""

from __future__ import annotations

from typing import TextIO

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from ibt_deploy.render.report import Line, Meaning, Report, Table

STYLES: dict[Meaning, str] = {
    "plain": "",
    "heading": "bold",
    "positive": "bold yellow",
    "warning": "magenta",
    "muted": "dim",
}
WIDE_GAP = 3
"""Blanks between the columns of a table if there is room for them; else there is one."""


def print_report(report: Report, out: TextIO, label_width: int) -> None:
    """Write the report to the terminal ``out``; ``label_width`` is the width of its longest label."""
    console = Console(file=out, highlight=False)
    for block in report:
        if isinstance(block, Table):
            _print_table(block, console)
        elif block.meaning == "heading":
            console.print(_text(block))
        elif block.label:
            _print_labelled(block, console, label_width)
        else:
            console.print(Padding(_text(block), (0, 0, 0, 2), expand=False))


def _text(line: Line) -> Text:
    return Text(line.text, STYLES[line.meaning], overflow="fold")


def _print_labelled(line: Line, console: Console, label_width: int) -> None:
    """Print as a grid, so that overflow continues below the text, not below the label."""
    label = Column(width=label_width, style=STYLES["muted"])
    grid = RichTable.grid(label, Column(), padding=(0, 2, 0, 0))
    grid.add_row(line.label, _text(line))
    console.print(Padding(grid, (0, 0, 0, 2), expand=False))


def _print_table(table: Table, console: Console) -> None:
    """Print with as little space between columns as needed, so that no number is cut while there is room."""
    least = _least_widths(table)
    roomy = sum(least) + WIDE_GAP * len(least) <= console.width
    fits = sum(least) + len(least) <= console.width
    shown = RichTable(
        box=box.SIMPLE if roomy else None,
        padding=(0, 1) if roomy else (0, 1, 0, 0),
        header_style=STYLES["muted"],
        pad_edge=False,
    )
    for title, head, width in zip(table.titles, table.heads, least, strict=True):
        shown.add_column(
            head,
            justify="right" if title != head else "left",
            min_width=width if fits else None,
            overflow="fold",
        )
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row.cells), style=STYLES[row.meaning])
    margin = 0 if roomy else 1  # the wide kind has its own
    console.print(Padding(shown, (margin, 0), expand=False))


def _least_widths(table: Table) -> list[int]:
    """Widths of the columns at which no word or number has to be cut."""
    columns = zip(table.heads, *(row.cells for row in table.rows), strict=True)
    return [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
