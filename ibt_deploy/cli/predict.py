"""``ibt predict``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeAlias

import click

from ibt_deploy.bundle import load_bundle
from ibt_deploy.cli.group import FILE, echo_refusal, model_options
from ibt_deploy.device import Device, keep_small_blocks
from ibt_deploy.errors import BatchError, InputError, UnsupportedFormat, one_line
from ibt_deploy.files import File, MemoryFolder, atomic_write
from ibt_deploy.predictions import ArrhythmiaPrediction, Prediction, Refusal
from ibt_deploy.predictor import Item, Predictor, load
from ibt_deploy.readers import Recognised, is_no_record, recognised
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import Task

if TYPE_CHECKING:
    from ibt_deploy.client import Client
    from ibt_deploy.explain import Explanation
    from ibt_deploy.render.plot import NumberedPictures


STANDARD_INPUT = "-"
MAX_STANDARD_INPUT_BYTES = 1 << 30


class Named:
    """A file that was named itself or lies in a folder that was named.

    Attributes
    ----------
    file
        What to read.
    folder
        The folder that was named; None for a file that was named itself.
    """

    __slots__ = ("file", "folder")

    def __init__(self, file: File, folder: Path | None = None) -> None:
        self.file = file
        self.folder = folder


def named_files(arguments: Iterable[Path]) -> Iterator[Named | Refusal]:
    """Every file that the arguments stand for, in order.

    A folder stands for the records in it and in its sub-folders, in the order of their names, without hidden
    files; a folder that a reader takes as a whole (MEDS, OMOP, FHIR) stands for itself. A name that does not
    exist stands for the WFDB header of that name. ``-`` stands for the bytes of standard input.
    """
    for path in arguments:
        if str(path) == STANDARD_INPUT:
            yield _standard_input()
        elif path.is_dir():
            yield from _in_folder(path)
        else:
            header = path.with_name(f"{path.name}.hea") if path.name else path
            yield Named(header if not path.exists() and header.is_file() else path)


def _standard_input() -> Named | Refusal:
    content = sys.stdin.buffer.read(MAX_STANDARD_INPUT_BYTES + 1)
    if len(content) > MAX_STANDARD_INPUT_BYTES:
        message = "standard input: more than 1 GiB; save it as a file first"
        return Refusal(STANDARD_INPUT, "too_large", message)
    return Named(MemoryFolder({"stdin": content}) / "stdin")


def _in_folder(folder: Path) -> Iterator[Named | Refusal]:
    from ibt_deploy.batch.plan import FileEntry, MemberEntry
    from ibt_deploy.batch.sources import entries_of
    from ibt_deploy.readers import standards

    if standards.sniff(folder, b""):
        yield Named(folder)
        return
    archives: set[str] = set()
    found = False
    try:
        for entry in entries_of([str(folder)]):
            found = True
            if isinstance(entry, FileEntry):
                yield Named(Path(entry.path), folder)
            elif not isinstance(entry, MemberEntry):
                yield Refusal(entry.source, entry.code, entry.message)
            elif entry.archive not in archives:
                archives.add(entry.archive)
                message = f"{entry.archive}: an archive; 'ibt batch' scores what is in it"
                yield Refusal(entry.archive, "is_an_archive", one_line(message))
    except BatchError as error:
        yield Refusal(str(folder), "unreadable_file", one_line(error))
        return
    if not found:
        yield Refusal(str(folder), "empty_folder", one_line(f"{folder}: no file in this folder"))


_Answer: TypeAlias = "tuple[Item | None, Prediction | Refusal, list[Explanation]]"
"""The item, if it was scored here; the answer; its explanations, if requested."""
_LONGEST_NAME = 120
"""Characters of a record's name in the name of a file."""
_ONE_TASK = "--csv holds one task at a time; score ECGs and stays apart or use --json"


@click.command(
    epilog="""\b
Examples:
  ibt predict record.hea
  ibt predict ecg/ --json > answers.jsonl
  ibt predict ecg/ --out-dir answers/ --csv
  ibt predict - --json < record.dcm
  ibt predict p000001.psv --plot risk.png
  ibt predict stays.parquet --csv > risk.csv
  ibt predict record.hea --server https://ecg.example.org

Research software, not a medical device."""
)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object per recording or stay.")
@click.option(
    "--csv", "as_csv", is_flag=True, help="One line per class of a recording, or per hour of a stay."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.png",
    help="Also draw each answer, as .png, .pdf or .svg; several are numbered: OUT-1.png, OUT-2.png... "
    "(needs ibt[plot])",
)
@click.option(
    "--out-dir",
    "--output-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write each answer to a file of its own there, named after the record, not to standard output.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Also say which seconds and leads moved the findings, or which hours and variables the risk; "
    "with --json as 'explanations', with --plot shaded behind the curves.",
)
@click.option(
    "--sr",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.dcm",
    help="Also write the answer to one DICOM ECG as a DICOM Structured Report (needs ibt[sr]).",
)
@click.option("--force", is_flag=True, help="Let --plot, --sr and --out-dir replace existing files.")
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
    out_dir: Path | None,
    explain: bool,
    sr: Path | None,
    force: bool,
    server: str | None,
    device: Device,
    bundle: Path | None,
    precision: str | None,
    operating_point: str | None,
) -> None:
    """Score ECG recordings (findings) and ICU stays (hourly sepsis risk).

    The task is found from each file's content. A folder stands for the files in it, a WFDB record may be
    named without its suffix, and - is standard input. Inputs that cannot be scored are named on standard
    error, one line each, and the others are scored all the same; then the exit status is 1. Files in a folder
    that are neither ECGs nor stays are left out and counted.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other; choose one")
    if as_csv and explain:
        raise click.UsageError("--explain cannot be written as CSV; use --json")
    if server is not None:
        _require_none_of(ctx, "device", "bundle", "precision", "operating_point", "plot", "sr")
        if any(str(path) == "-" for path in files):
            raise click.UsageError("--server takes files; save standard input as a file first")
    if sr is not None and len(files) != 1:
        raise click.UsageError("--sr takes one DICOM file")
    if sr is not None and sr.exists() and not force:
        raise click.UsageError(f"--sr: {str(sr)!r} already exists; --force replaces it")
    pictures = _Pictures(plot, force=force)
    form: _Form = _write_json if as_json else _write_csv if as_csv else _write_report
    write = (
        _to_standard_output(form)
        if out_dir is None
        else _to_folder(out_dir, form, _suffix(form), force=force)
    )
    named = list(named_files(files))
    left_out: list[Path] = []
    waiting: Iterable[Named | Refusal] = named
    if len(named) > 1:
        from ibt_deploy.progress import shown

        waiting = shown(named, "scoring", beside_output=out_dir is None)
    single_task = as_csv and out_dir is None
    if server is None:
        predictor_for = _predictors(bundle, device, precision, operating_point)
        answers = _answers(waiting, predictor_for, left_out, single_task=single_task, explain=explain)
    else:
        answers = _answers_of_server(server, waiting, left_out, single_task=single_task, explain=explain)
    refused = False
    for item, answer, explanations in answers:
        if isinstance(answer, Refusal):
            echo_refusal(answer)
            refused = True
            continue
        write(answer, explanations)
        pictures.draw(item, answer, explanations)
        if sr is not None:
            _write_structured_report(answer, sr)
    pictures.announce()
    for folder in dict.fromkeys(left_out):
        n = left_out.count(folder)
        click.echo(
            one_line(f"ibt: {folder}: {n} file{'s' * (n > 1)} left out, neither an ECG nor a stay"), err=True
        )
    ctx.exit(1 if refused else 0)


def _predictors(
    bundle: Path | None, device: Device, precision: str | None, operating_point: str | None
) -> Callable[[Task], Predictor]:
    """A function that returns the predictor of a task, loading each only once."""
    keep_small_blocks()
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
    files: Iterable[Named | Refusal],
    predictor_for: Callable[[Task], Predictor],
    left_out: list[Path],
    *,
    single_task: bool,
    explain: bool,
) -> Iterator[_Answer]:
    """Every item of every file with its answer, in order; neighbours of one task share batches.

    For each file in a folder that no reader knows, the folder is added to ``left_out``.
    """
    first: Task | None = None
    found = (_recognised(named, left_out) for named in files)
    known = (file for file in found if file is not None)
    for task, group in groupby(known, key=lambda file: None if isinstance(file, Refusal) else file.task):
        if task is None:
            yield from ((file, file, []) for file in group if isinstance(file, Refusal))
            continue
        first = first or task
        if single_task and task != first:
            raise click.UsageError(_ONE_TASK)
        predictor = predictor_for(task)
        for item, answer in predictor.predict_pairs(group):
            if explain and isinstance(item, Recording | Stay) and not isinstance(answer, Refusal):
                yield item, answer, predictor.explain(item)
            else:
                yield item, answer, []


def _answers_of_server(
    server: str,
    files: Iterable[Named | Refusal],
    left_out: list[Path],
    *,
    single_task: bool,
    explain: bool,
) -> Iterator[_Answer]:
    """Like :func:`_answers`, but from a service; the item is always None."""
    from ibt_deploy.client import Client

    kept = (
        named
        for named in files
        if isinstance(named, Refusal) or named.folder is None or _recognised(named, left_out) is not None
    )
    first: str | None = None
    with Client(server) as client:
        for answer, explanations in _in_order(client, kept, explain=explain):
            if isinstance(answer, Refusal):
                yield answer, answer, []
                continue
            first = first or answer.task
            if single_task and answer.task != first:
                raise click.UsageError(_ONE_TASK)
            yield None, answer, explanations


def _in_order(
    client: Client, files: Iterable[Named | Refusal], *, explain: bool
) -> Iterator[tuple[Prediction | Refusal, list[Explanation]]]:
    """The service's answers to files, in order, with refusals in place of what cannot be sent."""
    for refused, group in groupby(files, key=lambda named: isinstance(named, Refusal)):
        if refused:
            yield from ((named, []) for named in group if isinstance(named, Refusal))
            continue
        paths = (str(named.file) for named in group if isinstance(named, Named))
        if explain:
            for answer, explanations, reason in client.explain_many(paths):
                if reason is not None and not isinstance(answer, Refusal):
                    line = f"ibt: {answer.source}: {answer.record} was scored but not explained: {reason}"
                    click.echo(one_line(line), err=True)
                yield answer, explanations
        else:
            yield from ((answer, []) for answer in client.predict_many(paths))


def _require_none_of(ctx: click.Context, *names: str) -> None:
    """Refuse options that only concern scoring on this machine."""
    for name in names:
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} cannot be used with --server, which scores the files itself")


def _recognised(named: Named | Refusal, left_out: list[Path]) -> Recognised | Refusal | None:
    if isinstance(named, Refusal):
        return named
    try:
        return recognised(named.file)
    except InputError as error:
        unknown = isinstance(error, UnsupportedFormat) and error.code == UnsupportedFormat.default_code
        if unknown and named.folder is not None and is_no_record(named.file):
            left_out.append(named.folder)
            return None
        return Refusal.of(str(named.file), error)


_Form: TypeAlias = "Callable[[Prediction, list[Explanation], TextIO], None]"


def _write_json(prediction: Prediction, explanations: list[Explanation], stream: TextIO) -> None:
    answer = prediction.to_dict()
    if explanations:
        answer["explanations"] = [explanation.to_dict() for explanation in explanations]
    click.echo(json.dumps(answer, allow_nan=False), file=stream)


def _write_csv(prediction: Prediction, explanations: list[Explanation], stream: TextIO) -> None:  # noqa: ARG001
    from ibt_deploy.render.prediction import CsvWriter

    CsvWriter(stream, prediction.task).write(prediction)


def _write_report(prediction: Prediction, explanations: list[Explanation], stream: TextIO) -> None:
    from ibt_deploy.render.prediction import explanation_lines, prediction_report
    from ibt_deploy.render.report import Table, show

    report = list(prediction_report(prediction))
    place = next(i for i, part in enumerate(report) if isinstance(part, Table))
    report[place:place] = explanation_lines(explanations)
    show(report, stream)


def _suffix(form: _Form) -> str:
    if form is _write_json:
        return ".json"
    return ".csv" if form is _write_csv else ".txt"


def _to_standard_output(form: _Form) -> Callable[[Prediction, list[Explanation]], None]:
    """One answer after the other: reports with a blank line between them, CSV with one header."""
    from ibt_deploy.render.prediction import CsvWriter

    table: CsvWriter | None = None
    count = 0

    def write(prediction: Prediction, explanations: list[Explanation]) -> None:
        nonlocal table, count
        if form is _write_csv:
            table = table or CsvWriter(sys.stdout, prediction.task)
            table.write(prediction)
            return
        if count and form is _write_report:
            click.echo()
        count += 1
        form(prediction, explanations, sys.stdout)

    return write


def _to_folder(
    folder: Path, form: _Form, suffix: str, *, force: bool
) -> Callable[[Prediction, list[Explanation]], None]:
    """One file per answer: ``RECORD.json``, and ``RECORD-2.json`` for a second record of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    if not force and any(folder.glob(f"*{suffix}")):
        raise click.UsageError(
            f"--out-dir: {str(folder)!r} holds {suffix} files already; --force replaces them"
        )
    written: set[str] = set()

    def write(prediction: Prediction, explanations: list[Explanation]) -> None:
        record = "".join("_" if c in '/\\:*?"<>|' else c for c in one_line(prediction.record))
        base = record.lstrip(".")[:_LONGEST_NAME] or "record"
        name, number = base, 1
        while name.casefold() in written:
            number += 1
            name = f"{base}-{number}"
        written.add(name.casefold())
        path = folder / f"{name}{suffix}"
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            form(prediction, explanations, stream)

    return write


def _write_structured_report(answer: Prediction, out: Path) -> None:
    from ibt_deploy.standards.dicom_report import dicom_report

    if not isinstance(answer, ArrhythmiaPrediction):
        raise click.UsageError("--sr is for ECGs; a stay has no DICOM study to belong to")
    atomic_write(out, dicom_report(answer, Path(answer.source)))
    click.echo(one_line(f"ibt: written: {out}"), err=True)


class _Pictures:
    """Draws answers if ``--plot`` is given, and announces the files once their names are final."""

    def __init__(self, plot: Path | None, *, force: bool) -> None:
        self._pictures: NumberedPictures | None = None
        self._said = 0
        if plot is None:
            return
        from ibt_deploy.render.plot import SUFFIXES, NumberedPictures, require_matplotlib

        require_matplotlib()
        if plot.suffix.lower() not in SUFFIXES:
            raise click.UsageError(f"--plot draws {', '.join(SUFFIXES)}, not {str(plot)!r}")
        if not os.access(plot.parent, os.W_OK):
            raise click.UsageError(f"--plot: {str(plot.parent)!r} is not a folder that can be written to")
        self._pictures = NumberedPictures(plot)
        if not force and (there := self._pictures.there()):
            raise click.UsageError(f"--plot: {str(there)!r} already exists; --force replaces it")

    def draw(self, item: Item | None, prediction: Prediction, explanations: list[Explanation]) -> None:
        """Draw one answer and its explanations, if any."""
        if self._pictures is not None and isinstance(item, Recording | Stay):
            self._pictures.draw(item, prediction, explanations)
            if len(self._pictures.written) > 1:  # the first one is numbered by now
                self.announce()

    def announce(self) -> None:
        """Announce the pictures that have not been announced yet."""
        if self._pictures is not None:
            for path in self._pictures.written[self._said :]:
                click.echo(one_line(f"ibt: drawn: {path}"), err=True)
            self._said = len(self._pictures.written)
