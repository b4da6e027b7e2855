"""``ibt convert``."""

from __future__ import annotations

from pathlib import Path

import click

from ibt_deploy.cli.group import FILE, echo_refusal
from ibt_deploy.errors import InputError, UnsupportedFormat
from ibt_deploy.predictions import Refusal
from ibt_deploy.progress import shown
from ibt_deploy.readers import items_of
from ibt_deploy.records import Recording, Stay
from ibt_deploy.writers import WRITERS, write


@click.command(
    epilog="""\b
Examples:
  ibt convert exam.scp exam.dcm
  ibt convert exam.dcm exam.hea
  ibt convert export/*.xml --to parquet --out-dir converted/"""
)
@click.argument("paths", nargs=-1, required=True, type=FILE, metavar="IN... [OUT]")
@click.option(
    "--to",
    "kind",
    type=click.Choice([suffix.lstrip(".") for suffix in WRITERS]),
    help="Output format for --out-dir.",
)
@click.option(
    "--out-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write every recording there, under the name of its record.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@click.pass_context
def convert(
    ctx: click.Context, paths: tuple[Path, ...], kind: str | None, out_dir: Path | None, force: bool
) -> None:
    """Write ECG recordings as WFDB (.hea), DICOM (.dcm) or Parquet (.parquet).

    Parquet keeps every value. WFDB and DICOM hold 16-bit integers: nothing is lost of a signal that was
    digitised in equal steps; others are rounded to the finest step that fits, and this is said. A recording
    that a format cannot hold is refused. Age, sex, device, date and time of the recording are kept.
    """
    if (kind is None) != (out_dir is None):
        raise click.UsageError("--to and --out-dir belong together")
    if out_dir is None and len(paths) != 2:
        raise click.UsageError("give one file and the name to write, or --to and --out-dir")
    sources = paths if out_dir is not None else paths[:1]
    if out_dir is not None:
        out_dir.mkdir(parents=True, exist_ok=True)
    elif paths[1].suffix.lower() not in WRITERS:
        raise click.UsageError(f"{str(paths[1])!r} does not end in {', '.join(WRITERS)}")
    refused = False
    written: set[Path] = set()
    for source in shown(sources, "converting"):
        items = list(items_of(source))
        for item in items:
            answer = item
            if not isinstance(item, Refusal):
                try:
                    if out_dir is None and len(items) > 1:
                        raise UnsupportedFormat(
                            f"holds {len(items)} recordings; use --to and --out-dir", code="several"
                        )
                    target = paths[1] if out_dir is None else out_dir / f"{_name(item)}.{kind}"
                    _convert(item, target, overwrite=force, written=written)
                    continue
                except InputError as error:
                    answer = Refusal.of(item.source, error.at(item.source))
            if isinstance(answer, Refusal):
                echo_refusal(answer)
                refused = True
    ctx.exit(1 if refused else 0)


def _name(item: Recording | Stay) -> str:
    return Path(item.record_id if isinstance(item, Recording) else item.patient_id).name


def _convert(item: Recording | Stay, target: Path, *, overwrite: bool, written: set[Path]) -> None:
    """Write one recording and report what was rounded."""
    if not isinstance(item, Recording):
        raise UnsupportedFormat("this is an ICU stay; only ECG recordings are converted", code="wrong_task")
    if target in written:
        raise UnsupportedFormat(
            f"another recording was written to {target} just now; convert it on its own", code="output_exists"
        )
    try:
        files = write(item, target, overwrite=overwrite)
    except FileExistsError as error:
        raise UnsupportedFormat(f"{error}; --force replaces it", code="output_exists") from error
    written.add(target)
    click.echo(f"ibt: written: {', '.join(map(str, files))}", err=True)
    if target.suffix.lower() != ".parquet" and (step := _coarsest_step(item)):
        click.echo(f"ibt: {item.record_id}: rounded to steps of up to {step:g} uV", err=True)
    if _is_undated_dicom(item, target):
        click.echo(
            f"ibt: {item.record_id}: the source states no date; AcquisitionDateTime, which DICOM requires, "
            "is empty",
            err=True,
        )


def _is_undated_dicom(recording: Recording, target: Path) -> bool:
    """Whether a DICOM file lacks the AcquisitionDateTime that the standard asks for."""
    return target.suffix.lower() == ".dcm" and recording.recorded is None


def _coarsest_step(recording: Recording) -> float | None:
    """The largest step in µV to which a lead was rounded; None where nothing was."""
    from ibt_deploy.writers import quantised

    leads = [quantised(row, name) for row, name in zip(recording.signal, recording.leads, strict=True)]
    return max((lead.step for lead in leads if not lead.exact), default=None)
