"""The report: what held of the paper's claims in its first ten lines, then every table and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ibt_deploy.render.markdown import count, table
from training.study.claims import FAILED, HELD, NOT_RUN, NOT_SEEN, SEEN, UNRESOLVED
from training.study.markdown import signed_bounds, signed_decimal
from training.study.paper import CITATION
from training.study.report_sections import sections
from training.study.report_words import data_line

TITLES = {"sepsis": "Sepsis (ICU stays)", "arrhythmia": "Arrhythmia (12-lead ECG)"}
SHOWN_FIRST = ((HELD, "Held"), (FAILED, "Did not hold"), (UNRESOLVED, "Not resolved by these data"))
FIRST_LINES = 10


def report_text(studies: Sequence[Mapping[str, Any]], folders: Sequence[str]) -> str:
    """The report as Markdown.

    Parameters
    ----------
    studies
        Contents of ``results.json``, one for each task.
    folders
        Where the figures of each are, relative to the report.
    """
    lines = [
        "# Does block-by-block matching transfer inductive bias? A reproduction",
        "",
        "Research software, not a medical device. A claim held where the paired interval of the difference "
        "excludes 0 on its side; numbers in brackets are differences with 95 % intervals over patients.",
    ]
    for results in studies:
        lines += _answers(results)
    if len(lines) > FIRST_LINES:
        raise ValueError("the answers do not fit the first ten lines")
    lines += ["", *_reading(studies)]
    for results, folder in zip(studies, folders, strict=True):
        lines += ["", f"## {TITLES[results['task']]}", *_claims(results), *sections(results, folder)]
    return "\n".join(_single_blanks(lines)) + "\n"


def _answers(results: Mapping[str, Any]) -> list[str]:
    """Three bullets: what held, what did not, what is not resolved and what was not run."""
    task, found = results["task"].capitalize(), results["claims"]
    told = {
        verdict: [f"{c['claim']} ({_difference(c['difference'])})" for c in found if c["verdict"] == verdict]
        for verdict in (HELD, FAILED, UNRESOLVED)
    }
    lines = [f"- **{task}. {title}:** {'; '.join(told[v]) or 'nothing'}." for v, title in SHOWN_FIRST]
    if left := [c["claim"] for c in found if c["verdict"] == NOT_RUN]:
        lines[-1] += f" *Not run:* {'; '.join(left)}."
    return lines


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not run"
    interval = signed_bounds(found["interval"])
    return f"{signed_decimal(found['value'])}{', ' + interval if interval else ''}"


def _reading(studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """How to read every number below, and where it comes from."""
    lines = [
        f"The paper is {CITATION}. Its own numbers stand below in columns headed *paper*; they are from "
        "other data (the whole Challenge 2021; private external sets), without seeds or intervals, and are "
        "not comparable digit by digit.",
        "",
        "How to read the numbers: `0.360 (0.315-0.404)` is the mean over seeds with its 95 % interval over "
        f"patients ({count(studies[0]['bootstrap']['draws'])} bootstrap draws of patients, the same draws "
        "for every method); with several seeds their range follows in square brackets. Differences are "
        "paired, and bold where the interval excludes 0. Calibration and thresholds come from the validation "
        "part alone. *not run* marks what was planned and not measured; nothing is filled in.",
        "",
    ]
    for results in studies:
        lines += [f"- {data_line(results)} Command: `{results['command']}`."]
    return lines


def _claims(results: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            claim["claim"],
            claim["expected"],
            claim["verdict"],
            "" if claim["difference"] is None else _difference(claim["difference"]),
        )
        for claim in results["claims"]
    ]
    return [
        "",
        "### Claims, with what was expected before training",
        *table(("claim", "expected", "verdict", "difference"), rows),
        f"*{SEEN}* and *{NOT_SEEN}* mark numbers without an interval over patients; they count as neither.",
    ]


def _single_blanks(lines: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    return kept
