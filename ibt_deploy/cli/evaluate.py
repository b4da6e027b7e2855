"""``ibt evaluate``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibt_deploy.cli.group import model_options
from ibt_deploy.device import Device
from ibt_deploy.errors import DataError
from ibt_deploy.predictor import Predictor, load
from ibt_deploy.progress import shown

if TYPE_CHECKING:
    from ibt_deploy.evaluation.result import Evaluation

Rows = Iterable[Iterable[Any]]


@click.command(
    epilog="""\b
Examples:
  ibt evaluate my_hospital/ecg --labels diagnoses.csv
  ibt evaluate training_setA/ --json > result.json
  ibt evaluate stays.parquet --out evaluation/

Research software, not a medical device."""
)
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="CSV",
    help="Diagnoses of recordings: columns record or file, dx (SNOMED CT codes); optional patient, source.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write evaluation.json, predictions.csv and refused.csv there.",
)
@click.option(
    "--draws",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="Bootstrap draws of patients.",
)
@model_options
@click.pass_context
def evaluate(
    ctx: click.Context,
    source: Path,
    labels: Path | None,
    as_json: bool,
    out: Path | None,
    draws: int,
    device: Device,
    bundle: Path | None,
    precision: str | None,
    operating_point: str | None,
) -> None:
    """Score labelled recordings or stays with the official metrics and intervals over patients.

    SOURCE is a folder of WFDB recordings (labels from the headers or from --labels), a folder of .psv stays,
    or one table of stays (CSV or Parquet) with SepsisLabel. Nothing is tuned here: thresholds are the
    bundle's own.
    """
    from ibt_deploy.evaluation.labels import LabelTable, source_of

    found = source_of(source)
    if labels is not None and found.task != "arrhythmia":
        raise click.UsageError("--labels is for recordings; stays carry their own SepsisLabel")
    predictor = load(bundle or found.task, device=device, variant=precision, operating_point=operating_point)
    if predictor.bundle.task != found.task:
        raise DataError(f"{source}: the bundle is for {predictor.bundle.task}, the data are for {found.task}")
    files = shown(found.files, "scoring")
    if found.task == "arrhythmia":
        table = LabelTable(labels) if labels is not None else None
        evaluation, header, rows = _recordings(predictor, files, table, str(source), draws)
    else:
        evaluation, header, rows = _stays(predictor, files, str(source), draws)
    if out is not None:
        _write(out, evaluation, header, rows)
    if as_json:
        click.echo(json.dumps(evaluation.to_dict(), indent=1, allow_nan=False))
    else:
        from ibt_deploy.render.evaluation import evaluation_report
        from ibt_deploy.render.report import show

        show(evaluation_report(evaluation))
    ctx.exit(1 if evaluation.refusals else 0)


def _recordings(
    predictor: Predictor, files: Iterator[Path], table: Any, source: str, draws: int
) -> tuple[Evaluation, list[str], Rows]:
    from ibt_deploy.classes import CLASSES
    from ibt_deploy.evaluation.arrhythmia import evaluated, scored_recordings

    scored = scored_recordings(predictor, files, table)
    header = [
        "record",
        *(f"{c.abbreviation} {what}" for c in CLASSES for what in ("label", "probability", "output")),
    ]
    rows = (
        [record, *(v for y, p, o in zip(*numbers, strict=True) for v in (int(y), f"{p:.9g}", int(o)))]
        for record, *numbers in zip(
            scored.records, scored.labels, scored.probabilities, scored.outputs, strict=True
        )
    )
    return evaluated(predictor, scored, source, draws), header, rows


def _stays(
    predictor: Predictor, files: Iterator[Path], source: str, draws: int
) -> tuple[Evaluation, list[str], Rows]:
    from ibt_deploy.evaluation.sepsis import evaluated, scored_stays

    scored = scored_stays(predictor, files)
    threshold = float(predictor.thresholds[0])
    rows = (
        [patient, int(hour), int(label), f"{risk:.9g}", int(risk >= threshold)]
        for patient, start, end in zip(scored.patients, scored.offsets[:-1], scored.offsets[1:], strict=True)
        for hour, label, risk in zip(
            scored.hours[start:end], scored.labels[start:end], scored.risk[start:end], strict=True
        )
    )
    return evaluated(predictor, scored, source, draws), ["patient", "hour", "label", "risk", "alarm"], rows


def _write(folder: Path, evaluation: Evaluation, header: list[str], rows: Rows) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(evaluation.to_dict(), indent=1, allow_nan=False)
        (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        _write_csv(folder / "predictions.csv", header, rows)
        refused = ((r.source, r.code, r.message) for r in evaluation.refusals)
        _write_csv(folder / "refused.csv", ["source", "code", "message"], refused)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _write_csv(path: Path, header: list[str], rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
