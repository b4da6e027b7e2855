"""Two small diagrams as hand-written SVG, so that neither needs matplotlib: reliability, and stability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

BLUE, ORANGE, GREY, PALE = "#0072b2", "#d55e00", "#888888", "#dddddd"
SIDE, MARGIN, TOP = 320, 52, 30
LEAST = 1e-4
ROW, NAME_WIDTH, BAR_WIDTH = 18, 190, 300

Points = Sequence[tuple[float, float]]


def reliability_svg(title: str, series: Sequence[tuple[str, Points]]) -> str:
    """Observed share over mean probability on logarithmic axes, one line of points per series."""
    lowest = min((v for _, points in series for point in points for v in point if v > 0), default=0.01)
    first = math.floor(math.log10(max(lowest, LEAST)))
    size = SIDE + MARGIN + 20

    def place(value: float) -> float:
        return SIDE * (math.log10(max(value, 10.0**first)) - first) / -first

    def x(value: float) -> float:
        return MARGIN + place(value)

    def y(value: float) -> float:
        return TOP + SIDE - place(value)

    parts = [_text(MARGIN, 18, title, weight="bold")]
    for decade in range(first, 1):
        value = 10.0**decade
        parts += [
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{TOP + SIDE}" stroke="{PALE}"/>',
            f'<line x1="{MARGIN}" x2="{MARGIN + SIDE}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="{PALE}"/>',
            _text(x(value), TOP + SIDE + 16, f"{value:g}", anchor="middle"),
            _text(MARGIN - 6, y(value) + 4, f"{value:g}", anchor="end"),
        ]
    parts.append(
        f'<line x1="{MARGIN}" y1="{TOP + SIDE}" x2="{MARGIN + SIDE}" y2="{TOP}" stroke="{GREY}" '
        'stroke-dasharray="4 3"/>'
    )
    for i, ((name, points), colour) in enumerate(zip(series, (ORANGE, BLUE), strict=False)):
        path = " ".join(f"{x(p):.1f},{y(o):.1f}" for p, o in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts += [f'<circle cx="{x(p):.1f}" cy="{y(o):.1f}" r="3" fill="{colour}"/>' for p, o in points]
        parts.append(_text(MARGIN + 8, TOP + 18 + 15 * i, name, colour=colour))
    parts.append(_text(MARGIN + SIDE / 2, TOP + SIDE + 34, "mean probability", anchor="middle"))
    return _svg(size, TOP + SIDE + 44, parts)


def stability_svg(title: str, values: Sequence[tuple[str, float]], limits: tuple[float, float]) -> str:
    """A bar for each named index, with the two limits above which a change is moderate or large."""
    most = max([limits[1] * 1.5, *(value for _, value in values)])
    height = TOP + ROW * len(values) + 30

    def x(value: float) -> float:
        return NAME_WIDTH + BAR_WIDTH * value / most

    parts = [_text(10, 18, title, weight="bold")]
    for limit in limits:
        parts += [
            f'<line x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="{TOP}" y2="{height - 24}" stroke="{GREY}" '
            'stroke-dasharray="4 3"/>',
            _text(x(limit), height - 8, f"{limit:g}", anchor="middle"),
        ]
    for i, (name, value) in enumerate(values):
        y = TOP + ROW * i
        colour = ORANGE if value >= limits[1] else BLUE if value >= limits[0] else GREY
        parts += [
            _text(NAME_WIDTH - 6, y + 13, name, anchor="end"),
            f'<rect x="{NAME_WIDTH}" y="{y + 3}" width="{max(x(value) - NAME_WIDTH, 1):.1f}" '
            f'height="{ROW - 6}" fill="{colour}"/>',
            _text(x(value) + 4, y + 13, f"{value:.2f}"),
        ]
    return _svg(NAME_WIDTH + BAR_WIDTH + 60, height, parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222222", weight: str = "normal"
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}" font-weight="{weight}">{escape(text)}</text>'
