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
from ibt_deploy.records import Recording, Stay

Answer = tuple[Item | None, Prediction | Refusal]
_ONE_TASK = "--csv holds one task at a time; score ECGs and stays apart or use --json"


@click.command(
    epilog="""\b
Examples:
  ibt predict record.hea
  ibt predict ecg/*.hea --json > answers.jsonl
  ibt predict p000001.psv --plot risk.png
  ibt predict stays.parquet --csv > risk.csv
  ibt predict record.hea --server https://ecg.example.org

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
@click.option(
    "--server",
    metavar="URL",
    help="Have an ibt service score the files; a bearer token is taken from the variable IBT_TOKEN.",
)
@model_options
@click.pass_context
def predict(
    ctx: click.Context,
    files: tuple[Path, ...],
    as_json: bool,
    as_csv: bool,
    plot: Path | None,
    server: str | None,
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
    if server is not None:
        _require_none_of(ctx, "device", "bundle", "precision", "operating_point", "plot")
    draw = _drawer(plot)
    write = _json_line if as_json else _csv_writer() if as_csv else _report_writer()
    waiting = shown(files, "scoring")
    if server is None:
        predictor_for = _predictors(bundle, device, precision, operating_point)
        answers = _answers(waiting, predictor_for, single_task=as_csv)
    else:
        answers = _answers_of_server(server, waiting, single_task=as_csv)
    refused = False
    for item, answer in answers:
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
            raise click.UsageError(_ONE_TASK)
        yield from predictor_for(task).predict_pairs(path for path, _ in group)


def _answers_of_server(server: str, files: Iterable[Path], *, single_task: bool) -> Iterator[Answer]:
    """As :func:`_answers`, from a service; there is nothing here that was scored."""
    from ibt_deploy.client import Client

    first: str | None = None
    with Client(server) as client:
        for answer in client.predict_many(files):
            if isinstance(answer, Refusal):
                yield answer, answer
                continue
            first = first or answer.task
            if single_task and answer.task != first:
                raise click.UsageError(_ONE_TASK)
            yield None, answer


def _require_none_of(ctx: click.Context, *names: str) -> None:
    """Refuse options that choose what happens on this machine."""
    for name in names:
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} has no meaning with --server: the files are scored there")


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


def _drawer(plot: Path | None) -> Callable[[Item | None, Prediction], None]:
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

    def draw(item: Item | None, prediction: Prediction) -> None:
        if isinstance(item, Recording | Stay):
            click.echo(f"ibt: drawn: {pictures.draw(item, prediction)}", err=True)

    return draw
