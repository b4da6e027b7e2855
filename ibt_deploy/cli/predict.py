"""``ibt predict``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

import click

from ibt_deploy.bundle import Task, load_bundle
from ibt_deploy.cli.options import FILE, echo_refusal, model_options
from ibt_deploy.device import Device
from ibt_deploy.errors import InputError
from ibt_deploy.inputs import refusal
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.predictor import Item, Predictor, load
from ibt_deploy.progress import shown
from ibt_deploy.readers import task_of

Answer = tuple[Item, Prediction | Refusal]


@click.command(
    epilog="""\b
Examples:
  ibt predict record.hea
  ibt predict ecg/*.hea --json > answers.jsonl
  ibt predict p000001.psv --plot risk.png
  ibt predict stays.parquet --csv > risk.csv

Research software, not a medical device."""
)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per recording or stay, one a line.")
@click.option(
    "--csv", "as_csv", is_flag=True, help="One line per class of a recording, or per hour of a stay."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.png",
    help="Also draw each answer; several are numbered: OUT-1.png, OUT-2.png... (needs ibt[plot])",
)
@model_options
@click.pass_context
def predict(
    ctx: click.Context,
    files: tuple[Path, ...],
    as_json: bool,
    as_csv: bool,
    plot: Path | None,
    device: Device,
    bundle: Path | None,
    precision: str | None,
    operating_point: str | None,
) -> None:
    """Score ECG recordings (findings) and ICU stays (hourly sepsis risk).

    The task is found from each file's content. Inputs that cannot be scored are named on standard error, one
    line each, and the others are scored all the same; then the exit status is 1.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv are two forms of the same answers; choose one")
    draw = _drawer(plot)
    predictor_for = _predictors(bundle, device, precision, operating_point)
    write = _json_line if as_json else _csv_writer() if as_csv else _report_writer()
    refused = False
    for item, answer in _answers(shown(files, "scoring"), predictor_for, single_task=as_csv):
        if isinstance(answer, Refusal):
            echo_refusal(answer)
            refused = True
            continue
        write(answer)
        draw(item, answer)
    ctx.exit(1 if refused else 0)


def _predictors(
    bundle: Path | None, device: Device, precision: str | None, operating_point: str | None
) -> Callable[[Task], Predictor]:
    """A function that gives the predictor of a task and loads each one once."""
    loaded: dict[Path | Task, Predictor] = {}

    def predictor_for(task: Task) -> Predictor:
        key = bundle or task
        if key not in loaded:
            loaded[key] = load(key, device=device, variant=precision, operating_point=operating_point)
        return loaded[key]

    if bundle is not None:
        predictor_for(load_bundle(bundle).task)
    return predictor_for


def _answers(
    files: Iterable[Path], predictor_for: Callable[[Task], Predictor], *, single_task: bool
) -> Iterator[Answer]:
    """Every item of every file with its answer, in order; neighbours of one task share batches."""
    first: Task | None = None
    for task, group in groupby(map(_with_task, files), key=lambda found: found[1]):
        if isinstance(task, Refusal):
            yield task, task
            continue
        first = first or task
        if single_task and task != first:
            raise click.UsageError("--csv holds one task at a time; score ECGs and stays apart or use --json")
        yield from predictor_for(task).predict_pairs(path for path, _ in group)


def _with_task(path: Path) -> tuple[Path, Task | Refusal]:
    try:
        return path, task_of(path)
    except InputError as error:
        return path, refusal(str(path), error)


def _json_line(prediction: Prediction) -> None:
    click.echo(json.dumps(prediction.to_dict(), allow_nan=False))


def _report_writer() -> Callable[[Prediction], None]:
    from ibt_deploy.render.report import show
    from ibt_deploy.render.text import prediction_report

    count = 0

    def write(prediction: Prediction) -> None:
        nonlocal count
        if count:
            click.echo()
        count += 1
        show(prediction_report(prediction))

    return write


def _csv_writer() -> Callable[[Prediction], None]:
    from ibt_deploy.render.csv import CsvWriter

    writer: CsvWriter | None = None

    def write(prediction: Prediction) -> None:
        nonlocal writer
        writer = writer or CsvWriter(sys.stdout, prediction.task)
        writer.write(prediction)

    return write


def _drawer(plot: Path | None) -> Callable[[Item, Prediction], None]:
    """What to draw of a prediction: nothing, or a picture."""
    if plot is None:
        return lambda _item, _prediction: None
    from ibt_deploy.render.plot import SUFFIXES, NumberedPictures, require_matplotlib

    require_matplotlib()
    if plot.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"--plot draws {', '.join(SUFFIXES)}, not {str(plot)!r}")
    if not os.access(plot.parent, os.W_OK):
        raise click.UsageError(f"--plot: {str(plot.parent)!r} is not a folder that can be written to")
    pictures = NumberedPictures(plot)

    def draw(item: Item, prediction: Prediction) -> None:
        if not isinstance(item, Refusal):
            click.echo(f"ibt: drawn: {pictures.draw(item, prediction)}", err=True)

    return draw
