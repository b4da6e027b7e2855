"""Cells and captions of the report: values with intervals, sizes of sets, commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ibt_deploy.render.markdown import UNDEFINED, bounds, count, decimal, ranged
from training.study.study import LEFT_OUT

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
    return ranged(figure, digits) + _seeds(figure, digits)


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
    """The value at ``keys`` in nested dictionaries; None where a key is missing."""
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


FIGURES = {
    "scores": "figure-1-scores.svg",
    "cka": "figure-2-cka.png",
    "attention": "figure-3-attention.png",
    "attention_numbers": "figure-3-attention-numbers.svg",
    "curves": "learning-curves.svg",
    "reliability": "reliability.svg",
    "alarms": "alarm-burden.svg",
}
"""File of each picture."""


def data_line(results: Mapping[str, Any]) -> str:
    """Sizes of the parts, budget and seeds, in a sentence."""
    sets, seeds = results["data"]["sets"], results["seeds"]
    sizes = "; ".join(f"{name} {_size(sets[name])}" for name in ("train", "validation", "test"))
    runs = results["runs"]
    done = sum(run["trained"] for run in runs)
    return (
        f"**{results['task'].capitalize()}**: {sizes}; budget `{results['budget']}`, seeds "
        f"{', '.join(map(str, seeds))}, {done} of {len(runs)} planned runs trained; cache "
        f"`{results['data']['cache_sha256'][:12]}`, split `{results['data']['split_sha256'][:12]}`."
    )


def _size(entry: Mapping[str, int]) -> str:
    if "stays" in entry:
        return (
            f"{count(entry['stays'])} patients ({count(entry['septic'])} septic, {count(entry['hours'])} h)"
        )
    return f"{count(entry['recordings'])} ECGs of {count(entry['patients'])} patients"


def source(results: Mapping[str, Any], place: str, purpose: str) -> str:
    """What every number of a table carries: n, seeds, interval, command."""
    sets = results["data"]["sets"]
    size = _size(sets[place]) if place in sets else place
    return (
        f"n = {size}; seeds {', '.join(map(str, results['seeds']))}; 95 % intervals over patients, "
        f"{count(results['bootstrap']['draws'])} draws; `{results['command']} --only {purpose}`"
    )


def set_name(results: Mapping[str, Any], place: str, found: Mapping[str, Any]) -> str:
    """The set whose size belongs to a table."""
    return place if place in results["data"]["sets"] else str(found["set"])


def purpose_of(found: Mapping[str, Any]) -> str:
    """What is trained for a table."""
    return "sites" if found["set"] == LEFT_OUT else "methods"
