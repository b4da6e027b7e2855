"""Sections of a card specific to ECGs."""

from __future__ import annotations

from typing import Any

from ibt_deploy.evaluation import in_order
from ibt_deploy.render.report import count, counted, decimal, ranged, table
from training.data.split import PARTS

GROUPS = ("source", "sex", "age")
EXPLAINED = (
    "Challenge metric, macro F and accuracy are those of the official evaluation over all 26 classes; a "
    "class that is not evaluable is never reported and so counts as missed. Threshold-free means are over "
    "evaluable classes with at least five positives in the set; their number is given."
)


def ecg_sections(contract: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Data and figures of an arrhythmia model."""
    test = contract["metrics"]["test"]
    figures = [
        "## Figures on the test part",
        "",
        _about(test),
        "",
        EXPLAINED,
        *_all_figures(contract, test, every=True),
    ]
    figures += [*_short_recordings(contract), *_familiarity(contract)]
    for name, found in contract["metrics"]["external"].items():
        figures += [
            f"## Figures on {name} (external test set)",
            "",
            "Nothing was trained, tuned or chosen on these recordings. Their labels come from another "
            "vocabulary: a class that the set does not label counts as absent, so that every output of it "
            "counts as false.",
            "",
            _about(found),
            *_all_figures(contract, found, every=False),
        ]
    return _data(contract), figures


def _data(contract: dict[str, Any]) -> list[str]:
    parts = contract["training"]["data"]["parts"]
    rows = [
        [
            name,
            count(parts[name]["recordings"]),
            count(parts[name]["patients"]),
            counted(parts[name]["groups"]["source"]),
        ]
        for name in PARTS
    ]
    preparation = contract["training"]["data"]["preparation"]
    others = {k: v for k, v in preparation.items() if isinstance(v, int) and k != "records"}
    never = [c["abbreviation"] for c in contract["classes"] if not c["evaluable"]]
    return [
        "## Data",
        "",
        "Recordings are divided once, stratified by class and source; a patient, where known, is in one "
        "part.",
        *table(["part", "recordings>", "patients or groups>", "sources"], rows),
        f"Refused in preparation: {counted(preparation['refused'])}. Other counts: {counted(others)}.",
        "",
        f"**Not evaluable**: {', '.join(never) or 'none'}. A class counts as evaluable with at least 15 "
        f"positives in training and validation together, {_ranked_on(contract)} 95 % interval (Hanley and "
        "McNeil 1982) lies above 0.6. The other classes are in the network and in every answer, marked as "
        "not evaluable, and are never reported as findings.",
        *_held_out(contract),
        *_confounding(contract),
    ]


def _ranked_on(contract: dict[str, Any]) -> str:
    if contract["training"].get("evidence", {}).get("opinion_sha256"):
        return (
            "and an AUROC over both (validation by this recipe, training by out-of-fold predictions of "
            "cross-fitted networks) whose"
        )
    return "3 of them in validation, and an AUROC there whose"


def _held_out(contract: dict[str, Any]) -> list[str]:
    """AUROC of each class on the recordings by which it was judged; empty for a bundle without them."""
    rows = [
        [
            c["abbreviation"],
            f"{count(c['held_out']['positives'])} of {count(c['held_out']['n'])}",
            ranged(c["held_out"].get("auroc"), 2),
            "yes" if c["evaluable"] else "no",
        ]
        for c in contract["classes"]
        if "held_out" in c
    ]
    if not rows:
        return []
    return [
        "",
        "The AUROC of each class on these recordings, from which the judging networks did not learn (the "
        "validation recordings also selected the epoch). The test part adds no figures for a class that has "
        "fewer than five positives there:",
        *table(["class", "positives>", "AUROC (95 % interval)>", "evaluable"], rows),
    ]


def _confounding(contract: dict[str, Any]) -> list[str]:
    """Training positives by class and source: a class from a single source may be recognised by it."""
    train = contract["training"]["data"]["parts"]["train"]
    by_source, sources = train["positives_by_source"], train["groups"]["source"]
    rows = [
        [c["abbreviation"], *(str(by_source[s].get(c["abbreviation"], 0)) for s in sources)]
        for c in contract["classes"]
    ]
    return [
        "",
        "Training positives by source; a class that comes from one source only may be recognised by its "
        "source:",
        *table(["class", *(f"{s} ({n:,})>" for s, n in sources.items())], rows),
    ]


def _short_recordings(contract: dict[str, Any]) -> list[str]:
    curve = contract.get("short_recordings")
    if curve is None:
        return []
    shortest = contract["preprocessing"]["shortest_seconds"]
    columns = ("recordings_unchanged", "agreement", "decisions_unchanged")
    rows = [
        [f"{seconds:g} s", *(f"{100 * curve[name][i]:.1f} %" for name in columns)]
        for i, seconds in enumerate(curve["seconds"])
    ]
    header = ["scored", "recordings with the same findings>", "agreement of findings>", "same decisions>"]
    return [
        "## Short recordings",
        "",
        "Validation recordings of ten seconds, scored from their first seconds alone and compared with their "
        "own ten-second answer at the default operating point. Agreement is twice the number of shared "
        "findings over the number of findings in both answers. The graph masks what was not recorded. "
        f"Recordings shorter than {shortest:g} s are refused: below that, agreement falls under 90 %.",
        *table(header, rows),
    ]


def _familiarity(contract: dict[str, Any]) -> list[str]:
    found = contract["metrics"].get("familiarity")
    if found is None:
        return []
    evidence = contract["training"].get("evidence") or {}
    chosen = evidence.get("chosen")
    judge = f" (by {chosen['name']} {chosen['version']}, which never saw them)" if chosen else ""
    stretched = (
        f"The distances of the training recordings are multiplied by {found['stretch']:.3f}, because the "
        "network has learnt from these recordings and they lie nearer. "
        if found["stretch"] > 1
        else ""
    )
    return [
        "## Familiarity",
        "",
        "Every answer says which share of recordings like the training set lies at least as far from its "
        f"middle, by a Gaussian on what the classifier reads. {stretched}"
        f"A warning `unfamiliar` is given below {1 - found['limit']:.1%}: in "
        f"{found['validation_unfamiliar']:.1%} of the validation recordings{judge} and "
        f"{found['test_unfamiliar']:.1%} of the test recordings. Other sets, and damaged test recordings, "
        "against the test part:",
        *table(
            ["recordings", "AUROC of the distance>", "called unfamiliar>"],
            [
                [name, decimal(row["auroc"]), f"{row['unfamiliar']:.1%}"]
                for name, row in found["separated"].items()
            ],
        ),
    ]


def _about(found: dict[str, Any]) -> str:
    text = f"{count(found['recordings'])} recordings of {count(found['patients'])} patients or groups."
    if found["unknown_labels"]:
        text += f" {count(found['unknown_labels'])} unknown labels are left out."
    return f"{text} Refused by scoring: {counted(found['refused'])}."


def _all_figures(contract: dict[str, Any], found: dict[str, Any], *, every: bool) -> list[str]:
    return [
        *_thresholds(contract, found),
        *_classes(contract, found, every=every),
        *_calibration(found),
        *_groups(found),
    ]


def _thresholds(contract: dict[str, Any], found: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in found["thresholds"].items():
        default = " (default)" if name == contract["default_operating_point"] else ""
        title = f"`{name}`{default}" if name in contract["operating_points"] else f"fixed {name}"
        f_text = f"{ranged(row['f_measure'])}, {row['n_f_classes']} classes"
        rows.append([title, ranged(row["challenge_metric"]), f_text, decimal(row["accuracy"]), "", ""])
    free = found["threshold_free"]
    title = f"threshold-free ({free['n_classes']} classes)"
    rows.append([title, "", "", "", ranged(free.get("auroc")), ranged(free.get("auprc"))])
    header = ["thresholds", "challenge metric>", "macro F>", "all 26 right>", "macro AUROC>", "macro AUPRC>"]
    return table(header, rows)


def _classes(contract: dict[str, Any], found: dict[str, Any], *, every: bool) -> list[str]:
    """Table of the classes with figures; the others are included with ``every``, otherwise listed below."""
    default = contract["default_operating_point"]
    thresholds = contract["operating_points"][default]["thresholds"]
    rows, without = [], []
    for entry, threshold in zip(contract["classes"], thresholds, strict=True):
        c = found["classes"][entry["abbreviation"]]
        trained = "/".join(str(entry["positives"][part]) for part in PARTS)
        head = [entry["abbreviation"], trained, f"{c['positives']} of {count(c['n'])}"]
        if "auroc" in c:
            rows.append([*head, *_class_figures(c, threshold)])
        elif every:
            rows.append([*head, "too few here" if entry["evaluable"] else "not evaluable", *[""] * 9])
        elif c["positives"]:
            without.append(f"{entry['abbreviation']} {c['positives']}")
    header = [
        "class",
        "positives train/validation/test",
        "positives here>",
        "AUROC>",
        "AUPRC>",
        "threshold>",
        "sensitivity>",
        "specificity>",
        "PPV>",
        "F>",
        "cal. slope>",
        "cal. intercept>",
        "Brier>",
    ]
    lines = [f"### By class, at the operating point `{default}`", *table(header, rows)]
    if without:
        lines += [
            f"Without figures, because not evaluable or fewer than five here: {', '.join(without)}.",
            "",
        ]
    return lines


def _class_figures(c: dict[str, Any], threshold: float) -> list[str]:
    line = c["calibration"]
    return [
        ranged(c["auroc"], 2),
        ranged(c["auprc"], 2),
        decimal(threshold, 3),
        ranged(c["sensitivity"], 2),
        ranged(c["specificity"], 2),
        ranged(c["ppv"], 2),
        ranged(c["f_measure"], 2),
        decimal(line["slope"], 2),
        decimal(line["intercept"], 2),
        decimal(line["brier"]),
    ]


def _calibration(found: dict[str, Any]) -> list[str]:
    c = found["calibration"]
    return [
        "### Calibration",
        "",
        f"Over all evaluable classes together: slope {decimal(c['slope'])}, intercept "
        f"{decimal(c['intercept'])} (1 and 0 are ideal), Brier score {decimal(c['brier'], 4)}, expected "
        f"calibration error {decimal(c['expected_calibration_error'], 4)}. For each class see the table "
        "above; a slope below 1 means probabilities that are too extreme.",
        "",
    ]


def _groups(found: dict[str, Any]) -> list[str]:
    rows = []
    for name in GROUPS:
        groups = in_order(found["groups"].get(name, {}))
        # a single group is the whole set, whose figures are above
        for value, g in groups if len(groups) > 1 else []:
            calibration = g.get("calibration", {})
            rows.append(
                [
                    f"{name}: {value}",
                    count(g["recordings"]),
                    ranged(g.get("challenge_metric")),
                    ranged(g.get("f_measure")),
                    f"{ranged(g['auroc'])}, {g['n_classes']} classes" if "auroc" in g else "-",
                    decimal(calibration.get("slope"), 2),
                    decimal(calibration.get("intercept"), 2),
                ]
            )
    header = [
        "group",
        "recordings>",
        "challenge metric>",
        "macro F>",
        "macro AUROC>",
        "cal. slope>",
        "cal. intercept>",
    ]
    if not rows:
        return []
    return [
        "### By source and sub-group",
        "",
        "No figures for fewer than 20 recordings.",
        *table(header, rows),
    ]
