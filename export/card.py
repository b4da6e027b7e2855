"""The model card (Mitchell et al. 2019), written from ``bundle.json`` alone.

Whoever changes a figure changes the contract; the card and its picture only show it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.card_ecg import ecg_sections
from export.card_stay import stay_sections
from export.contract import seal
from export.curves import curves_svg
from export.markdown import bullets
from ibt_deploy.bundle import CONTRACT
from ibt_deploy.errors import BundleError
from ibt_deploy.predictions import NOTICE
from ibt_deploy.render.markdown import count, decimal, table

CARD, PICTURE = "card.md", "curves.svg"


def write_card(folder: Path) -> bool:
    """Write card and picture of the bundle in ``folder`` from its contract; whether anything changed.

    Raises
    ------
    BundleError
        When the contract does not hold what a card needs.
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
            path.write_text(text, encoding="utf-8")
            changed = True
    if changed:
        seal(folder, contract)
    return changed


def card_text(contract: dict[str, Any]) -> str:
    """The card as Markdown."""
    sections = ecg_sections(contract) if contract["task"] == "arrhythmia" else stay_sections(contract)
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
        *sections.data,
        *_data_sets(contract),
        *sections.figures,
        *_comparison(contract),
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
    text += _softened(student)
    p = contract["preprocessing"]
    made = f"Preprocessing: {p['name']} {p['version']}. Made {contract['created']}."
    return f"{text}. Task: {contract['task']}. {made}"


def _softened(student: dict[str, Any]) -> str:
    """What an ensemble had to do with it."""
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
    unit = "recordings" if contract["task"] == "arrhythmia" else "stays"
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
        f"At the operating point `{contract['default_operating_point']}`. Scored by this bundle itself, on "
        "patients that neither trained nor tuned it. Intervals: percentile bootstrap over patients, "
        f"{count(draws)} draws.",
        "",
        "Operating points:",
        *bullets(f"`{name}`: {point['description']}" for name, point in contract["operating_points"].items()),
    ]


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
    return [
        "## Against its teacher",
        "",
        "The teacher on the same test part, calibrated and tuned on validation in the same way; the "
        "difference is student minus teacher on the same draws of patients. One seed each, so nothing is "
        "said about the methods in general.",
        *table(["measure", "teacher>", "95 % interval>", "difference>", "95 % interval>", "resolved"], rows),
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
                f"{run['best_epoch']} of {run['epochs'] or 'unknown'}",
                str(fit["batch_size"]),
                f"{fit['lr']:g}",
                f"{fit['weight_decay']:g}",
                "unknown" if run["seconds"] is None else f"{run['seconds'] / 60:.0f}",
                f"`{run['recipe_sha256'][:12]}`",
            ]
        )
    header = ["", "seed>", "best epoch>", "batch>", "peak rate>", "weight decay>", "minutes>", "recipe"]
    return [
        "## Training",
        "",
        f"![training loss, validation metric and reliability]({PICTURE})",
        "",
        "Rings mark the epoch that was kept, the one of the best validation metric (at thresholds tuned on "
        "the same part, hence optimistic).",
        *table(header, rows),
        "The full recipes, with every default, are in `bundle.json` under `training`.",
        "",
    ]


def _proof(contract: dict[str, Any]) -> list[str]:
    p = contract["metrics"]["parity"]
    lines = [
        f"ONNX against torch on {count(p['inputs'])} validation inputs: logits differ by at most "
        f"{p['logits']:.1e}, calibrated probabilities by {p['probabilities']:.1e}; of "
        f"{count(p['decisions'])} decisions over all operating points {p['decisions_changed']} differ, "
        f"{p['decisions_on_edge']} of them within 1e-4 of the threshold.",
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
            f"On validation the mean probability changed by {int8['mean_probability_change']:.4f}, AUROC "
            f"dropped by {int8['auroc_drop']:.4f}, the main metric by {int8['metric_drop']:.4f}, "
            f"{int8['decisions_changed']:.2%} of decisions changed."
            + "".join(f" Reason: {reason}." for reason in int8["reasons"])
        )
    return ["## Proof of the graph", *bullets(lines), "On your own machine: `ibt verify`.", ""]


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
        *(["```", training["command"], "```", ""] if training["command"] else []),
        f"With {software}.",
        *bullets(f"{name}: `{sha256}`" for name, sha256 in hashes),
    ]
