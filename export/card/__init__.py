"""The model card (Mitchell et al. 2019) and its figure, written from ``bundle.json`` alone.

Numbers are changed in the contract; the card and the figure only show them. The SVG is written directly,
because it has only three small panels and a card must not need matplotlib.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from export.card.ecg import ecg_sections
from export.card.stay import stay_sections
from export.entries import seal
from export.scored import CHALLENGE
from ibt_deploy.bundle import CONTRACT
from ibt_deploy.errors import BundleError
from ibt_deploy.files import atomic_write
from ibt_deploy.predictions import NOTICE
from ibt_deploy.render.report import bullets, count, decimal, table
from ibt_deploy.types import NOUNS
from training.checkpoint import OFFICIAL
from training.tasks import TASKS

WIDTH, HEIGHT = 300, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 26, 36
STUDENT, TEACHER, GREY = "#0072b2", "#d55e00", "#888888"
LEAST = 1e-4

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a panel; ``best`` is marked with a ring."""

    name: str
    colour: str
    points: Points
    best: tuple[float, float] | None = None
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """One diagram; the names of its lines are in ``corner``, out of the way of the lines.

    With ``decades``, the points are logarithms and both axes have the same scale.
    """

    title: str
    x: str
    lines: list[Line]
    corner: tuple[str, str]
    decades: bool = False


def curves_svg(contract: dict[str, Any]) -> str:
    """The figure for a bundle's contract."""
    runs = [("student", STUDENT, contract["training"]["student"])]
    if contract["training"]["teacher"] is not None:
        runs.append(("teacher", TEACHER, contract["training"]["teacher"]))
    panels = [
        Panel(
            "training: loss on the labels",
            "epoch",
            # a network trained on labels alone has no term besides the loss
            [_curve(name, colour, run, "train", "task", "loss") for name, colour, run in runs],
            ("top", "right"),
        ),
        Panel(
            f"validation: {TASKS[contract['task']].official.replace('_', ' ')}",
            "epoch",
            [_curve(name, colour, run, "validation", *OFFICIAL) for name, colour, run in runs],
            ("bottom", "right"),
        ),
        _reliability(contract["metrics"]["test"]["calibration"]["bins"]),
    ]
    drawn = [_panel(panel, i * WIDTH) for i, panel in enumerate(panels)]
    size = f'width="{len(panels) * WIDTH}" height="{HEIGHT}" viewBox="0 0 {len(panels) * WIDTH} {HEIGHT}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
            '<rect width="100%" height="100%" fill="white"/>',
            *drawn,
            "</svg>",
            "",
        ]
    )


def _refitted(run: dict[str, Any]) -> bool:
    """Whether a run learnt from the validation part too, so that no epoch was selected on it."""
    return bool(run["recipe"]["data"].get("refit", False))


def _curve(name: str, colour: str, run: dict[str, Any], part: str, *keys: str) -> Line:
    values = [(e["epoch"], next((e[part][k] for k in keys if k in e[part]), None)) for e in run["curve"]]
    points = [(float(epoch), float(value)) for epoch, value in values if value is not None]
    best = None if _refitted(run) else next((p for p in points if p[0] == run["best_epoch"]), None)
    return Line(name, colour, points, best)


def _reliability(bins: list[dict[str, Any]]) -> Panel:
    points = [(_decade(b["predicted"]), _decade(b["observed"])) for b in bins]
    ends = [v for point in points for v in point] or [0.0]
    return Panel(
        "reliability (test): observed share",
        "mean predicted probability",
        [
            Line("ideal", GREY, [(min(ends),) * 2, (max(ends),) * 2], dashed=True),
            Line("tenths of the predictions", STUDENT, points, dots=True),
        ],
        ("top", "left"),
        decades=True,
    )


def ticks(low: float, high: float, *, whole: bool = False, most: int = 5) -> list[float]:
    """About ``most`` round numbers, or ``whole`` ones, from at or below ``low`` to at or above ``high``."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    steps = [m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9)]
    step = next((s for s in steps if s == int(s)), 1.0) if whole else steps[0]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _panel(panel: Panel, shift: int) -> str:
    points = [p for line in panel.lines for p in line.points]
    parts = [f'<g transform="translate({shift},0)">', _text(LEFT, 15, panel.title, weight="bold")]
    if not points:
        return "\n".join([*parts, _text(LEFT, HEIGHT // 2, "no record of the epochs"), "</g>"])
    if panel.decades:
        low, high = _ends([v for point in points for v in point])
        xs = ys = [float(k) for k in range(math.floor(low), max(math.ceil(high), math.floor(low) + 1) + 1)]
    else:
        xs = ticks(*_ends([p[0] for p in points]), whole=True)
        ys = ticks(*_ends([p[1] for p in points]))
    across, down = _scale(xs, LEFT, WIDTH - RIGHT), _scale(ys, HEIGHT - BOTTOM, TOP)
    for y in ys:
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}" stroke="#dddddd"/>'
        )
        parts.append(_text(LEFT - 5, down(y) + 4, _mark(panel, y), anchor="end"))
    parts += [_text(across(x), HEIGHT - BOTTOM + 14, _mark(panel, x), anchor="middle") for x in xs]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, panel.x, anchor="middle"))
    parts += [part for line in panel.lines for part in _line(line, across, down)]
    parts += _line_names(panel)
    return "\n".join([*parts, "</g>"])


def _mark(panel: Panel, value: float) -> str:
    return f"{10**value if panel.decades else value:g}"


def _decade(share: float) -> float:
    """Logarithm of a share, clipped at the least share drawn."""
    return math.log10(max(share, LEAST))


def _line_names(panel: Panel) -> list[str]:
    vertical, horizontal = panel.corner
    drawn = [line for line in panel.lines if line.points]
    first = TOP + 12 if vertical == "top" else HEIGHT - BOTTOM - 6 - 13 * (len(drawn) - 1)
    x, anchor = (LEFT + 6, "start") if horizontal == "left" else (WIDTH - RIGHT - 4, "end")
    return [
        _text(x, first + 13 * i, line.name, anchor=anchor, colour=line.colour) for i, line in enumerate(drawn)
    ]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _scale(marks: list[float], start: float, end: float) -> Any:
    low, high = marks[0], marks[-1]
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _line(line: Line, across: Any, down: Any) -> list[str]:
    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line.points)
    dash = ' stroke-dasharray="4 3"' if line.dashed else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.6"{dash}/>']
    if line.dots:
        parts += [
            f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="2.5" fill="{line.colour}"/>'
            for x, y in line.points
        ]
    if line.best is not None:
        x, y = line.best
        parts.append(
            f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="4" fill="none" stroke="{line.colour}" '
            'stroke-width="1.6"/>'
        )
    return parts


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222222", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


CARD, PICTURE = "card.md", "curves.svg"
SECTIONS = {"arrhythmia": ecg_sections, "sepsis": stay_sections}
"""Sections by task: lines about the data for training, tuning and testing, and about its figures."""


def write_card(folder: Path) -> bool:
    """Write card and figure of the bundle in ``folder`` from its contract; return whether anything changed.

    Raises
    ------
    BundleError
        When the contract lacks an entry that a card needs.
    """
    contract = json.loads((folder / CONTRACT).read_text(encoding="utf-8"))
    try:
        written = {CARD: card_text(contract), PICTURE: curves_svg(contract)}
    except (KeyError, TypeError) as error:
        raise BundleError(f"{folder / CONTRACT}: a card needs the entry {error}") from error
    changed = False
    for name, text in written.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic_write(path, text)
            changed = True
    if changed:
        seal(folder, contract)
    return changed


def card_text(contract: dict[str, Any]) -> str:
    """The card as Markdown."""
    data, figures = SECTIONS[contract["task"]](contract)
    lines = [
        f"# {contract['name']} {contract['version']}",
        "",
        f"**{NOTICE}**",
        "",
        _what_it_is(contract),
        *_in_short(contract),
        "## Intended use",
        "",
        contract["intended_use"],
        "",
        "Not intended for:",
        *bullets(contract["not_intended"]),
        "Not evaluated on:",
        *bullets(contract["not_evaluated_on"]),
        *data,
        *_data_sets(contract),
        *figures,
        *_comparison(contract),
        *_candidates(contract),
        *_training(contract),
        *_proof(contract),
        "## Limits",
        *bullets(contract["limits"]),
        *_reproduction(contract),
    ]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip("\n") + "\n"


def _what_it_is(contract: dict[str, Any]) -> str:
    student, teacher = contract["training"]["student"], contract["training"]["teacher"]
    methods = {
        "bbm": "A transformer that was distilled block by block (block-by-block matching)",
        "deit": "A transformer that was distilled from responses (DeiT)",
        "transformer": "A transformer trained on labels, without a teacher's features",
        "teacher": "A teacher network (convolutional for ECGs, recurrent for stays)",
    }
    text = f"{methods[student['method']]}, {count(student['parameters'])} parameters"
    if teacher is not None:
        text += f", from a teacher of {count(teacher['parameters'])}"
    text += _begun(student) + _softened(student)
    p = contract["preprocessing"]
    made = f"Preprocessing: {p['name']} {p['version']}. Made {contract['created']}."
    return f"{text}. Task: {contract['task']}. {made}"


def _begun(student: dict[str, Any]) -> str:
    """Clause about the weights that training started from, if they were trained."""
    learnt_from = student.get("learnt_from", {})
    if not (start := learnt_from.get("initial_sha256")):
        return ""
    n = len((learnt_from.get("also_sha256") or "").split())
    others = f", which have learnt from {n} other data {'set' if n == 1 else 'sets'}" if n else ""
    return f", started from trained weights (`{start[:12]}`{others})"


def _softened(student: dict[str, Any]) -> str:
    """Sentence about an ensemble's opinion in the labels, if any."""
    weight = student["recipe"]["data"].get("soft_weight", 0)
    if not weight:
        return ""
    opinion = student.get("learnt_from", {}).get("opinion_sha256")
    of_file = f", `{opinion[:12]}`" if opinion else ""
    return (
        f". Its labels were {weight:g} parts the opinion of an ensemble (`ibt train ensemble`{of_file}) "
        f"and {1 - weight:g} parts the data's own"
    )


def _in_short(contract: dict[str, Any]) -> list[str]:
    unit = NOUNS[contract["task"]]
    rows = [
        [
            entry["set"],
            f"{count(entry['n'])} {unit}",
            entry["name"],
            decimal(entry["value"]),
            " to ".join(map(decimal, entry["interval"])),
        ]
        for entry in contract["metrics"]["headline"]
    ]
    draws = contract["metrics"]["bootstrap"]["draws"]
    return [
        "",
        "## In short",
        *table(["set", "size", "measure", "value>", "95 % interval>"], rows),
        f"{_read_at(contract)} Scored by {_scored_by(contract)}, on "
        "patients that neither trained nor tuned it. Intervals: percentile bootstrap over patients, "
        f"{count(draws)} draws.",
        "",
        "Operating points:",
        *bullets(f"`{name}`: {point['description']}" for name, point in contract["operating_points"].items()),
    ]


def _scored_by(contract: dict[str, Any]) -> str:
    rewritten = contract["training"].get("rewritten")
    return f"version {rewritten['from']}, which is the same network" if rewritten else "this bundle itself"


def _read_at(contract: dict[str, Any]) -> str:
    """Sentence about the operating point of the headline figures."""
    default = contract["default_operating_point"]
    if contract["task"] == "arrhythmia":
        where = f"The challenge metric is read at the operating point `{CHALLENGE}`, macro F at `{default}`"
    else:
        where = f"Utility and F are read at the operating point `{default}`"
    return f"{where}; AUROC and AUPRC need no threshold."


def _data_sets(contract: dict[str, Any]) -> list[str]:
    data = contract["training"]["data"]
    return [
        "Data sets, licences and citations:",
        *bullets(contract["licences"]),
        "To be cited as well:",
        *bullets(data["cite_also"]),
    ]


def _comparison(contract: dict[str, Any]) -> list[str]:
    found = contract["metrics"].get("comparison")
    if found is None:
        return []
    names = {"f_measure": "F", "auroc": "AUROC", "auprc": "AUPRC", "challenge_metric": "challenge metric"}
    rows = []
    for key, theirs in found["teacher"].items():
        difference = found["student_minus_teacher"][key]
        rows.append(
            [
                names.get(key, key),
                decimal(theirs["value"]),
                " to ".join(map(decimal, theirs["interval"] or [None, None])),
                decimal(difference["value"]),
                " to ".join(map(decimal, difference["interval"] or [None, None])),
                "yes" if difference["resolved"] else "no",
            ]
        )
    training = contract["training"]
    tuned = (
        "calibrated on its own validation answers; its thresholds rest on these and on the same out-of-fold "
        "predictions as the student's"
    )
    if not (training.get("evidence") or {}).get("opinion_sha256"):
        tuned = "calibrated and tuned on validation in the same way"
    more = " The student learnt from the validation part as well, the teacher did not."
    return [
        "## Against its teacher",
        "",
        f"The teacher on the same test part, {tuned}. The difference is student minus teacher on the same "
        "draws of patients. One seed each, so nothing is said about the methods in general."
        + (more if _refitted(training["student"]) else ""),
        *table(["measure", "teacher>", "95 % interval>", "difference>", "95 % interval>", "resolved"], rows),
    ]


def _candidates(contract: dict[str, Any]) -> list[str]:
    found = contract["training"].get("candidates")
    if found is None:
        return []
    names = list(dict.fromkeys(name for model in found["models"] for name in model["figures"]))
    rows = [
        [
            f"**{model['name']}**" if model["chosen"] else model["name"],
            *(decimal(model["figures"].get(name)) for name in names),
        ]
        for model in found["models"]
    ]
    return [
        "## Candidates",
        "",
        found["about"],
        *table(["model", *(f"{name}>" for name in names)], rows),
        found["reason"],
        "",
    ]


def _training(contract: dict[str, Any]) -> list[str]:
    rows = []
    for who in ("student", "teacher"):
        run = contract["training"][who]
        if run is None:
            continue
        fit = run["recipe"]["fit"]
        rows.append(
            [
                f"{who} ({run['method']})",
                str(run["seed"]),
                f"{run['best_epoch']} of {run['epochs'] or 'unknown'}" + ("*" if _refitted(run) else ""),
                str(fit["batch_size"]),
                f"{fit['lr']:g}",
                f"{fit['weight_decay']:g}",
                "unknown" if run["seconds"] is None else f"{run['seconds'] / 60:.0f}",
                f"`{run['recipe_sha256'][:12]}`",
            ]
        )
    header = ["", "seed>", "epoch kept>", "batch>", "peak rate>", "weight decay>", "minutes>", "recipe"]
    return [
        "## Training",
        "",
        f"![training loss, validation metric and reliability]({PICTURE})",
        "",
        *_selected_by(contract["training"]),
        *table(header, rows),
        *_refit_lines(contract["training"]),
        "The full recipes, with every default, are in `bundle.json` under `training`.",
        "",
    ]


def _selected_by(training: dict[str, Any]) -> list[str]:
    """How epochs were selected; empty if none was."""
    runs = [training[who] for who in ("student", "teacher") if training[who] is not None]
    by = {run["recipe"]["fit"].get("select", "official") for run in runs if not _refitted(run)}
    if not by:
        return []
    names = {"auroc": "validation AUROC", "bce": "validation cross-entropy", "official": "validation metric"}
    best = f", by {' or '.join(sorted(names[name] for name in by))}" if by <= set(names) else ""
    return [
        "The validation metric is at thresholds tuned on the same part, hence optimistic. A ring marks the "
        f"epoch that was selected{best}.",
    ]


def _refit_lines(training: dict[str, Any]) -> list[str]:
    if not _refitted(training["student"]):
        return []
    evidence = training["evidence"]
    chosen = evidence["chosen"]
    taught = " and the same teacher" if training["student"]["learnt_from"].get("teacher_sha256") else ""
    judge = (
        f"{chosen['name']} {chosen['version']} (checkpoint `{chosen['checkpoint_sha256'][:12]}`), which has "
        f"the same recipe{taught} but learnt from the training part alone"
    )
    if not evidence["opinion_sha256"]:
        decided = f"Calibration and thresholds come from the validation answers of {judge}."
    else:
        decided = (
            f"Its calibration comes from the validation answers of {judge}. The thresholds, and the choice "
            "of evaluable classes, rest on those answers and on out-of-fold predictions for the training "
            f"part (`ibt train ensemble --cross-fit`, `{evidence['opinion_sha256'][:12]}`)."
        )
    return [
        "\\* The student learnt from the training and the validation part together. The number of epochs was "
        f"fixed beforehand, and the last one was kept. {decided}",
        "",
    ]


def _proof(contract: dict[str, Any]) -> list[str]:
    p = contract["metrics"]["parity"]
    lines = [
        f"ONNX against torch on {count(p['inputs'])} validation inputs: logits differ by at most "
        f"{p['logits']:.1e}, calibrated probabilities by {p['probabilities']:.1e}. {_changed_decisions(p)}",
        f"A batch against its inputs one by one: {p['batch']:.1e}.",
    ]
    if p["streaming"] is not None:
        lines.append(f"Whole stays against hour by hour with cached keys and values: {p['streaming']:.1e}.")
        lines.append(f"Change of earlier logits when later hours change: {p['earlier']:g}.")
    int8 = contract["metrics"].get("int8")
    if int8 is not None:
        verdict = "shipped as variant `int8`" if int8["shipped"] else "not shipped"
        lines.append(
            f"int8 ({int8['bytes_int8'] / 1e6:.1f} MB against {int8['bytes_float'] / 1e6:.1f}): {verdict}. "
            f"On validation, probabilities change by {int8['mean_probability_change']:.4f} on average, AUROC "
            f"changes by {_change(int8['auroc_drop'])} and the main metric by "
            f"{_change(int8['metric_drop'])}; {100 * int8['decisions_changed']:.2f} % of decisions change."
            + _int8_of_stays(int8)
            + "".join(f" Reason: {reason}." for reason in int8["reasons"])
        )
    return ["## Proof of the graph", *bullets(lines), "On your own machine: `ibt verify`.", ""]


def _changed_decisions(parity: dict[str, Any]) -> str:
    n = f"{count(parity['decisions'])} decisions over all operating points"
    if not parity["decisions_changed"]:
        return f"All {n} agree."
    return (
        f"Of {n}, {parity['decisions_changed']} differ, {parity['decisions_on_edge']} of them within 1e-4 of "
        "the threshold."
    )


def _change(drop: float) -> str:
    """A drop as a signed change; no sign where it rounds to zero."""
    return f"{-drop:+.4f}" if f"{abs(drop):.4f}" != "0.0000" else "0.0000"


def _int8_of_stays(int8: dict[str, Any]) -> str:
    """What later hours, a batch and hourly arrival change; older bundles lack the last."""
    if (streaming := int8.get("streaming_change")) is None:
        return ""
    return (
        f" Later hours change earlier logits by {int8['earlier_risk_change']:g}. Other stays in the batch "
        f"change a logit by at most {int8['batch_risk_change']:.1g}, and hourly arrival by at most "
        f"{streaming:.1g}."
    )


def _reproduction(contract: dict[str, Any]) -> list[str]:
    training = contract["training"]
    software = ", ".join(f"{name} {version}" for name, version in training["software"].items())
    hashes = [
        ("cache", training["data"]["cache_sha256"]),
        ("split", training["data"]["split_sha256"]),
        ("checkpoint", training["student"]["checkpoint_sha256"]),
    ]
    return [
        "## How it was made",
        "",
        *([training["rewritten"]["note"], ""] if "rewritten" in training else []),
        *(["```", training["command"], "```", ""] if training["command"] else []),
        f"With {software}.",
        *bullets(f"{name}: `{sha256}`" for name, sha256 in hashes),
    ]
