"""``ibt inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ibt_deploy.bundle import load_bundle
from ibt_deploy.cli.options import FILE, echo_refusal
from ibt_deploy.predictions import Refusal
from ibt_deploy.preprocess.ecg import EcgPreprocessing


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
    help="Tell the preprocessing of this bundle in place of the installed one's.",
)
@click.pass_context
def inspect(ctx: click.Context, files: tuple[Path, ...], as_json: bool, bundle: Path | None) -> None:
    """Show what was read and everything preprocessing would change, also for refused files.

    Nothing is scored.
    """
    from ibt_deploy.inspection import inspected, installed_ecg_constants

    constants = load_bundle(bundle).preprocessing if bundle is not None else installed_ecg_constants()
    ecg = constants if isinstance(constants, EcgPreprocessing) else None
    refused = False
    for file in files:
        for found in inspected(file, ecg):
            reason = found["refused"]
            refused |= reason is not None
            if as_json:
                click.echo(json.dumps(found, allow_nan=False))
            elif "task" in found:
                _show(found)
            if reason is not None:
                echo_refusal(Refusal(found["source"], reason["code"], reason["message"]))
    ctx.exit(1 if refused else 0)


def _show(found: dict[str, Any]) -> None:
    from ibt_deploy.render.report import Line, Table, show

    report: list[Line | Table] = [Line(f"{found['record']}: {found['format']}", "heading")]
    report += _recording(found) if found["task"] == "arrhythmia" else _stay(found)
    report += [Line(note.rstrip("."), label="noticed") for note in found["notes"]]
    report += [Line(change.rstrip("."), label="changed") for change in found["changes"]]
    report += [Line(w["message"].rstrip("."), "warning", label="warning") for w in found["warnings"]]
    if found["refused"] is not None:
        report.append(Line(found["refused"]["message"], "positive", label="refused"))
    elif not (found["changes"] or found["warnings"] or found["notes"]):
        report.append(Line("nothing to change, nothing to warn of"))
    show(report)


def _recording(found: dict[str, Any]) -> list[Any]:
    from ibt_deploy.render.report import Line, Row, Table

    size = f"{found['sampling_rate']:g} Hz, {found['duration']:.1f} s, {len(found['leads'])} leads"
    person = ", ".join(
        text
        for text in (
            f"{found['age']:g} years" if found["age"] is not None else "",
            found["sex"] or "",
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


def _stay(found: dict[str, Any]) -> list[Any]:
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
