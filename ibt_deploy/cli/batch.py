"""``ibt batch``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ibt_deploy.cli.group import Failure, Interrupted, model_options
from ibt_deploy.device import Device
from ibt_deploy.errors import InputError, one_line
from ibt_deploy.types import TASKS, Task

if TYPE_CHECKING:
    from ibt_deploy.batch.plan import Format


@click.command(
    epilog="""\b
Examples:
  ibt batch ecg/ --out scores/
  ibt batch export.tar.zst more/*.hea @list.txt --out scores/
  ibt batch --suggest-map icu.csv > mapping.toml
  ibt batch icu.csv --map mapping.toml --out risks/
  ibt batch cdm.duckdb --out risks/ --format fhir
  ibt batch ecg/ --out scores/ --resume

Research software, not a medical device."""
)
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the results.")
@click.option(
    "--task",
    type=click.Choice(TASKS),
    help="What the sources hold. [default: detected from the first one]",
)
@click.option(
    "--map",
    "mapping",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="MAPPING.toml",
    help="Which columns of the tables are which variables, in which units.",
)
@click.option(
    "--suggest-map",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="TABLE",
    help="Print a first mapping for a table, for a person to correct; nothing is scored.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes; default and most: the usable CPUs.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "csv", "jsonl", "fhir"]),
    default="parquet",
    show_default=True,
    help="Format of predictions/ and refused/; fhir is NDJSON, one Bundle or OperationOutcome per line.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--restart", is_flag=True, help="Remove the run in --out and start over.")
@model_options
@click.pass_context
def batch(
    ctx: click.Context,
    sources: tuple[str, ...],
    out: Path | None,
    task: Task | None,
    mapping: Path | None,
    suggest_map: Path | None,
    workers: int | None,
    engine: str,
    form: str,
    resume: bool,
    restart: bool,
    device: Device,
    bundle: Path | None,
    precision: str | None,
    operating_point: str | None,
) -> None:
    """Score a whole export: ECG files and archives, tables of ICU stays, MEDS, OMOP CDM or FHIR.

    A SOURCE is a folder, a file, a glob, an archive (zip, tar, tar.gz, tar.zst; nothing is unpacked to disk)
    or a list of paths (@list.txt). Every record ends in exactly one of OUT/predictions and OUT/refused. A
    file of a folder that is clearly not a record (a licence, a list) is listed in OUT/refused as left_out and
    does not count. A run that was interrupted continues with --resume and ends with the same bytes.
    """
    if suggest_map is not None:
        from ibt_deploy.mapping.suggest import suggested_mapping

        try:
            click.echo(suggested_mapping(suggest_map), nl=False)
        except InputError as error:
            raise Failure(one_line(f"{error} [{error.code}]")) from error
        return
    if not sources or out is None:
        raise click.UsageError("name at least one SOURCE, and --out")
    if resume and restart:
        raise click.UsageError("--resume continues a run and --restart removes it; choose one")
    from ibt_deploy.batch.run import Options, run_batch

    options = Options(
        sources=sources,
        out=out,
        task=task,
        mapping=mapping,
        workers=workers,
        engine="ray" if engine == "ray" else "local",
        device=device,
        bundle=bundle,
        precision=precision,
        operating_point=operating_point,
        format=cast("Format", form),
        resume=resume,
        restart=restart,
    )
    try:
        tally = run_batch(options).tally
    except KeyboardInterrupt as error:
        raise Interrupted(str(error)) from error
    except InputError as error:
        raise Failure(one_line(f"{error} [{error.code}]")) from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{place}{error.strerror or error}; fix this, then continue with --resume") from error
    left_out = f", {tally.n_left_out:,} left out (clearly not records)" if tally.n_left_out else ""
    click.echo(
        f"{tally.records:,} scored, {tally.n_refused:,} refused{left_out}: "
        f"{out}/summary.json, {out}/report.html"
    )
    if lacking := tally.refused["missing_extra"]:
        click.echo(
            f"{lacking:,} of them need a package that is not installed (code missing_extra says which): "
            "install it and run this again with --resume",
            err=True,
        )
    ctx.exit(1 if tally.n_refused else 0)
