"""``report.html``: a run on one page, without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

from ibt_deploy.batch.tally import PROBABILITY_EDGES, RISK_EDGES, Tally, short_name
from ibt_deploy.bundle import BundleClass
from ibt_deploy.predictions import NOTICE
from ibt_deploy.types import NOUNS

_WIDTH, _HEIGHT = 240, 64
_WIDE, _HIGH = 640, 180


def report_page(summary: dict[str, Any], tally: Tally, classes: Sequence[BundleClass] = ()) -> str:
    """The page of a finished run, as HTML."""
    stays = summary["task"] == "sepsis"
    title = "Sepsis risk of ICU stays" if stays else "Findings of 12-lead ECGs"
    body = [
        f"<header><p class=eyebrow>ibt batch</p><h1>{title}</h1>",
        f"<p class=notice>{escape(NOTICE)}</p></header>",
        _figures(summary, tally),
        _risks(summary, tally) if stays else _findings(tally, classes),
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
    ]
    if summary["task"] == "sepsis":
        figures += [
            (f"{tally.rows:,}", "hours"),
            (_percent(tally.alarm_stays, tally.records), "stays with an alarm"),
        ]
    cells = "".join(f"<div><b>{value}</b><span>{label}</span></div>" for value, label in figures)
    return f"<section class=figures>{cells}</section>"


def _findings(tally: Tally, classes: Sequence[BundleClass]) -> str:
    """One row for each class: how many have it, and how its probability is spread."""
    rows = []
    for found in classes:
        name = short_name(found.abbreviation)
        count = tally.positives.get(name, 0)
        share = count / tally.records if tally.records else 0.0
        status = "" if found.evaluable else "<em>not evaluable</em>"
        picture = _histogram(
            tally.histograms.get(name, []),
            f"Probabilities of {found.name}",
            _WIDTH,
            _HEIGHT,
            logarithmic=True,
        )
        rows.append(
            f"<tr><th scope=row><b>{escape(name)}</b> {escape(found.name)} {status}"
            f"</th><td class=n>{count:,}</td><td class=n>{_percent(count, tally.records)}"
            f'<i class=bar style="--share:{share:.4f}"></i></td><td>{picture}</td></tr>'
        )
    return (
        "<section><h2>Findings</h2><p>Recordings in which each class reaches its threshold, and how its "
        "calibrated probability is spread from 0 to 1 (logarithmic heights). A class that is not evaluable "
        "is never reported as positive: training had too few of it.</p>"
        "<table class=findings><thead><tr><th>class<th class=n>positive<th class=n>share"
        "<th>probability</tr></thead><tbody>" + "".join(rows) + "</tbody></table></section>"
    )


def _risks(summary: dict[str, Any], tally: Tally) -> str:
    pictures = []
    for name, heading, noun in (
        ("risk", "Risk of every hour", "hours"),
        ("highest risk", "Highest risk of every stay", "stays"),
    ):
        counts = tally.histograms.get(name, [])
        picture = _histogram(counts, heading, _WIDE, _HIGH, logarithmic=False, edges=RISK_EDGES)
        pictures.append(
            f"<figure><figcaption>{heading} ({sum(counts):,} {noun})</figcaption>{picture}</figure>"
        )
    alarms = (
        f"<p>{tally.alarm_hours:,} of {tally.rows:,} hours ({_percent(tally.alarm_hours, tally.rows)}) reach "
        f"the threshold of the operating point <b>{escape(summary['model']['operating_point'])}</b>, in "
        f"{tally.alarm_stays:,} of {tally.records:,} stays.</p>"
    )
    return f"<section><h2>Risks</h2>{alarms}{''.join(pictures)}</section>"


def _histogram(
    counts: Sequence[int],
    label: str,
    width: int,
    height: int,
    *,
    logarithmic: bool,
    edges: Sequence[float] = PROBABILITY_EDGES,
) -> str:
    """Bars of equal width, one for each interval, as SVG; the intervals are named where there is room."""
    from math import log1p

    if not counts or not any(counts):
        return "<span class=none>none</span>"
    heights = [log1p(count) if logarithmic else float(count) for count in counts]
    room = 0 if width == _WIDTH else 34
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
    """How the columns of tables were read: conversions, hours, what was absent or ignored."""
    notes = summary.get("tables", {}).get("notes", [])
    if not notes:
        return ""
    body = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>How the tables were read</h2><ul>{body}</ul></section>"


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


def _percent(part: int, whole: int) -> str:
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
