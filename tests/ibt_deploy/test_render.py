from __future__ import annotations

import io
import re

import pytest

from ibt_deploy.progress import shown
from ibt_deploy.render.report import Line, Report, Row, Table, number, plain_text, show, spans

REPORT: Report = [
    Line("title", "heading"),
    Line("12-lead", label="input"),
    Line("take care", "warning", label="warning"),
    Table(("name", "value>"), (Row(("a", "1.0")), Row(("long name", "10.0"), "positive"))),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_text_is_aligned() -> None:
    assert plain_text(REPORT).splitlines() == [
        "title",
        "  input    12-lead",
        "  warning  take care",
        "",
        "  name       value",
        "  a            1.0",
        "  long name   10.0",
    ]
    assert "\n\n\n" not in plain_text([*REPORT, *REPORT])


def test_colour_only_on_a_terminal_and_not_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    piped, terminal, colourless = io.StringIO(), Terminal(), Terminal()
    show(REPORT, piped)
    assert piped.getvalue() == plain_text(REPORT) + "\n"
    show(REPORT, terminal)
    assert "\x1b[1;33m" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    show(REPORT, colourless)
    assert "\x1b[1;33m" not in colourless.getvalue()
    for text in ("long name", "take care", "10.0"):
        assert text in colourless.getvalue()


@pytest.mark.parametrize("columns", [24, 40, 55, 80, 200])
def test_a_narrow_terminal_loses_nothing(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    hash_of_bundle = "0123456789abcdef" * 4
    rows = tuple(Row((f"c{i}", "premature atrial contraction", *[f"0.12{i}"] * 4)) for i in range(9))
    titles = ("", "name", "probability>", "threshold>", "AUROC>", "cal. intercept>")
    terminal = Terminal()
    show([Line(f"{hash_of_bundle}, with more after it", label="bundle"), Table(titles, rows)], terminal)
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "\u2026" not in text
    assert hash_of_bundle in "".join(text.replace("bundle", "").split())
    assert max(map(len, text.splitlines())) <= columns
    if columns >= 55:
        assert all(text.count(f"0.12{i}") == 4 for i in range(9))


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([1, 2, 3, 7], "1-3, 7"), ([1, 3, 4], "1, 3-4")]
)
def test_spans(numbers: list[int], text: str) -> None:
    assert spans(numbers) == text


def test_an_undefined_number_is_a_dash() -> None:
    assert number(float("nan")) == "-"
    assert number(0.12345) == "0.123"


def test_progress_passes_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    things = list(range(50))
    assert list(shown(things, "x")) == things
    monkeypatch.setattr("sys.stderr", Terminal())
    assert list(shown(things, "x")) == things
