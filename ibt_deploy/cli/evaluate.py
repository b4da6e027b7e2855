"""``ibt evaluate``, ``ibt recalibrate`` and ``ibt monitor``: how a model performs on your own patients."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ibt_deploy.cli.group import device_option, echo_refusal, model_options
from ibt_deploy.device import Device
from ibt_deploy.errors import DataError
from ibt_deploy.predictor import Predictor, load
from ibt_deploy.progress import shown
from ibt_deploy.types import PARTS

if TYPE_CHECKING:
    from ibt_deploy.evaluation import Evaluation, Scored, Source


Rows = Iterable[Iterable[Any]]

labels_option = click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="CSV",
    help="Diagnoses of recordings: columns record or file, dx (SNOMED CT codes); optional patient, source.",
)


@click.command(
    epilog="""\b
Examples:
  ibt evaluate my_hospital/ecg --labels diagnoses.csv
  ibt evaluate training_setA/ --json > result.json
  ibt evaluate stays.parquet --out evaluation/

Research software, not a medical device."""
)
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@labels_option
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
    found = _source(source, labels)
    predictor = load(bundle or found.task, device=device, variant=precision, operating_point=operating_point)
    scored = _scored(predictor, found, source, labels)
    evaluation = scored.evaluated(predictor, str(source), draws)
    if out is not None:
        _write(out, evaluation, *scored.rows(predictor))
    if as_json:
        click.echo(json.dumps(evaluation.to_dict(), indent=1, allow_nan=False))
    else:
        from ibt_deploy.render.evaluation import evaluation_report
        from ibt_deploy.render.report import show

        show(evaluation_report(evaluation))
    ctx.exit(1 if evaluation.refusals else 0)


def _source(path: Path, labels: Path | None) -> Source:
    from ibt_deploy.evaluation import source_of

    found = source_of(path)
    if labels is not None and not PARTS[found.task].takes_labels:
        raise click.UsageError("--labels is for recordings; stays carry their own SepsisLabel")
    return found


def _scored(predictor: Predictor, found: Source, path: Path, labels: Path | None) -> Scored:
    from ibt_deploy.evaluation import LabelTable

    if predictor.bundle.task != found.task:
        raise DataError(f"{path}: the bundle is for {predictor.bundle.task}, the data are for {found.task}")
    table = (LabelTable(labels),) if labels is not None else ()
    files = shown(found.files, "scoring")
    scored: Scored = PARTS[found.task].scored.load()(predictor, files, *table)
    return scored


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


@click.command(
    epilog="""\b
Examples:
  ibt recalibrate my_hospital/ecg --labels diagnoses.csv --out my_bundle/
  ibt recalibrate my_stays.parquet --out my_bundle/
  ibt predict record.hea --bundle my_bundle/

Research software, not a medical device."""
)
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@labels_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    required=True,
    help="Directory of the new bundle; must not exist or be empty.",
)
@click.option("--name", metavar="NAME", help="Name of the new bundle; default: the old one, -recalibrated.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="The bundle to recalibrate in place of the one in the package.",
)
@device_option
@click.pass_context
def recalibrate(
    ctx: click.Context,
    source: Path,
    labels: Path | None,
    out: Path,
    name: str | None,
    bundle: Path | None,
    device: Device,
) -> None:
    """Make a bundle with calibration and thresholds of your own labelled patients.

    SOURCE and --labels are those of 'ibt evaluate': a folder of WFDB recordings, a folder of .psv stays, or
    one table of stays with SepsisLabel. Graph and preprocessing stay as they are. At least 30 septic stays
    and 70 others are needed, or 100 recordings and 20 patients with and without a class; classes with fewer
    keep their calibration. The effect is reported on held-out patients.
    """
    from ibt_deploy.evaluation.recalibration import write_site_bundle
    from ibt_deploy.render.evaluation import recalibration_report
    from ibt_deploy.render.report import show

    found = _source(source, labels)
    if out.exists() and any(out.iterdir()):
        raise click.UsageError(f"--out {out}: exists already; name a new folder")
    predictor = load(bundle or found.task, device=device)
    shipped = predictor.bundle
    scored = _scored(predictor, found, source, labels)
    refusals, change = scored.refusals, PARTS[found.task].recalibrated.load()(scored, shipped)
    refused = dict(Counter(refusal.code for refusal in refusals).most_common())
    write_site_bundle(out, shipped, change, name=name, source=source.name, refused=refused)
    for refusal in refusals[:10]:
        echo_refusal(refusal)
    if len(refusals) > 10:
        click.echo(f"ibt: and {len(refusals) - 10} more refusals", err=True)
    show(recalibration_report(out, shipped, change))
    if not change.is_better:
        click.echo("ibt: on patients left out the new probabilities are no better", err=True)
    ctx.exit(1 if refusals else 0)


FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(
    epilog="""\b
Examples:
  ibt batch may/ --out scores_may/ && ibt monitor --reference scores_april/ scores_may/
  ibt monitor scores_may/                      against the training of the bundle
  ibt monitor --reference a/ b/ --json --out monitoring/

Exit status: 0 no large change, 1 at least one, 2 the command could not run as asked.

Research software, not a medical device."""
)
@click.argument("scores", type=FOLDER)
@click.option(
    "--reference",
    type=FOLDER,
    metavar="DIR",
    help="An earlier export of ibt batch; default: what the bundle says of its training and test data.",
)
@click.option(
    "--bundle", type=FOLDER, metavar="DIR", help="The bundle that scored, where it is not the packaged one."
)
@click.option(
    "--limit",
    type=click.FloatRange(0.01, 10),
    default=0.25,
    show_default=True,
    help="Population stability index at which a change counts as large.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write monitoring.json and monitoring.svg there.",
)
@click.pass_context
def monitor(
    ctx: click.Context,
    scores: Path,
    reference: Path | None,
    bundle: Path | None,
    limit: float,
    as_json: bool,
    out: Path | None,
) -> None:
    """Compare an export of 'ibt batch' with an earlier one, or with the training of its bundle.

    SCORES is the folder of a finished run. Compares inputs and missing values (of tables), risks or
    probabilities, alarms or findings, warnings and refusals, by the population stability index.
    """
    from ibt_deploy.evaluation.monitoring import compared, compared_with_training, read_export
    from ibt_deploy.render.evaluation import monitoring_report, monitoring_svg
    from ibt_deploy.render.report import show

    now = read_export(scores)
    if reference is not None:
        found = compared(read_export(reference), now, limit)
    else:
        from ibt_deploy.bundle import load_bundle

        found = compared_with_training(load_bundle(bundle or now.task), now, limit)
    text = json.dumps(found.to_dict(), indent=1, allow_nan=False)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "monitoring.json").write_text(text + "\n", encoding="utf-8")
            (out / "monitoring.svg").write_text(monitoring_svg(found), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    if as_json:
        click.echo(text)
    else:
        show(monitoring_report(found))
    ctx.exit(1 if found.large else 0)
