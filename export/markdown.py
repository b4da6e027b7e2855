"""Parts of a model card in Markdown: figures with intervals, lists, sub-groups in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from ibt_deploy.evaluation.labels import AGE_BANDS, UNKNOWN
from ibt_deploy.render.markdown import UNDEFINED, bounds, count, decimal

T = TypeVar("T")
YOUNGEST = AGE_BANDS[0][1]


def ranged(figure: dict[str, Any] | None, digits: int = 3) -> str:
    """A figure with its interval: ``0.812 (0.790-0.833)``."""
    if figure is None or figure["value"] is None:
        return UNDEFINED
    value = decimal(figure["value"], digits)
    return value if figure["interval"] is None else f"{value} ({bounds(figure['interval'], digits)})"


def bullets(lines: Iterable[str]) -> list[str]:
    """One line each."""
    return ["", *(f"- {line}" for line in lines), ""]


def in_order(groups: dict[str, T]) -> list[tuple[str, T]]:
    """Sub-groups in the order a reader expects: the youngest first, what is unknown last."""
    return sorted(groups.items(), key=lambda entry: (entry[0] == UNKNOWN, entry[0] != YOUNGEST, entry[0]))


def counted(counts: dict[str, int]) -> str:
    """``a 3, b 2`` of a dictionary of counts; ``none`` for an empty one."""
    return ", ".join(f"{name} {count(n)}" for name, n in counts.items()) or "none"
