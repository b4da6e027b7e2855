"""Write a bundle with a site's own calibration and thresholds; everything else is that of the shipped one.

The contract gains the entry ``recalibration``: which bundle it was made from, on how many patients, and
reliability and alarms before and after. The card opens with it, and keeps the shipped card below.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ibt_deploy import __version__
from ibt_deploy.bundle import CONTRACT, Bundle
from ibt_deploy.errors import BundleError
from ibt_deploy.evaluation.recalibration import FOLDS, Recalibration
from ibt_deploy.files import file_sha256
from ibt_deploy.predictions import NOTICE
from ibt_deploy.render.markdown import count, decimal, table
from ibt_deploy.render.svg import reliability_svg

CARD, PICTURE = "card.md", "recalibration.svg"
SHIPPED_CARD = "## The card of the bundle that it was made from"
COLUMNS = {
    "utility": "utility 2019",
    "hours_in_alarm": "hours at or above the threshold",
    "sensitivity": "septic stays alarmed in time",
    "ppv": "alarms that are right",
    "alarms_per_100_patient_days": "alarms in 100 patient-days",
    "challenge_metric": "challenge metric 2021",
    "f_measure": "macro F",
    "findings_per_recording": "findings in a recording",
    "false_findings_per_recording": "false findings in a recording",
}


def write_site_bundle(
    folder: Path,
    shipped: Bundle,
    found: Recalibration,
    *,
    name: str | None = None,
    source: str = "",
    refused: dict[str, int] | None = None,
) -> Path:
    """Write the bundle into ``folder``, which appears whole or not at all.

    Parameters
    ----------
    folder
        Must not exist, or be empty.
    shipped
        What it is made from.
    found
        The recalibration.
    name
        Of the new bundle; default: the shipped one's with ``-recalibrated``.
    source
        What the patients came from, as the contract says it.
    refused
        Inputs that were refused, by code.

    Raises
    ------
    BundleError
        The folder is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder}: exists already; name a new folder")
    calibration = found.calibration(shipped.calibration)
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    entry: dict[str, Any] = {
        "of": {"name": shipped.name, "version": shipped.version, "sha256": shipped.sha256},
        "ibt": __version__,
        "created": created,
        "source": source,
        "counts": found.counts,
        "refused": refused or {},
        "data_sha256": found.data_sha256,
        "folds": FOLDS,
        "classes": list(found.changed),
        "slope": found.line.slope.tolist(),
        "intercept": found.line.intercept.tolist(),
        "before": found.before,
        "after": found.after,
    }
    contract = shipped.contract | {
        "name": name or f"{shipped.name.removesuffix('-recalibrated')}-recalibrated",
        "created": created,
        "calibration": {
            "kind": "platt",
            "slope": calibration.slope.tolist(),
            "intercept": calibration.intercept.tolist(),
            "methods": ["site"] * len(calibration.slope),
        },
        "operating_points": {
            point: shipped.contract["operating_points"][point]
            | {"thresholds": thresholds.tolist(), "description": found.descriptions[point]}
            for point, thresholds in found.thresholds.items()
        },
        "recalibration": entry,
    }
    picture = reliability_svg(
        "reliability on the site's patients",
        [
            (title, [(b["predicted"], b["observed"]) for b in found_part["bins"]])
            for title, found_part in (("as shipped", found.before), ("recalibrated", found.after))
        ],
    )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            new = Path(temporary) / "bundle"
            new.mkdir()
            for file in shipped.files:
                if file not in (CARD, PICTURE):
                    shutil.copyfile(shipped.path / file, new / file)
            (new / PICTURE).write_text(picture, encoding="utf-8")
            (new / CARD).write_text(site_card(contract, _shipped_card(shipped)), encoding="utf-8")
            files = sorted(path for path in new.iterdir())
            sealed = contract | {"files": {path.name: file_sha256(path) for path in files}}
            text = json.dumps(sealed, indent=1, allow_nan=False) + "\n"
            (new / CONTRACT).write_text(text, encoding="utf-8")
            new.replace(folder)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return folder


def _shipped_card(shipped: Bundle) -> str:
    """The card of the first bundle, without what an earlier recalibration put before it."""
    if CARD not in shipped.files:
        return ""
    return shipped.card.split(f"{SHIPPED_CARD}\n", 1)[-1].lstrip("\n")


def site_card(contract: dict[str, Any], shipped_card: str) -> str:
    """The card as Markdown: the recalibration, then the shipped card under a heading of its own."""
    entry = contract["recalibration"]
    of = entry["of"]
    counted = ", ".join(f"{count(n)} {what}" for what, n in entry["counts"].items())
    refused = ", ".join(f"{n} {code}" for code, n in entry["refused"].items())
    lines = [
        f"# {contract['name']} {contract['version']}",
        "",
        f"**{NOTICE}**",
        "",
        f"{of['name']} {of['version']} (sha256 `{of['sha256'][:12]}`) with calibration and thresholds of one "
        f"site: {entry['source'] or 'not named'}; {counted}. Graph and preprocessing are unchanged. Made "
        f"{entry['created']} with ibt {entry['ibt']}.",
        *(["", f"Refused by scoring: {refused}."] if refused else []),
        *(["", f"Fitted classes: {', '.join(entry['classes'])}."] if entry["classes"] else []),
        "",
        "## On the site's patients, before and after",
        "",
        f"Before: as shipped. After: cross-fitted in {entry['folds']} folds, so that no patient judges a "
        "line or a threshold that he or she helped to choose. The bundle itself was fitted on all of them.",
        *table(
            ["", "slope>", "intercept>", "Brier score>", "expected calibration error>"],
            [_reliability_row(when, entry[when]) for when in ("before", "after")],
        ),
        f"![reliability before and after]({PICTURE})",
        *_points(entry),
        "Operating points:",
        "",
        *(f"- `{name}`: {point['description']}" for name, point in contract["operating_points"].items()),
        "",
        "## What to mind",
        "",
        "- These figures are of the site's own patients of one time; `ibt monitor` shows when they no longer "
        "look alike.",
        "- A recalibration changes how probabilities and thresholds are read, never which patient is ranked "
        "above which within a class.",
        "- All that the card below says of probabilities, thresholds and alarms holds for the shipped "
        "bundle, before this recalibration.",
        "",
    ]
    if shipped_card:
        lines += [SHIPPED_CARD, "", shipped_card]
    return "\n".join(lines).rstrip("\n") + "\n"


def _reliability_row(when: str, found: dict[str, Any]) -> list[str]:
    return [
        when,
        decimal(found["slope"]),
        decimal(found["intercept"]),
        decimal(found["brier"], 5),
        decimal(found["expected_calibration_error"], 5),
    ]


def _points(entry: dict[str, Any]) -> list[str]:
    measures = list(next(iter(entry["before"]["points"].values())))
    rows = [
        [f"`{name}`", when, *(decimal(entry[when]["points"][name][measure]) for measure in measures)]
        for name in entry["before"]["points"]
        for when in ("before", "after")
    ]
    return table(["operating point", "", *(f"{COLUMNS[measure]}>" for measure in measures)], rows)
