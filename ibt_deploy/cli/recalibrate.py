"""``ibt recalibrate``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from ibt_deploy.cli.group import device_option, echo_refusal
from ibt_deploy.device import Device
from ibt_deploy.errors import DataError
from ibt_deploy.predictor import load
from ibt_deploy.progress import shown


@click.command(
    epilog="""\b
Examples:
  ibt recalibrate my_hospital/ecg --labels diagnoses.csv --out my_bundle/
  ibt recalibrate my_stays.parquet --out my_bundle/
  ibt predict record.hea --bundle my_bundle/

Research software, not a medical device."""
)
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="CSV",
    help="Diagnoses of recordings: columns record or file, dx (SNOMED CT codes); optional patient, source.",
)
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
    keep their calibration. What changes is shown on patients left out.
    """
    from ibt_deploy.evaluation.labels import LabelTable, source_of
    from ibt_deploy.evaluation.recalibration import (
        recalibrated_recordings,
        recalibrated_stays,
        write_site_bundle,
    )
    from ibt_deploy.render.evaluation import recalibration_report
    from ibt_deploy.render.report import show

    found = source_of(source)
    if labels is not None and found.task != "arrhythmia":
        raise click.UsageError("--labels is for recordings; stays carry their own SepsisLabel")
    if out.exists() and any(out.iterdir()):
        raise click.UsageError(f"--out {out}: exists already; name a new folder")
    predictor = load(bundle or found.task, device=device)
    shipped = predictor.bundle
    if shipped.task != found.task:
        raise DataError(f"{source}: the bundle is for {shipped.task}, the data are for {found.task}")
    files = shown(found.files, "scoring")
    if found.task == "arrhythmia":
        from ibt_deploy.evaluation.arrhythmia import scored_recordings

        recordings = scored_recordings(predictor, files, LabelTable(labels) if labels is not None else None)
        refusals, change = recordings.refusals, recalibrated_recordings(recordings, shipped)
    else:
        from ibt_deploy.evaluation.sepsis import scored_stays

        stays = scored_stays(predictor, files)
        refusals, change = stays.refusals, recalibrated_stays(stays, shipped)
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
