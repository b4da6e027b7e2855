"""Figures of the study as cells of its report: value, interval, seeds, and what was not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ibt_deploy.render.markdown import UNDEFINED, bounds, decimal

NOT_RUN = "not run"


def signed_decimal(value: float | None, digits: int = 3) -> str:
    """A difference with its sign."""
    text = decimal(value, digits)
    return text if value is None or text.startswith("-") or float(text) == 0 else f"+{text}"


def signed_bounds(interval: Sequence[float | None] | None, digits: int = 3) -> str:
    """``-0.012 to +0.034``; empty for no interval."""
    return "" if interval is None else " to ".join(signed_decimal(bound, digits) for bound in interval)


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
        text += f" ({signed_bounds(figure['interval'], digits)})"
    text = f"**{text}**" if figure.get("resolved") else text
    return text + _seeds(figure, digits)


def _seeds(figure: Mapping[str, Any], digits: int) -> str:
    if len(figure.get("per_seed", {})) < 2:
        return ""
    return f" [{bounds(figure['range'], digits)}]"


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
