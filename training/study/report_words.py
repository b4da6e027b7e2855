"""Words that every section of the report uses: how many, of what, by which command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ibt_deploy.render.markdown import count
from training.study.study import LEFT_OUT

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
