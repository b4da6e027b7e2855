"""The report: which of the paper's claims held, in the first ten lines, then all tables and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ibt_deploy.render.report import count, decimal, table
from ibt_deploy.types import NOUNS
from training.study.paper import CITATION, departures_section
from training.study.shipped import shipped_section
from training.study.tables import (
    FAILED,
    FIGURES,
    HELD,
    METHODS,
    NAMES,
    NOT_RUN,
    NOT_SEEN,
    SEEN,
    TITLES,
    UNRESOLVED,
    at,
    cell,
    data_line,
    figure_file,
    gap,
    image,
    method_pairs,
    purpose_of,
    set_name,
    signed_bounds,
    signed_decimal,
    source,
)
from training.tasks.base import FIXED, FREE, TUNED

TASK_TITLES = {"sepsis": "Sepsis (ICU stays)", "arrhythmia": "Arrhythmia (12-lead ECG)"}
SHOWN_FIRST = (
    (HELD, SEEN, "Seen in every seed, without an interval over patients"),
    (FAILED, NOT_SEEN, "Not seen in every seed"),
    (UNRESOLVED, NOT_RUN, "Not run"),
)
"""Verdicts in the first lines, each with one that follows it in the same bullet."""
TEACHERS = {"sepsis": "a stacked residual LSTM", "arrhythmia": "Hannun's CNN"}
FIRST_LINES = 10


def report_text(studies: Sequence[Mapping[str, Any]], folders: Sequence[str]) -> str:
    """The report as Markdown.

    Parameters
    ----------
    studies
        Contents of ``results.json``, one for each task.
    folders
        Folder of the figures of each, relative to the report.
    """
    lines = [
        "# Does block-by-block matching transfer inductive bias? A reproduction",
        "",
        "Research software, not a medical device. A claim held if the paired interval of the difference and "
        "the differences of all seeds lie on the claimed side of 0. It did not hold if all lie on the other "
        "side. Anything else is not resolved. In brackets: differences, with 95 % intervals over patients.",
        "",
    ]
    for results in studies:
        lines += _answers(results)
    if len(lines) > FIRST_LINES:
        raise ValueError("the answers do not fit the first ten lines")
    lines += ["", *_reading(studies), *departures_section(studies)]
    for results, folder in zip(studies, folders, strict=True):
        lines += ["", f"## {TASK_TITLES[results['task']]}", *_claims(results), *sections(results, folder)]
    return "\n".join(_single_blanks(lines)) + "\n"


def _answers(results: Mapping[str, Any]) -> list[str]:
    """Three bullets: the scores and the claims that held; those that did not; those not resolved."""
    task, found, official = results["task"].capitalize(), results["claims"], results["official"]
    seeds = len(results["seeds"])
    agreement = at(results["table1"], "in distribution", "methods", "ceiling", "r_squared", "value")
    basis = f"{seeds} seed{'s' if seeds > 1 else ''}; the teacher is {TEACHERS[results['task']]}" + (
        f", and two of them agree at R² {decimal(agreement)}" if agreement is not None else ""
    )
    scores = {name: at(results["table2"]["methods"], name, TUNED, official, "value") for name in METHODS}
    ranked = sorted((name for name in METHODS if scores[name] is not None), key=lambda name: -scores[name])
    shown = ", ".join(f"{NAMES[name]} {decimal(scores[name])}" for name in ranked)
    heads = (
        f"- **{task}.** {basis}. {TITLES[official].capitalize()}: {shown}. **Held:**",
        f"- **{task}, did not hold:**",
        f"- **{task}, not resolved by these data:**",
    )
    lines = []
    for head, (verdict, aside, words) in zip(heads, SHOWN_FIRST, strict=True):
        line = f"{head} {_by_comparison(found, verdict) or 'nothing'}."
        if more := _by_comparison(found, aside):
            line += f" *{words}:* {more}."
        lines.append(line)
    return lines


COMPARISON = re.compile(r"(.* [<>] .*?) in (.*)")


def _by_comparison(claims: Sequence[Mapping[str, Any]], verdict: str) -> str:
    """Claims with this verdict, by the networks compared: the measures, with their differences."""
    pairs: dict[str, list[str]] = {}
    for claim in claims:
        if claim["verdict"] != verdict:
            continue
        shown = "" if verdict == NOT_RUN else f" ({_difference(claim['difference'])})"
        if parts := COMPARISON.fullmatch(claim["claim"]):
            pair, measure = parts.groups()
            pairs.setdefault(f"{pair}: ", []).append(measure + shown)
        else:
            pairs[claim["claim"] + shown] = []
    return ". ".join(pair + "; ".join(measures) for pair, measures in pairs.items())


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not run"
    interval = signed_bounds(found["interval"])
    return f"{signed_decimal(found['value'])}{', ' + interval if interval else ''}"


def _reading(studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """How to read the numbers below, and where they come from."""
    lines = [
        f"The paper is {CITATION}. Its numbers are given below in columns headed *paper*; they are from "
        "other data (the whole Challenge 2021; other external sets), without seeds or intervals, and are "
        "not comparable digit by digit.",
        "",
        "How to read the numbers: `0.360 (0.315-0.404)` is the mean over seeds with its 95 % interval over "
        f"patients ({count(studies[0]['bootstrap']['draws'])} bootstrap draws of patients, the same draws "
        "for every method); with several seeds their range follows in square brackets. Differences are "
        "paired, and bold where the interval excludes 0. Calibration and thresholds come from the validation "
        "part alone. *not run* marks what was planned and not measured; nothing is filled in.",
        "",
        "The *teacher* is a CNN for ECGs and an LSTM for stays; the *students* are transformers of one size. "
        "The plain *transformer* learns without a teacher, *DeiT* from the teacher's outputs as well, and "
        "*BBM* (block-by-block matching) from the features of corresponding blocks. *R²* is the squared "
        "correlation of the student's probabilities with the teacher's. *CKA* (centred kernel "
        "alignment) compares features: 1 for equal ones up to rotation and scale, about 0 for unrelated "
        "ones. The *Toeplitz share* is the part of an attention map that depends on the distance of two "
        "tokens alone, as a convolution's would.",
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


ROW_TITLES = {FIXED: "0.5", TUNED: "tuned", FREE: "threshold-free"}
READINGS = {
    "r_squared": "R²",
    "r_squared_pooled": "(a) pooled",
    "determination": "(b) determination",
    "r_squared_logits": "(c) logits",
    "same_decision": "(d) same decision",
    "kappa": "kappa",
}


def sections(results: Mapping[str, Any], folder: str) -> list[str]:
    """All sections about one task.

    Parameters
    ----------
    results
        Content of ``results.json``.
    folder
        Folder of its figures, relative to the report.
    """
    drawn = {name: f"{folder}/{file}" for name, file in FIGURES.items()}
    found: list[str] = []
    for made in (
        _scores(results, drawn),
        _agreement(results),
        _groups(results),
        _features(results, folder),
        _attention(results, folder),
        controls_section(results),
        ablations_section(results),
        curves_section(results, drawn),
        external_section(results),
        shipped_section(results, drawn),
        limits_section(results),
        left_section(results),
    ):
        found += made
    return found


def _method_rows(
    results: Mapping[str, Any], scores: Mapping[str, Any], names: Sequence[str]
) -> Iterator[Any]:
    official = results["official"]
    for row in (FIXED, TUNED):
        for name in names:
            values = at(scores, name, row) or {}
            yield name, row, [cell(values.get("f_measure")), cell(values.get(official)), "", ""]
    for name in names:
        values = at(scores, name, FREE)
        if values is None:
            yield name, FREE, ["", "", NOT_RUN, NOT_RUN]
        else:
            yield name, FREE, ["", "", *(_ranking(values, measure) for measure in ("auroc", "auprc"))]


def _ranking(values: Mapping[str, Any], measure: str) -> str:
    """Cell of a ranking measure; undefined if no class has enough positives."""
    return cell(values[measure]) if measure in values else "-"


def _scores(results: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    found, official = results["table2"], results["official"]
    paper = results["paper"]["table2"]
    rows = []
    for name, row, values in _method_rows(results, found["methods"], METHODS):
        theirs = ["", ""]
        if row == TUNED:
            theirs = [decimal(paper[name]["f_measure"], 4), decimal(paper[name][official], 4)]
        rows.append([NAMES[name], ROW_TITLES[row], *values, *theirs])
    title = TITLES[official]
    header = ("method", "thresholds", "F-1", title, "AUROC", "AUPRC", "paper F-1>", f"paper {title}>")
    deit = found["deit"] or NOT_RUN
    lines = [
        "",
        "### Table 2: test performance, and Figure 1",
        *table(header, rows),
        f"DeiT is {deit}, {_chosen(found)}{_both(found)}. "
        f"{_classes(results, found)}{source(results, 'test', 'methods')}.",
        *(image("Figure 1: test performance of the methods", drawn["scores"]) if found["methods"] else [""]),
        "Paired differences on the same draws, first minus second:",
        *_differences(found, official),
        "Appendix, both variants of DeiT:",
    ]
    both = [
        [name, ROW_TITLES[row], *values]
        for name, row, values in _method_rows(results, found["methods"], ("deit-soft", "deit-hard"))
    ]
    return lines + table(header[:6], both)


def _chosen(found: Mapping[str, Any]) -> str:
    both = {"deit-soft", "deit-hard"} <= set(found["validation"])
    return "the variant with the better validation score" if both else "the one variant that was trained"


def _both(found: Mapping[str, Any]) -> str:
    scores = {name: found["validation"].get(name) for name in ("deit-soft", "deit-hard")}
    shown = [f"{name} {decimal(value)}" for name, value in scores.items() if value is not None]
    return f" (on validation {', '.join(shown)})" if shown else ""


def _classes(results: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if results["task"] == "sepsis":
        return "F-1, AUROC and AUPRC are over hours. "
    c = found["classes"]
    return (
        f"AUROC and AUPRC are means over {c['ranking']} classes with at least five positives in training, "
        f"validation and test; F-1 is a mean over the {c['f_measure']} classes that occur. "
    )


def _differences(found: Mapping[str, Any], official: str) -> list[str]:
    measures = ((TUNED, "f_measure"), (TUNED, official), (FREE, "auroc"), (FREE, "auprc"))
    rows = []
    for first, second in method_pairs():
        values = found["differences"].get(f"{first} - {second}")
        cells = [gap(at(values, row, measure)) if values else NOT_RUN for row, measure in measures]
        rows.append([f"{NAMES[first]} - {NAMES[second]}", *cells])
    return table(("difference", "F-1, tuned", f"{TITLES[official]}, tuned", "AUROC", "AUPRC"), rows)


def _agreement(results: Mapping[str, Any]) -> list[str]:
    lines = ["", "### Table 1: R² of student and teacher"]
    paper = results["paper"]["table1"]
    external = next(name for name in paper if name != "in distribution")
    for place, found in results["table1"].items():
        set_of_paper = external if place in results["data"]["external"] else place
        rows = []
        for name in ("transformer", "deit", "bbm", "ceiling"):
            values = found["methods"].get(name, {})
            theirs = paper.get(set_of_paper, {}).get(name)
            cells = [cell(values.get(reading)) for reading in READINGS]
            title = NAMES.get(name, "second teacher (ceiling)")
            rows.append([title, *cells, "" if theirs is None else decimal(theirs)])
        column = "paper R²" + (f", {set_of_paper}" if place in results["data"]["external"] else "")
        lines += [
            "",
            _heading(results, place),
            *_table_if_run(("network", *READINGS.values(), f"{column}>"), rows),
            f"{_pairs(found)}{source(results, set_name(results, place, found), purpose_of(found))}.",
        ]
    return [
        *lines,
        "",
        "R² is, for each class, the squared Pearson correlation of the two networks' probabilities, averaged "
        "over classes; the paper does not define its own. The ceiling is a second teacher of another seed.",
    ]


def _table_if_run(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, or one line if nothing in it was run."""
    unknown = all(text in (NOT_RUN, "") for row in rows for text in row[1:])
    return ["", NOT_RUN, ""] if unknown else table(header, rows)


def _pairs(found: Mapping[str, Any]) -> str:
    parts = [f"{pair}: {gap(at(values, 'r_squared'))}" for pair, values in found["differences"].items()]
    return f"Paired differences in R²: {'; '.join(parts)}. " if parts else ""


def _groups(results: Mapping[str, Any]) -> list[str]:
    found, official = results["table3"], results["official"]
    paper = results["paper"]["table3"]
    rows = []
    for n, theirs in paper.items():
        arm = "bbm" if int(n) == found["groups_of_bbm"] else f"bbm-groups-{n}"
        values = found["arms"].get(arm)
        against = found["differences"].get(f"{arm} - bbm-groups-1")
        rows.append(
            [
                n,
                cell(at(values, TUNED, "f_measure")),
                cell(at(values, TUNED, official)),
                cell(at(values, FREE, "auprc")),
                "" if n == "1" else gap(at(against, TUNED, official)) if against else NOT_RUN,
                decimal(theirs["f_measure"], 4),
                decimal(theirs[official], 4),
            ]
        )
    title = TITLES[official]
    header = ("groups", "F-1", title, "AUPRC", f"{title} against 1 group", "paper F-1>", f"paper {title}>")
    lines = ["", "### Table 3: number of matched groups", *table(header, rows)]
    return [*lines, f"Tuned thresholds. {source(results, 'test', 'groups')}."]


def _features(results: Mapping[str, Any], folder: str) -> list[str]:
    lines = ["", "### Figure 2: centred kernel alignment with the teacher"]
    for place, found in results["similarity"].items():
        lines += ["", _heading(results, place), *_features_of(results, place, found["cka"], folder)]
    return lines


def _heading(results: Mapping[str, Any], place: str) -> str:
    """A set as a line in bold: an external one by its own name."""
    name = place if place in results["data"]["external"] else f"{place[0].upper()}{place[1:]}"
    return f"**{name}**"


def _features_of(results: Mapping[str, Any], place: str, found: Mapping[str, Any], folder: str) -> list[str]:
    if not found:
        return ["", NOT_RUN]
    n_groups = len(next(iter(found["arms"].values()))["diagonal"])
    batches = "1 batch" if found["batches"] == 1 else f"{found['batches']} batches"
    rows = []
    for name in ("transformer", "deit", "bbm", "ceiling"):
        values = found["arms"].get(name)
        title = NAMES.get(name, "second teacher (ceiling)")
        cells = [decimal(v) for v in values["diagonal"]] if values else [NOT_RUN] * n_groups
        rows.append([title, *cells, decimal(values["diagonal_mean"]) if values else NOT_RUN])
    header = ("network", *(f"group {i}>" for i in range(1, n_groups + 1)), "mean>")
    figure = f"{folder}/{figure_file('cka', place)}"
    return [
        *image("Figure 2: CKA of every teacher unit with every student unit", figure),
        *table(header, rows),
        f"Unbiased minibatch estimate from {batches} of {found['examples_per_batch']} "
        "examples, mean over seeds; the table holds the diagonal of the group-level matrix. No interval over "
        f"patients. {source(results, place, 'methods')}.",
    ]


def _attention(results: Mapping[str, Any], folder: str) -> list[str]:
    lines = ["", "### Figure 3: averaged attention"]
    for place, found in results["similarity"].items():
        lines += ["", _heading(results, place), *_attention_of(results, place, found["attention"], folder)]
    return lines


def _attention_of(results: Mapping[str, Any], place: str, found: Mapping[str, Any], folder: str) -> list[str]:
    if not found:
        return ["", NOT_RUN]
    unit = "h" if found["causal"] else f"tokens of {found['token']}"
    rows = []
    for name in ("transformer", "deit", "bbm"):
        values = found["arms"].get(name)
        if values is None:
            rows.append([NAMES[name], "", *[NOT_RUN] * 4])
            continue
        for block, share in enumerate(values["toeplitz_share"]):
            numbers = [cell(values[kind][block], 2) for kind in ("distance", "local_mass", "entropy")]
            rows.append([NAMES[name], str(block + 1), *numbers, decimal(share, 2)])
    uniform = [decimal(found["uniform"][kind], 2) for kind in ("distance", "local_mass", "entropy")]
    rows.append(["uniform attention", "", *uniform, "-"])
    early = at(found["differences"], "bbm - transformer", "distance", "early")
    header = (
        "network",
        "block",
        f"mean distance ({unit})",
        f"within {found['window']}",
        "entropy (nats)",
        "Toeplitz share>",
    )
    maps, charts = (f"{folder}/{figure_file(name, place)}" for name in ("attention", "attention_numbers"))
    return [
        *image("Figure 3: attention averaged over records and heads", maps),
        *image("Attention in numbers, block by block", charts),
        *table(header, rows),
        f"BBM minus Transformer in distance, mean of the early blocks: {gap(early, 2)}. Distance, local mass "
        "and entropy are measured per head and record, then averaged; the Toeplitz share is of the averaged "
        f"matrix. From {count(found['records'])} records of {count(found['patients'])} patients. "
        f"{source(results, place, 'methods')}.",
    ]


CONTROL_TITLES = {
    "bbm-untrained": "BBM from an untrained teacher",
    "bbm-shuffled": "BBM, teacher sees another record",
    "bbm-eq-2": "BBM, only Eq. 2",
    "bbm-eq-3": "BBM, only Eq. 3",
    "bbm-eq-4": "BBM, only Eq. 4",
    "transformer-long": "Transformer, trained for the time of BBM",
}


def controls_section(results: Mapping[str, Any]) -> list[str]:
    """Each control against the plain transformer and BBM."""
    found, official = results["controls"], results["official"]
    rows = []
    for arm, title in CONTROL_TITLES.items():
        cells = [NOT_RUN] * 5
        if arm in found["arms"]:
            cells = [
                cell(at(found["arms"], arm, TUNED, official)),
                cell(at(found["arms"], arm, FREE, "auprc")),
                cell(found["agreement"].get(arm)),
                gap(at(found["differences"], f"{arm} - transformer", TUNED, official)),
                gap(at(found["differences"], f"{arm} - bbm", TUNED, official)),
            ]
        rows.append([title, *cells])
    title = TITLES[official]
    header = ("control", title, "AUPRC", "R² with the teacher", "against Transformer", "against BBM")
    return [
        "",
        "### Controls",
        *_table_if_run(header, rows),
        f"Differences are in {title}, tuned. {source(results, 'test', 'controls')}.",
    ]


def ablations_section(results: Mapping[str, Any]) -> list[str]:
    """Effect of single changes on the validation scores; "not run" if none was trained."""
    found = results.get("ablations")
    lines = ["", "### Ablations, on validation alone"]
    if not found or not any(arm["seeds"] for arm in found["arms"].values()):
        return [*lines, "", NOT_RUN]
    logged = next(scores for arm in found["arms"].values() for scores in arm["seeds"].values())
    measures = [m for m in LOGGED if m in logged]
    rows = []
    for name, arm in found["arms"].items():
        of_reference = found["arms"][arm["reference"]]
        cells = [_over_seeds([s[m] for s in arm["seeds"].values()]) for m in measures]
        pairs = [
            (s["auroc"], of_reference["seeds"][seed]["auroc"])
            for seed, s in arm["seeds"].items()
            if seed in of_reference["seeds"]
        ]
        title, gain = f"**{REFERENCES[name]}**" if name == arm["reference"] else "", ""
        if not title:
            title = ", ".join(_changed(arm["changes"], of_reference["changes"]))
            gain = _over_seeds([a - b for a, b in pairs], signed_decimal)
        cost = decimal(arm["mega_macs"], 0) if "mega_macs" in arm else NOT_RUN
        rows.append([title, *cells, gain, cost])
    sepsis = results["task"] == "sepsis"
    size = (
        f"{100 * found['share']:g} % of the training part ({count(found['size'])} {NOUNS[results['task']]})"
    )
    select = {"auroc": "AUROC", "bce": "cross-entropy"}.get(found["select"], TITLES[results["official"]])
    header = ("changed", *(LOGGED[m] for m in measures), "AUROC, difference", "million MACs>")
    return [
        *lines,
        *table(header, rows),
        f"Trained on {size}, at most {found['epochs']} epochs. Scores are from the epoch with the best "
        f"validation {select}; thresholds are tuned on the same part, so the scores are optimistic. "
        "Differences are to the bold row above. Numbers are means over seeds, with the range where there are "
        f"several; there is no interval over patients. MACs are those of "
        f"{'a stay of 48 hours' if sepsis else 'an ECG of ten seconds'}. "
        f"`{results['command']} --only ablations`.",
    ]


REFERENCES = {
    "bbm": NAMES["bbm"],
    "transformer": NAMES["transformer"],
    "labels": f"{NAMES['transformer']}, on the labels of the data alone",
}


def _changed(changes: Mapping[str, Any], reference: Mapping[str, Any]) -> Iterator[str]:
    """Recipe keys that an arm changes relative to its reference."""
    for section, keys in changes.items():
        for key, value in keys.items() if isinstance(keys, Mapping) else ():
            if at(reference, section, key) != value:
                shown = str(value).lower() if isinstance(value, bool) else json.dumps(value)
                yield f"`{section}.{key} = {shown}`"


LOGGED = {
    "utility": TITLES["utility"],
    "challenge": TITLES["challenge_metric"],
    "auroc": TITLES["auroc"],
    "auprc": TITLES["auprc"],
    "bce": "cross-entropy",
}
"""Titles of the validation scores that training logs."""


def _over_seeds(values: Sequence[float], shown: Callable[[float], str] = decimal) -> str:
    """Mean, with the range if there are several seeds."""
    if not values:
        return NOT_RUN
    mean = shown(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} [{shown(min(values))}, {shown(max(values))}]"


def curves_section(results: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    """Scores by number of training patients; empty for ECGs."""
    curves, official = results["curves"], results["official"]
    if not curves:
        return []
    rows = []
    for point in curves["points"]:
        cells = [cell(at(point["methods"], name, TUNED, official)) for name in METHODS]
        against = at(point["differences"], "bbm - transformer", TUNED, official)
        rows.append([f"{100 * point['fraction']:g} %", count(point["patients"]), *cells, gap(against)])
    gaps = [f"{pair}: {gap(found)}" for pair, found in curves.get("gaps", {}).items() if found is not None]
    lines = [
        "",
        "### Learning curves",
        *(image("Score by number of training patients", drawn["curves"]) if _any(curves) else []),
        *table(
            ("share", "patients>", *(NAMES[m] for m in METHODS), "BBM - Transformer"),
            rows,
        ),
    ]
    if gaps:
        lines += [
            f"Change of the difference from all patients to {100 * curves['smallest']:g} %: "
            f"{'; '.join(gaps)}.",
            "",
        ]
    return [*lines, f"{TITLES[official]}, tuned thresholds. {source(results, 'test', 'fractions')}."]


def _any(curves: Mapping[str, Any]) -> bool:
    return any(point["methods"] for point in curves["points"])


def external_section(results: Mapping[str, Any]) -> list[str]:
    """Scores on external data."""
    lines = ["", "### External tests: scores"]
    if not results["external"]:
        return [*lines, "", NOT_RUN]
    official = results["official"]
    for place, found in results["external"].items():
        rows = []
        for name in METHODS:
            values = found["methods"].get(name)
            pairs = ((TUNED, "f_measure"), (TUNED, official), (FREE, "auroc"), (FREE, "auprc"))
            cells = [cell(at(values, row, m)) if at(values, row, m) else "-" for row, m in pairs]
            rows.append([NAMES[name], *(cells if values else [NOT_RUN] * 4)])
        header = ("method", "F-1", TITLES[official], "AUROC", "AUPRC")
        against = at(found["differences"], "bbm - transformer", TUNED, official)
        gain = f"BBM - Transformer in {TITLES[official]}: {gap(against)}. " if against else ""
        place_name = set_name(results, place, found)
        lines += ["", _heading(results, place), *_table_if_run(header, rows)]
        lines += [f"{gain}Thresholds from validation. {source(results, place_name, purpose_of(found))}."]
    return lines


def limits_section(results: Mapping[str, Any]) -> list[str]:
    """Limitations of these numbers."""
    seeds = len(results["seeds"])
    lines = [
        f"Seeds: {seeds}. "
        + (
            "One seed cannot show the variation between training runs."
            if seeds == 1
            else "With so few seeds, only their range is given, not an interval."
        ),
        f"Budget `{results['budget']}`: {_epochs(results, 'teacher')} epochs for the teacher, "
        f"{_epochs(results, 'student')} for students. A method that gains from longer training is not at its "
        "best in a short schedule, and the order may change with the budget.",
        "All students share the budget's hyperparameters; the methods did not each get a search of equal "
        "length.",
        "The paper leaves record length, widths, schedules, R², the CKA estimator and the DeiT variant open; "
        "our choices are listed under 'Where this departs from the paper' and below each table. Other "
        "choices may give other numbers.",
        "Differences within an interval are not resolved; that is not evidence of no difference.",
        "Many differences are tested; about one in twenty intervals excludes 0 by chance.",
    ]
    if results["task"] == "sepsis":
        lines += [
            "The only external test with labels is the other of two hospitals of one country.",
            "Whether a value was measured is an input, and says what clinicians already suspected.",
        ]
    else:
        lines += [
            f"The ECGs are {_largest_source(results)}; other sources are small, so that intervals of "
            "external tests are wide and rare classes are not evaluable.",
            "Labels and sources are entangled: a class found in only one source can be recognised "
            "by that source.",
        ]
    return ["", "### Limitations", "", *(f"- {line}" for line in lines)]


def _epochs(results: Mapping[str, Any], role: str) -> int:
    return int(results["budget_tables"][role]["fit"]["epochs"])


def _largest_source(results: Mapping[str, Any]) -> str:
    sites = results["data"]["sites"]
    largest = max(sites, key=sites.get)
    return f"{count(sum(sites.values()))} recordings, {count(sites[largest])} of them from {largest}"


def left_section(results: Mapping[str, Any]) -> list[str]:
    """Runs planned but not trained, with the command that trains them."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for run in results["runs"]:
        if not run["trained"]:
            arm, _, seed = run["name"].rpartition("/seed-")
            seeds.setdefault((run["purpose"], arm), []).append(seed)
    left: dict[tuple[str, str], list[str]] = {}
    for (purpose, arm), missing in seeds.items():
        left.setdefault((purpose, ", ".join(missing)), []).append(arm)
    lines = ["", "### Not run"]
    if left:
        rows = [
            [purpose, missing, ", ".join(arms), f"`{results['command']} --only {purpose}`"]
            for (purpose, missing), arms in left.items()
        ]
        lines += table(("for", "seeds", "which", "command"), rows)
    else:
        lines += ["", "Every run of this budget was trained.", ""]
    task = results["task"]
    if results["budget"] != "gpu":
        lines += [
            "The whole study (five seeds, long schedules, all learning curves) was not run: "
            f"`ibt reproduce {task} --data cache/{task} --out study/{task}-gpu --budget gpu --jobs 4`.",
        ]
    return lines
