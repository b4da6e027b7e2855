"""``ibt train prepare``: a raw data set on disk to a packed cache."""

from __future__ import annotations

from pathlib import Path

import click

from ibt_deploy.errors import IbtError
from training.prepare.cache import CacheSummary

SHOWN = 5


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--task",
    type=click.Choice(["arrhythmia", "sepsis"]),
    help="Which data set it is; by default found from the files.",
)
@click.option(
    "--index",
    "index_csv",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Index of recordings (record, source, file, ...) to believe instead of the headers.",
)
@click.option("--exclude-source", multiple=True, help="ECG source to leave out; may be repeated.")
@click.option("--only-source", multiple=True, help="ECG source to take, and no other; may be repeated.")
@click.option("--with-incart", is_flag=True, help="Keep the 30-minute source, left out otherwise.")
def prepare(
    source: Path,
    out: Path,
    task: str | None,
    index_csv: Path | None,
    exclude_source: tuple[str, ...],
    only_source: tuple[str, ...],
    with_incart: bool,
) -> None:
    """Pack the data set SOURCE into the cache folder OUT.

    SOURCE is a folder of recordings (.hea anywhere below it), a folder of stays (.psv anywhere below it)
    or one Parquet file of stays.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from training.prepare.ecg import prepare_recordings
    from training.prepare.ecg_entries import index_of
    from training.prepare.ecg_sources import INCART
    from training.prepare.stays import prepare_stays

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            shown = bar.add_task("prepare", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(shown, completed=done, total=total)

            if (task or _task_of(source)) == "sepsis":
                summary = prepare_stays(source, out, progress)
            else:
                index_csv = index_csv or index_of(source)
                labels = f"the index {index_csv}" if index_csv else "the headers (Dx)"
                console.print(f"labels, sources and patients from {labels}", markup=False)
                summary = prepare_recordings(
                    source,
                    out,
                    index_csv=index_csv,
                    exclude_sources=(*exclude_source, *(() if with_incart else (INCART,))),
                    only_sources=only_source or None,
                    progress=progress,
                )
    except IbtError as error:
        raise click.ClickException(str(error)) from error
    for line in _report(summary):
        console.print(line, markup=False)


def _task_of(source: Path) -> str:
    """``sepsis`` for a file and for a folder with ``.psv`` files, else ``arrhythmia``."""
    return "sepsis" if source.is_file() or next(source.rglob("*.psv"), None) else "arrhythmia"


def _report(summary: CacheSummary) -> list[str]:
    """What to tell the user."""
    lines = [f"{summary.folder}: {summary.records} records, sha256 {summary.sha256}"]
    lines += [f"  {name.replace('_', ' ')}: {count}" for name, count in sorted(summary.counts.items())]
    lines += [f"  refused {entry.file}: {entry.message}" for entry in summary.refused[:SHOWN]]
    if len(summary.refused) > SHOWN:
        lines.append(f"  and {len(summary.refused) - SHOWN} more refused, all listed in cache.json")
    return lines
