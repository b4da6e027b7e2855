"""``ibt inspect``: what was read from a file and everything preprocessing would change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from ibt_deploy.bundle import load_bundle, packaged_bundles
from ibt_deploy.cli.group import FILE, echo_refusal
from ibt_deploy.errors import InputError, one_line
from ibt_deploy.files import AnyFile
from ibt_deploy.predictions import Refusal
from ibt_deploy.preprocess.ecg import EcgPreprocessing, examined, window_spans
from ibt_deploy.preprocess.stay import clean
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.readers import items_of, outline_of
from ibt_deploy.records import Notice, Recording, Stay, plausible_age
from ibt_deploy.scorers.ecg import window_changes
from ibt_deploy.types import Float32s, Floats
from ibt_deploy.vocabulary import N_TIME_VARYING, VARIABLES

LONGEST_FIELD = 600


def inspected(file: AnyFile, constants: EcgPreprocessing | None = None) -> Iterator[dict[str, Any]]:
    """Describe each recording or stay of a file as a JSON-compatible dictionary.

    Parameters
    ----------
    file
        Its path, or the file in memory.
    constants
        Constants of the ECG model whose filter and windows are reported; None leaves these out.

    Yields
    ------
    A dictionary with ``source``, ``refused`` (None, or code and message) and, where the file could be read,
    ``task``, ``record``, ``format``, ``notes`` (of the reader), ``changes``, ``warnings`` and numbers about
    the content: ``leads`` of a recording, ``variables`` of a stay. A recording that is not refused also has
    its ``heart_rate``, its ``axis`` and the ``quality`` of its leads. What could not be read has ``bytes``,
    ``format`` and ``header``: as many header fields as could be found.
    """
    outline: dict[str, Any] | None = None
    for item in items_of(file):
        if isinstance(item, Refusal):
            outline = outline or outline_of(file)
            yield {
                "source": item.source,
                **outline,
                "refused": {"code": item.code, "message": item.message},
            }
        elif isinstance(item, Recording):
            yield _recording(item, constants)
        else:
            yield _stay(item)


def installed_ecg_constants() -> EcgPreprocessing | None:
    """Preprocessing of the installed ECG model, or None."""
    if "arrhythmia" not in packaged_bundles():
        return None
    constants = load_bundle("arrhythmia").preprocessing
    return constants if isinstance(constants, EcgPreprocessing) else None


def _recording(recording: Recording, constants: EcgPreprocessing | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "source": recording.source,
        "task": "arrhythmia",
        "record": recording.record_id,
        "format": recording.format,
        "sampling_rate": recording.sampling_rate,
        "duration": round(recording.duration, 3),
        "samples": recording.signal.shape[1],
        "age": plausible_age(recording.age),
        "sex": recording.sex,
        "recorded": None if recording.recorded is None else recording.recorded.isoformat(),
        "device": recording.device,
        "dx": None if recording.dx is None else list(recording.dx),
        "notes": list(recording.notes),
        "leads": [_lead(n, row) for n, row in zip(recording.leads, recording.signal, strict=True)],
    }
    try:
        standard = examined(recording)
    except InputError as error:
        return found | _outcome((), recording.warnings, error)
    changes = standard.changes
    if constants is not None:
        samples = standard.signal.shape[1]
        changes += window_changes(window_spans(samples, constants.length), samples, constants)
    rate = standard.heart_rate
    found["heart_rate"] = None if rate is None else rate.to_dict()
    found["axis"] = None if standard.axis is None else standard.axis.to_dict()
    found["quality"] = [lead.to_dict() for lead in standard.leads]
    return found | _outcome(changes, standard.warnings, None)


def _lead(name: str, signal: Floats) -> dict[str, Any]:
    valid = signal[np.isfinite(signal)]
    extremes = (round(float(valid.min()), 4), round(float(valid.max()), 4)) if len(valid) else (None, None)
    return {
        "name": name,
        "lowest": extremes[0],
        "highest": extremes[1],
        "invalid_samples": int(len(signal) - len(valid)),
        "flat": bool(len(valid)) and extremes[0] == extremes[1],
    }


def _stay(stay: Stay) -> dict[str, Any]:
    inserted = np.zeros(len(stay.values), dtype=bool) if stay.inserted is None else stay.inserted
    cleaned, counts = clean(stay.values)
    found: dict[str, Any] = {
        "source": stay.source,
        "task": "sepsis",
        "record": stay.patient_id,
        "format": stay.format,
        "hours": len(stay.values),
        "first_hour": int(stay.hours[0]) if len(stay.values) else None,
        "inserted_hours": int(inserted.sum()),
        "labels": None if stay.labels is None else {"positive_hours": int((stay.labels > 0).sum())},
        "notes": list(stay.notes),
        "variables": [
            {
                "name": v.name,
                "unit": v.unit,
                "measured": int(counts.observed[i]),
                "implausible": int(counts.out_of_range[i]),
                **_spread(cleaned[:, i]),
            }
            for i, v in enumerate(VARIABLES[:N_TIME_VARYING])
        ],
    }
    try:
        _, warnings = checked_stay(stay)
    except InputError as error:
        return found | _outcome((), (), error)
    return found | _outcome((), warnings, None)


def _spread(column: Float32s) -> dict[str, float | None]:
    measured = column[~np.isnan(column)]
    if not len(measured):
        return {"lowest": None, "median": None, "highest": None}
    return {
        "lowest": round(float(measured.min()), 4),
        "median": round(float(np.median(measured)), 4),
        "highest": round(float(measured.max()), 4),
    }


def _outcome(
    changes: tuple[str, ...], warnings: tuple[Notice, ...], error: InputError | None
) -> dict[str, Any]:
    return {
        "changes": list(changes),
        "warnings": [{"code": w.code, "message": w.message} for w in warnings],
        "refused": None if error is None else {"code": error.code, "message": one_line(error)},
    }


@click.command(
    epilog="""\b
Examples:
  ibt inspect record.hea
  ibt inspect p000001.psv --json"""
)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object per recording or stay.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Show the preprocessing of this bundle instead of the packaged one's.",
)
@click.pass_context
def inspect(ctx: click.Context, files: tuple[Path, ...], as_json: bool, bundle: Path | None) -> None:
    """Show what was read and everything preprocessing would change.

    Of a file that is refused it shows format, size, header fields and the reason, and ends with 1. Nothing is
    scored.
    """
    constants = load_bundle(bundle).preprocessing if bundle is not None else installed_ecg_constants()
    ecg = constants if isinstance(constants, EcgPreprocessing) else None
    refused = False
    outlined: set[str] = set()
    for file in files:
        for found in inspected(file, ecg):
            reason = found["refused"]
            refused |= reason is not None
            if as_json:
                click.echo(json.dumps(found, allow_nan=False))
            elif "task" in found:
                _show(found)
            elif found["bytes"] is not None and found["source"] not in outlined:
                outlined.add(found["source"])
                _show_outline(found)
            if reason is not None:
                echo_refusal(Refusal(found["source"], reason["code"], reason["message"]))
    ctx.exit(1 if refused else 0)


def _show(found: dict[str, Any]) -> None:
    from ibt_deploy.render.report import Line, Table, show

    report: list[Line | Table] = [Line(f"{found['record']}: {found['format']}", "heading")]
    report += _recording_lines(found) if found["task"] == "arrhythmia" else _stay_lines(found)
    report += [Line(note.rstrip("."), label="noticed") for note in found["notes"]]
    report += [Line(change.rstrip("."), label="changed") for change in found["changes"]]
    report += [Line(w["message"].rstrip("."), "warning", label="warning") for w in found["warnings"]]
    if found["refused"] is not None:
        report.append(Line(found["refused"]["message"], "positive", label="refused"))
    elif not (found["changes"] or found["warnings"] or found["notes"]):
        report.append(Line("nothing to change, nothing to warn of"))
    show(report)


def _show_outline(found: dict[str, Any]) -> None:
    """Show what could be read of a refused file."""
    from ibt_deploy.render.report import Line, show

    report = [
        Line(one_line(f"{found['source']}: {found['format'] or 'unknown format'}"), "heading"),
        Line(f"{found['bytes']:,} bytes", label="size"),
    ]
    for name, value in found["header"].items():
        if isinstance(value, dict):
            value = [f"{key} {text}" for key, text in value.items()]
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if value not in (None, ""):
            report.append(Line(one_line(value)[:LONGEST_FIELD], label=name.replace("_", " ")))
    show([*report, Line(found["refused"]["message"], "positive", label="refused")])


def _recording_lines(found: dict[str, Any]) -> list[Any]:
    from ibt_deploy.render.report import Line, Row, Table

    size = f"{found['sampling_rate']:g} Hz, {found['duration']:.1f} s, {len(found['leads'])} leads"
    person = ", ".join(
        text
        for text in (
            f"{found['age']:g} years" if found["age"] is not None else "",
            found["sex"] or "",
            f"recorded {found['recorded'].replace('T', ' ')}" if found["recorded"] else "",
            f"by {found['device']}" if found["device"] else "",
            f"diagnoses {', '.join(found['dx'])}" if found["dx"] else "",
        )
        if text
    )
    rows = tuple(
        Row(
            (
                lead["name"],
                _number(lead["lowest"]),
                _number(lead["highest"]),
                str(lead["invalid_samples"] or ""),
                "flat" if lead["flat"] else "",
            )
        )
        for lead in found["leads"]
    )
    lines: list[Any] = [Line(size, label="signal")]
    if person:
        lines.append(Line(person, label="stated"))
    return [*lines, Table(("lead", "lowest, mV>", "highest, mV>", "invalid samples>", ""), rows)]


def _stay_lines(found: dict[str, Any]) -> list[Any]:
    from ibt_deploy.render.report import Line, Row, Table

    hours = (
        f"{found['hours']} hours from hour {found['first_hour']}, {found['inserted_hours']} of them inserted"
    )
    measured = [v for v in found["variables"] if v["measured"]]
    rows = tuple(
        Row(
            (
                v["name"],
                v["unit"],
                str(v["measured"]),
                _number(v["lowest"]),
                _number(v["median"]),
                _number(v["highest"]),
                str(v["implausible"] or ""),
            )
        )
        for v in measured
    )
    never = ", ".join(v["name"] for v in found["variables"] if not v["measured"])
    titles = ("variable", "unit", "hours measured>", "lowest>", "median>", "highest>", "implausible>")
    lines: list[Any] = [Line(hours, label="rows")]
    if found["labels"] is not None:
        lines.append(Line(f"SepsisLabel is 1 in {found['labels']['positive_hours']} hours", label="stated"))
    lines.append(Table(titles, rows))
    return [*lines, Line(never, "muted", label="never measured")] if never else lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
