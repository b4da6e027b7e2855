"""The picture of a model card, as SVG: training loss, validation metric, reliability on the test part.

Drawn by hand, because the picture is three small panels and the product must not need matplotlib for a card.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 300, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 26, 36
STUDENT, TEACHER, GREY = "#0072b2", "#d55e00", "#888888"
LEAST = 1e-4
METRIC = {"arrhythmia": "challenge metric", "sepsis": "utility"}

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a panel; ``best`` is marked with a ring."""

    name: str
    colour: str
    points: Points
    best: tuple[float, float] | None = None
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """One diagram; ``corner`` is where the names of its lines stand, out of their way.

    ``decades`` says that the points are logarithms and both axes alike.
    """

    title: str
    x: str
    lines: list[Line]
    corner: tuple[str, str]
    decades: bool = False


def curves_svg(contract: dict[str, Any]) -> str:
    """The picture for a bundle's contract."""
    runs = [("student", STUDENT, contract["training"]["student"])]
    if contract["training"]["teacher"] is not None:
        runs.append(("teacher", TEACHER, contract["training"]["teacher"]))
    panels = [
        Panel(
            "training: loss on the labels",
            "epoch",
            [_curve(name, colour, run, "train", "task") for name, colour, run in runs],
            ("top", "right"),
        ),
        Panel(
            f"validation: {METRIC[contract['task']]}",
            "epoch",
            [_curve(name, colour, run, "validation", "selection") for name, colour, run in runs],
            ("bottom", "right"),
        ),
        _reliability(contract["metrics"]["test"]["calibration"]["bins"]),
    ]
    drawn = [_panel(panel, i * WIDTH) for i, panel in enumerate(panels)]
    size = f'width="{len(panels) * WIDTH}" height="{HEIGHT}" viewBox="0 0 {len(panels) * WIDTH} {HEIGHT}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
            '<rect width="100%" height="100%" fill="white"/>',
            *drawn,
            "</svg>",
            "",
        ]
    )


def _curve(name: str, colour: str, run: dict[str, Any], part: str, key: str) -> Line:
    # a network that is trained on labels alone has no term besides the loss
    values = [(e["epoch"], e[part].get(key, e[part].get("loss"))) for e in run["curve"]]
    points = [(float(epoch), float(value)) for epoch, value in values if value is not None]
    best = next((p for p in points if p[0] == run["best_epoch"]), None)
    return Line(name, colour, points, best)


def _reliability(bins: list[dict[str, Any]]) -> Panel:
    points = [(_decade(b["predicted"]), _decade(b["observed"])) for b in bins]
    ends = [v for point in points for v in point] or [0.0]
    return Panel(
        "reliability (test): observed share",
        "mean predicted probability",
        [
            Line("ideal", GREY, [(min(ends),) * 2, (max(ends),) * 2], dashed=True),
            Line("tenths of the predictions", STUDENT, points, dots=True),
        ],
        ("top", "left"),
        decades=True,
    )


def ticks(low: float, high: float, *, whole: bool = False, most: int = 5) -> list[float]:
    """About ``most`` round numbers, or ``whole`` ones, from at or below ``low`` to at or above ``high``."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    steps = [m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9)]
    step = next((s for s in steps if s == int(s)), 1.0) if whole else steps[0]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _panel(panel: Panel, shift: int) -> str:
    points = [p for line in panel.lines for p in line.points]
    parts = [f'<g transform="translate({shift},0)">', _text(LEFT, 15, panel.title, weight="bold")]
    if not points:
        return "\n".join([*parts, _text(LEFT, HEIGHT // 2, "no record of the epochs"), "</g>"])
    if panel.decades:
        low, high = _ends([v for point in points for v in point])
        xs = ys = [float(k) for k in range(math.floor(low), max(math.ceil(high), math.floor(low) + 1) + 1)]
    else:
        xs = ticks(*_ends([p[0] for p in points]), whole=True)
        ys = ticks(*_ends([p[1] for p in points]))
    across, down = _scale(xs, LEFT, WIDTH - RIGHT), _scale(ys, HEIGHT - BOTTOM, TOP)
    for y in ys:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}" stroke="#dddddd"/>'
        )
        parts.append(_text(LEFT - 5, down(y) + 4, _mark(panel, y), anchor="end"))
    parts += [_text(across(x), HEIGHT - BOTTOM + 14, _mark(panel, x), anchor="middle") for x in xs]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, panel.x, anchor="middle"))
    parts += [part for line in panel.lines for part in _line(line, across, down)]
    parts += _names(panel)
    return "\n".join([*parts, "</g>"])


def _mark(panel: Panel, value: float) -> str:
    return f"{10**value if panel.decades else value:g}"


def _decade(share: float) -> float:
    """Logarithm of a share; what is below the least that is drawn counts as that."""
    return math.log10(max(share, LEAST))


def _names(panel: Panel) -> list[str]:
    vertical, horizontal = panel.corner
    first = TOP + 12 if vertical == "top" else HEIGHT - BOTTOM - 6 - 13 * (len(panel.lines) - 1)
    x, anchor = (LEFT + 6, "start") if horizontal == "left" else (WIDTH - RIGHT - 4, "end")
    return [
        _text(x, first + 13 * i, line.name, anchor=anchor, colour=line.colour)
        for i, line in enumerate(panel.lines)
    ]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _scale(marks: list[float], start: float, end: float) -> Any:
    low, high = marks[0], marks[-1]
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _line(line: Line, across: Any, down: Any) -> list[str]:
    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line.points)
    dash = ' stroke-dasharray="4 3"' if line.dashed else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6"{dash}/>']
    if line.dots:
        parts += [
            f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.5" fill="{line.colour}"/>'
            for x, y in line.points
        ]
    if line.best is not None:
        x, y = line.best
        parts.append(
            f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="4" fill="none" stroke="{line.colour}" '
            'stroke-width="1.6"/>'
        )
    return parts


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222222", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
