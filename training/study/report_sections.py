"""The sections of the report about one task: tables in the paper's order, then what goes beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ibt_deploy.render.markdown import count, decimal, table
from training.study.claims import NAMES, TITLES
from training.study.decisions import FIXED, TUNED
from training.study.markdown import NOT_RUN, at, cell, gap, image
from training.study.measures import FREE
from training.study.report_more import (
    controls_section,
    curves_section,
    external_section,
    left_section,
    limits_section,
)
from training.study.report_shipped import shipped_section
from training.study.report_words import FIGURES, purpose_of, set_name, source
from training.study.tables import METHODS, method_pairs

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
    """Everything about one task.

    Parameters
    ----------
    results
        Content of ``results.json``.
    folder
        Where its figures are, relative to the report.
    """
    drawn = {name: f"{folder}/{file}" for name, file in FIGURES.items()}
    found: list[str] = []
    for made in (
        _scores(results, drawn),
        _agreement(results),
        _groups(results),
        _features(results, drawn),
        _attention(results, drawn),
        controls_section(results),
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
    """A ranking measure; undefined where no class has enough positives."""
    return cell(values[measure]) if measure in values else "-"


def _scores(results: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    found, official = results["table2"], results["official"]
    paper = results["paper"]["table2"]
    rows = []
    for name, row, values in _method_rows(results, found["methods"], METHODS):
        told = ["", ""]
        if row == TUNED:
            told = [decimal(paper[name]["f_measure"], 4), decimal(paper[name][official], 4)]
        rows.append([NAMES[name], ROW_TITLES[row], *values, *told])
    title = TITLES[official]
    header = ("method", "thresholds", "F-1", title, "AUROC", "AUPRC", "paper F-1>", f"paper {title}>")
    deit = found["deit"] or NOT_RUN
    lines = [
        "",
        "### Table 2: test performance, and Figure 1",
        *table(header, rows),
        f"DeiT is {deit}, the better on validation of the two variants"
        f"{_both(found)}. {_classes(results, found)}{source(results, 'test', 'methods')}.",
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


def _both(found: Mapping[str, Any]) -> str:
    scores = {name: found["validation"].get(name) for name in ("deit-soft", "deit-hard")}
    told = [f"{name} {decimal(value)}" for name, value in scores.items() if value is not None]
    return f" ({', '.join(told)})" if told else ""


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
    for place, found in results["table1"].items():
        rows = []
        for name in ("transformer", "deit", "bbm", "ceiling"):
            values = found["methods"].get(name, {})
            told = paper["in distribution"].get(name) if place == "in distribution" else None
            cells = [cell(values.get(reading)) for reading in READINGS]
            title = NAMES.get(name, "second teacher (ceiling)")
            rows.append([title, *cells, "" if told is None else decimal(told)])
        lines += [
            "",
            f"**{place[0].upper()}{place[1:]}**",
            *table(("network", *READINGS.values(), "paper R²>"), rows),
            f"{_pairs(found)}{source(results, set_name(results, place, found), purpose_of(found))}.",
        ]
    for name, values in paper.items():
        if name != "in distribution":
            numbers = ", ".join(f"{NAMES[m]} {decimal(v)}" for m, v in values.items())
            lines += ["", f"The paper, {name}, on data that are not ours: {numbers}."]
    return [
        *lines,
        "",
        "R² is, for each class, the squared Pearson correlation of the two networks' probabilities, averaged "
        "over classes; the paper does not define its own. The ceiling is a second teacher of another seed.",
    ]


def _pairs(found: Mapping[str, Any]) -> str:
    told = [f"{pair}: {gap(at(values, 'r_squared'))}" for pair, values in found["differences"].items()]
    return f"Paired differences in R²: {'; '.join(told)}. " if told else ""


def _groups(results: Mapping[str, Any]) -> list[str]:
    found, official = results["table3"], results["official"]
    paper = results["paper"]["table3"]
    rows = []
    for n, told in paper.items():
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
                decimal(told["f_measure"], 4),
                decimal(told[official], 4),
            ]
        )
    title = TITLES[official]
    header = ("groups", "F-1", title, "AUPRC", f"{title} against 1 group", "paper F-1>", f"paper {title}>")
    lines = ["", "### Table 3: number of matched groups", *table(header, rows)]
    return [*lines, f"Tuned thresholds. {source(results, 'test', 'groups')}."]


def _features(results: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    found = results["similarity"]["cka"]
    lines = ["", "### Figure 2: centred kernel alignment with the teacher"]
    if not found:
        return [*lines, "", NOT_RUN]
    n_groups = len(next(iter(found["arms"].values()))["diagonal"])
    batches = "1 batch" if found["batches"] == 1 else f"{found['batches']} batches"
    rows = []
    for name in ("transformer", "deit", "bbm", "ceiling"):
        values = found["arms"].get(name)
        title = NAMES.get(name, "second teacher (ceiling)")
        cells = [decimal(v) for v in values["diagonal"]] if values else [NOT_RUN] * n_groups
        rows.append([title, *cells, decimal(values["diagonal_mean"]) if values else NOT_RUN])
    header = ("network", *(f"group {i}>" for i in range(1, n_groups + 1)), "mean>")
    return [
        *lines,
        *image("Figure 2: CKA of every teacher unit with every student unit", drawn["cka"]),
        *table(header, rows),
        f"Unbiased minibatch estimate from {batches} of {found['examples_per_batch']} test "
        "examples, mean over seeds; the table holds the diagonal of the group-level matrix. No interval over "
        f"patients. {source(results, 'test', 'methods')}.",
    ]


def _attention(results: Mapping[str, Any], drawn: Mapping[str, str]) -> list[str]:
    found = results["similarity"]["attention"]
    lines = ["", "### Figure 3: averaged attention"]
    if not found:
        return [*lines, "", NOT_RUN]
    unit = "h" if found["causal"] else "tokens of 0.1 s"
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
    return [
        *lines,
        *image("Figure 3: attention averaged over records and heads", drawn["attention"]),
        *image("Attention in numbers, block by block", drawn["attention_numbers"]),
        *table(header, rows),
        f"BBM minus Transformer in distance, mean of the early blocks: {gap(early, 2)}. Distance, local mass "
        "and entropy are measured per head and record, then averaged; the Toeplitz share is of the averaged "
        f"matrix. From {count(found['records'])} records of {count(found['patients'])} patients of the test "
        f"part. {source(results, 'test', 'methods')}.",
    ]
