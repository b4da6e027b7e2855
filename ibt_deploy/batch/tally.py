"""Counts of a part or of a whole run, and their ``summary.json`` and ``report.html``.

The page is self-contained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import Any

import numpy as np

from ibt_deploy.batch.plan import Job
from ibt_deploy.bundle import BundleClass
from ibt_deploy.errors import one_line
from ibt_deploy.predictions import LEFT_OUT, NOTICE, Prediction, Refusal
from ibt_deploy.types import NOUNS, PARTS, Floats
from ibt_deploy.vocabulary import INDEX, VARIABLES

LONGEST_EXAMPLE = 300


@dataclass
class Tally:
    """Counts of the outcomes of some inputs.

    Attributes
    ----------
    inputs
        Files, members of archives or patients that were planned.
    records
        Recordings or stays that were scored.
    rows
        Rows written to ``predictions/``: as many as records, or one for each hour of each stay.
    refused, warnings
        Refused inputs, and records with warnings, by code.
    examples
        The message of the first refusal of each code.
    positives
        Recordings with each finding, by abbreviation.
    alarm_hours, alarm_stays
        Hours with an alarm, stays with at least one.
    histograms
        Counts between the edges: for each finding over recordings, for ``risk`` over hours and for
        ``highest risk`` over stays.
    """

    inputs: int = 0
    records: int = 0
    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    positives: Counter[str] = field(default_factory=Counter)
    alarm_hours: int = 0
    alarm_stays: int = 0
    histograms: dict[str, list[int]] = field(default_factory=dict)

    @property
    def n_refused(self) -> int:
        """Number of refusals of every code, without the files left out."""
        return sum(self.refused.values()) - self.refused[LEFT_OUT]

    @property
    def n_left_out(self) -> int:
        """Number of files that are clearly not records."""
        return self.refused[LEFT_OUT]

    def count(self, answers: Sequence[Prediction | Refusal]) -> None:
        """Add answers."""
        predictions: list[Prediction] = []
        for answer in answers:
            if isinstance(answer, Refusal):
                self.refused[answer.code] += 1
                self.examples.setdefault(answer.code, one_line(answer.message)[:LONGEST_EXAMPLE])
            else:
                predictions.append(answer)
                self.warnings.update({notice.code for notice in answer.warnings})
        self.records += len(predictions)
        if predictions:
            PARTS[predictions[0].task].answers.load().count(self, predictions)

    def add(self, other: Tally) -> None:
        """Add the counts of other inputs."""
        for name in ("inputs", "records", "rows", "alarm_hours", "alarm_stays"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("refused", "warnings", "positives"):
            getattr(self, name).update(getattr(other, name))
        self.examples = other.examples | self.examples
        for name, counts in other.histograms.items():
            mine = self.histograms.setdefault(name, [0] * len(counts))
            self.histograms[name] = [a + b for a, b in zip(mine, counts, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """The counts as a JSON-compatible dictionary, in a fixed order."""
        return {
            "inputs": self.inputs,
            "records": self.records,
            "rows": self.rows,
            "refused": dict(sorted(self.refused.items())),
            "warnings": dict(sorted(self.warnings.items())),
            "examples": dict(sorted(self.examples.items())),
            "positives": dict(self.positives),
            "alarm_hours": self.alarm_hours,
            "alarm_stays": self.alarm_stays,
            "histograms": self.histograms,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Tally:
        """The counts from :meth:`to_dict` output."""
        counters = {name: Counter(stored[name]) for name in ("refused", "warnings", "positives")}
        return cls(**{**stored, **counters})

    def spread(self, name: str, values: Floats, edges: Sequence[float]) -> None:
        """Add values to the histogram ``name`` with these edges."""
        counts = self.histograms.setdefault(name, [0] * (len(edges) - 1))
        found = np.bincount(
            np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2),
            minlength=len(edges) - 1,
        )
        self.histograms[name] = [a + b for a, b in zip(counts, found.tolist(), strict=True)]


def summary_of(job: Job, tally: Tally, tables: Any = None) -> dict[str, Any]:
    """The summary of a finished run, without anything that depends on the time it took.

    ``records`` and ``refusals`` add up to ``answers``, and the refusals by code to ``refusals``. An input
    gives one answer, or is left out because it is clearly not a record; only a file that holds several
    recordings gives more.
    """
    summary: dict[str, Any] = {
        "task": job.task,
        "inputs": tally.inputs,
        "answers": tally.records + tally.n_refused,
        "records": tally.records,
        "refusals": tally.n_refused,
        "left_out": tally.n_left_out,
        "refused": dict(
            sorted(
                ((code, n) for code, n in tally.refused.items() if code != LEFT_OUT),
                key=lambda entry: (-entry[1], entry[0]),
            )
        ),
        "warnings": dict(sorted(tally.warnings.items(), key=lambda entry: (-entry[1], entry[0]))),
        "rows": tally.rows,
        "parts": job.n_parts,
        "format": job.format,
        "model": job.model_columns(),
        "inputs_sha256": job.inputs,
        "mapping_sha256": job.mapping or None,
        "versions": {"ibt": job.ibt, "onnxruntime": job.onnxruntime, "layout": job.layout},
    }
    summary |= PARTS[job.task].answers.load().totals(tally)
    if tables is not None:
        summary["tables"] = tables
    return summary | {"notice": NOTICE}


def report_page(summary: dict[str, Any], tally: Tally, classes: Sequence[BundleClass] = ()) -> str:
    """The page of a finished run, as HTML."""
    answers = PARTS[summary["task"]].answers.load()
    title = answers.title
    body = [
        f"<header><p class=eyebrow>ibt batch</p><h1>{title}</h1>",
        f"<p class=notice>{escape(NOTICE)}</p></header>",
        _figures(summary, tally),
        answers.section(summary, tally, classes),
        _table(
            "Refused",
            "refusals",
            "reason, and the first refusal with it",
            summary["refused"],
            "Nothing was refused.",
            tally.examples,
        ),
        _table("Warnings", "records", "code", summary["warnings"], "No record carries a warning."),
        _notes(summary),
        _model(summary),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: {summary['records']:,} scored, {summary['refusals']:,} refused</title>"
        f"<style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def _figures(summary: dict[str, Any], tally: Tally) -> str:
    noun = NOUNS[summary["task"]]
    figures = [
        (f"{summary['inputs']:,}", "inputs"),
        (f"{summary['records']:,}", f"{noun} scored"),
        (f"{summary['refusals']:,}", "refused"),
        *([(f"{summary['left_out']:,}", "left out, no record")] if summary["left_out"] else []),
    ]
    figures += PARTS[summary["task"]].answers.load().figures(tally)
    cells = "".join(f"<div><b>{value}</b><span>{label}</span></div>" for value, label in figures)
    return f"<section class=figures>{cells}</section>"


def histogram(
    counts: Sequence[int], label: str, edges: Sequence[float], *, size: tuple[int, int], small: bool
) -> str:
    """Bars of equal width, one for each interval, as SVG.

    A small one has logarithmic heights, and shows the intervals only in its tooltips.
    """
    from math import log1p

    if not counts or not any(counts):
        return "<span class=none>none</span>"
    heights = [log1p(count) if small else float(count) for count in counts]
    (width, height), room = size, 0 if small else 34
    step, top = width / len(counts), max(heights)
    shapes = []
    for place, (count, value) in enumerate(zip(counts, heights, strict=True)):
        tall = (height - room) * value / top
        text = f"{edges[place]:g} to {edges[place + 1]:g}: {count:,}"
        shapes.append(
            f'<rect x="{place * step + 0.5:.1f}" y="{height - room - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}"><title>{text}</title></rect>'
        )
        if room:
            shapes.append(f'<text x="{place * step:.1f}" y="{height - 18}">{edges[place]:g}</text>')
    if room:
        shapes.append(f'<text x="{width}" y="{height - 18}" text-anchor="end">{edges[-1]:g}</text>')
    base = f'<path d="M0 {height - room}.5H{width}"/>'
    return (
        f'<svg viewBox="0 0 {width} {height + 1}" role="img" aria-label="{escape(label)}">'
        f"{''.join(shapes)}{base}</svg>"
    )


def _table(
    title: str,
    count: str,
    what: str,
    rows: dict[str, int],
    nothing: str,
    examples: Mapping[str, str] = MappingProxyType({}),
) -> str:
    if not rows:
        return f"<section><h2>{title}</h2><p>{nothing}</p></section>"
    said = {code: f"<br><small>{escape(text)}</small>" for code, text in examples.items()}
    body = "".join(
        f"<tr><th scope=row><code>{escape(code)}</code>{said.get(code, '')}</th>"
        f"<td class=n>{number:,}</td></tr>"
        for code, number in rows.items()
    )
    return (
        f"<section><h2>{title}</h2><table><thead><tr><th>{what}<th class=n>{count}</tr></thead>"
        f"<tbody>{body}</tbody></table></section>"
    )


def _notes(summary: dict[str, Any]) -> str:
    """How the columns of tables were read: conversions, hours, what was absent or ignored, medians."""
    tables = summary.get("tables", {})
    notes = "".join(f"<li>{escape(note)}</li>" for note in tables.get("notes", []))
    rows = [facts for facts in tables.get("columns", []) if facts["quantiles"]]
    if not (notes or rows):
        return ""
    body = f"<ul>{notes}</ul>" if notes else ""
    if rows:
        cells = "".join(
            f"<tr><th scope=row>{escape(facts['variable'])}</th><td>{escape(facts['unit'])}</td>"
            f"<td>{escape(VARIABLES[INDEX[facts['variable']]].unit)}</td><td class=n>{facts['values']:,}</td>"
            f"<td class=n>{facts['out_of_range']:,}</td><td class=n>{facts['quantiles'][2]:.4g}</td></tr>"
            for facts in rows
        )
        body += (
            "<table><thead><tr><th>variable<th>read in<th>scored in<th class=n>values<th class=n>out of range"
            f"<th class=n>median, as scored</tr></thead><tbody>{cells}</tbody></table>"
        )
    return f"<section><h2>How the tables were read</h2>{body}</section>"


def _model(summary: dict[str, Any]) -> str:
    rows = summary["model"] | {"inputs (SHA-256 of the list)": summary["inputs_sha256"]}
    if summary["mapping_sha256"]:
        rows["mapping (SHA-256)"] = summary["mapping_sha256"]
    rows |= {name: summary["versions"][name] for name in ("ibt", "onnxruntime")}
    body = "".join(
        f"<tr><th scope=row>{escape(name.replace('_', ' '))}</th><td><code>{escape(value)}</code></td></tr>"
        for name, value in rows.items()
    )
    return f"<section><h2>Model</h2><table class=model><tbody>{body}</tbody></table></section>"


def percent(part: int, whole: int) -> str:
    """``12.3 %``, or a dash if ``whole`` is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


STYLE = """
:root{color-scheme:light dark;--page:#fbfaf8;--ink:#1c2321;--soft:#5d6863;--line:#dcdfda;--mark:#1f6f5c;
--warn:#8a4b08;--warnpage:#fdf3e3}
@media (prefers-color-scheme:dark){:root{--page:#14191a;--ink:#e6ebe8;--soft:#9aa7a1;--line:#2c3534;
--mark:#5cc4a5;--warn:#f0b768;--warnpage:#2b2317}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:62rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:.1rem 0 .8rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:2.6rem 0 .5rem}
p{max-width:46rem;margin:.4rem 0 1rem}
.eyebrow{margin:0;color:var(--soft);font-size:.9rem}
.notice{display:inline-block;margin:0;padding:.35rem .8rem;border-radius:.4rem;background:var(--warnpage);
color:var(--warn);font-weight:600}
.figures{display:flex;flex-wrap:wrap;gap:1rem 2.5rem;margin-top:1.6rem;padding:1.1rem 0;
border-block:1px solid var(--line)}
.figures b{display:block;font-size:1.7rem;line-height:1.2;font-variant-numeric:tabular-nums}
.figures span{color:var(--soft);font-size:.9rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;font-weight:400;padding:.4rem .9rem .4rem 0;border-bottom:1px solid var(--line);
vertical-align:middle}
thead th{color:var(--soft);font-size:.85rem}
.n{text-align:right;white-space:nowrap}
em{color:var(--soft);font-size:.85rem}
code{font:.88em ui-monospace,monospace;overflow-wrap:anywhere}
small{color:var(--soft);font-size:.82rem;overflow-wrap:anywhere}
.findings svg{display:block;width:15rem;height:4rem;max-width:100%}
.bar{display:block;height:.25rem;margin:.15rem 0 0 auto;width:6rem;border-radius:.2rem;
background:linear-gradient(90deg,var(--mark) calc(100%*var(--share)),var(--line) 0)}
figure{margin:1.4rem 0}
figcaption{margin-bottom:.5rem;font-weight:600}
figure svg{width:100%;max-width:46rem;height:auto}
rect{fill:var(--mark)}
path{stroke:var(--soft);stroke-width:1;fill:none}
text{fill:var(--soft);font-size:11px}
.none{color:var(--soft)}
.model th{width:14rem;color:var(--soft)}
@media (max-width:40rem){.findings thead{display:none}.findings tr{display:grid;
grid-template-columns:1fr auto;padding:.5rem 0;border-bottom:1px solid var(--line)}
.findings th,.findings td{border:0;padding:.1rem 0}
.findings th,.findings td:last-child{grid-column:1/-1}}
@media print{:root{--page:#fff;--ink:#000;--soft:#444;--line:#bbb;--mark:#1f6f5c;--warn:#000;--warnpage:#fff}
main{padding:0;max-width:none}body{font-size:11pt}tr,figure{break-inside:avoid}
rect,.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}.notice{border:1px solid #000}}
""".strip()
