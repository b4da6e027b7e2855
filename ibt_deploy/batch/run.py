"""A batch run from beginning to end: list, plan, compare with an earlier run, score, sum up."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ibt_deploy import __version__
from ibt_deploy.batch.archives import is_archive
from ibt_deploy.batch.items import Items, PlannedFiles, export_items, opened_stays
from ibt_deploy.batch.local import LocalEngine
from ibt_deploy.batch.output import LOCK, PREDICTIONS, REFUSED, Output, arrow, reopened
from ibt_deploy.batch.plan import LAYOUT, LINES, Format, Job, difference, stored_plan, written_plan
from ibt_deploy.batch.sources import entries_of, expanded, first_files, stamped, table_files
from ibt_deploy.batch.tally import Tally, report_page, summary_of
from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import Device, open_session, usable_cpus
from ibt_deploy.errors import BatchError, InputError
from ibt_deploy.files import atomic_write, file_sha256
from ibt_deploy.mapping.schema import load_mapping
from ibt_deploy.progress import Answered
from ibt_deploy.readers import task_of
from ibt_deploy.types import NOUNS, PARTS, TASKS, Task

if TYPE_CHECKING:
    from ibt_deploy.standards.exports import Export

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")
SUMMARY, REPORT, JOB, PLAN = "summary.json", "report.html", "job.json", "plan.jsonl"
TABLE_SUFFIXES = (".csv.gz", ".psv.gz", ".csv.zst", ".psv.zst", ".tsv.gz", ".tsv.zst")
_LOOKED_AT = 50
_TICK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """User options; see ``ibt batch --help``.

    Attributes
    ----------
    sources
        Folders, files, globs, lists and archives.
    out
        Folder of the results.
    task
        Default: the task of the first readable input.
    mapping
        File that maps table columns to variables.
    workers
        Number of processes; default and maximum: all usable CPUs.
    resume, restart
        Continue the run in ``out``; or remove it and start over.
    """

    sources: Sequence[str]
    out: str | Path
    task: Task | None = None
    mapping: str | Path | None = None
    workers: int | None = None
    engine: Engine = "local"
    device: Device = "auto"
    bundle: str | Path | None = None
    precision: str | None = None
    operating_point: str | None = None
    format: Format = "parquet"
    resume: bool = False
    restart: bool = False


@dataclass
class Result:
    """The counts of a run, and its summary."""

    tally: Tally
    summary: dict[str, object] = field(default_factory=dict)


def run_batch(options: Options) -> Result:
    """Score everything that the sources name.

    Raises
    ------
    BatchError
        The run cannot start or continue; the message says what to do. What is done stays done.
    BundleError, DeviceError, MissingExtra
        The model cannot be used, or a package is missing.
    """
    if options.format not in LINES:
        arrow()
    output = Output(Path(options.out))
    _require_free(output)
    with _locked(output):
        _check_there(output, options)
        try:
            inputs = _Inputs(options)
            items, job = _planned(options, inputs, output)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("interrupted while the inputs were listed; run it again") from error
        progress: Answered | None = None
        workers = min(options.workers or usable_cpus(), usable_cpus())
        try:
            output.prepare()
            done = _tallies(output, job)
            for part in reopened(output, done):
                del done[part]
            progress = Answered(
                items.total,
                NOUNS[job.task],
                before=sum(tally.inputs for tally in done.values()),
            )
            waiting = [part for part in range(len(items)) if part not in done]
            _score(options, job, output, items, waiting, workers, progress)
            progress.end()
            return _finished(output, job, items, inputs.bundle, workers, progress)
        except (BatchError, KeyboardInterrupt) as error:
            if progress is not None:
                progress.end()
            state = f"{len(_tallies(output, job))} of {len(items)} parts are done"
            raise type(error)(
                f"{str(error) or 'interrupted'}; {state}, --resume continues from there"
            ) from error


class _Inputs:
    """The files of the sources and the model, each looked up once.

    Parameters
    ----------
    options
        What the user asks for.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    @cached_property
    def files(self) -> list[str]:
        """Every file of the sources, for a run over tables."""
        return table_files(self._options.sources)

    @cached_property
    def standard(self) -> Export | None:
        """The events that the sources hold: in a hospital standard, or in long tables with a mapping."""
        from ibt_deploy.standards.exports import Export, found_export

        files = [Path(path) for path in self.files]
        if self._options.mapping is None:
            return found_export(files)
        mapping = load_mapping(Path(self._options.mapping))
        return Export("long table", tuple(files), mapping=mapping) if mapping.long is not None else None

    @cached_property
    def bundle(self) -> Bundle:
        """The model.

        Raises
        ------
        BatchError
            The model is for a different task from the inputs.
        """
        bundle = self._named or load_bundle(self.task)
        if bundle.task != self.task:
            raise BatchError(f"{bundle.path}: a bundle for {bundle.task}, and the inputs are for {self.task}")
        return bundle

    @cached_property
    def task(self) -> Task:
        """The requested task, or that of the first readable input."""
        options = self._options
        if options.task is not None:
            return options.task
        if options.mapping is not None:
            return "sepsis"
        if self._named is not None:
            return self._named.task
        if self.standard is not None:
            return "sepsis"
        first = list(islice(first_files(options.sources), _LOOKED_AT))
        if not first:
            raise BatchError("the sources hold no file")
        for path in first:
            if is_archive(path):
                return "arrhythmia"
            if path.lower().endswith(TABLE_SUFFIXES):
                return "sepsis"
            try:
                return task_of(path)
            except InputError:
                continue
        raise BatchError(
            f"the first inputs do not show whether they are ECGs or stays; give --task {' or '.join(TASKS)}"
        )

    @cached_property
    def _named(self) -> Bundle | None:
        """The bundle that the user names."""
        return None if self._options.bundle is None else load_bundle(self._options.bundle)


@contextmanager
def _locked(output: Output) -> Iterator[None]:
    """Lock the run, so that no other process writes to it; the lock ends with this process.

    A folder created here is removed again if the run ends before it has a plan.
    """
    is_new = not output.path.exists()
    try:
        output.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BatchError(f"{output.path}: cannot be written to ({error.strerror})") from error
    with (output.state / LOCK).open("wb") as stream:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise BatchError(f"{output.path}: another run is writing to it") from error
        try:
            yield
        finally:
            has_plan = (output.state / JOB).is_file()
            if is_new and not has_plan and list(output.path.iterdir()) == [output.state]:
                shutil.rmtree(output.path, ignore_errors=True)


def _check_there(output: Output, options: Options) -> None:
    """Check that an existing run may be used as requested."""
    job = output.state / JOB
    if options.restart:
        if job.is_file():
            for folder in (output.path / PREDICTIONS, output.path / REFUSED):
                shutil.rmtree(folder, ignore_errors=True)
            for name in (SUMMARY, REPORT):
                (output.path / name).unlink(missing_ok=True)
            for path in output.state.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()
        return
    if job.is_file() and not options.resume:
        state = "a finished run" if (output.path / SUMMARY).is_file() else "an unfinished run"
        raise BatchError(
            f"{output.path}: holds {state}; --resume continues it, --restart removes it and starts over"
        )


def _require_free(output: Output) -> None:
    """Refuse a folder with other content, before anything is written to it."""
    if (output.state / JOB).is_file() or not output.path.is_dir():
        return
    others = [path.name for path in output.path.iterdir() if path != output.state]
    if others:
        raise BatchError(f"{output.path}: holds something else ({sorted(others)[0]}); choose an empty folder")


def _planned(options: Options, inputs: _Inputs, output: Output) -> tuple[Items, Job]:
    """The inputs and the resulting job, compared with that of an existing run."""
    task, bundle = inputs.task, inputs.bundle
    variant = options.precision or bundle.default_variant
    session, device = open_session(bundle.graph(variant), device=options.device, threads=1)
    del session
    new = output.state / f"{PLAN}.new"
    mapping = "" if options.mapping is None else _sha256(Path(options.mapping))
    named = frozenset(expanded(options.sources)[1])
    items: Items
    if not PARTS[task].in_tables:
        ignored: Counter[str] = Counter()
        plan = written_plan(new, entries_of(options.sources, ignored))
        if ignored:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in ignored.most_common())
            print(
                f"ignored, because the DICOMDIR lists them as something other than ECG waveforms: {kinds}",
                file=sys.stderr,
            )
        if not plan.inputs:
            raise BatchError("the sources hold no ECG waveform" if ignored else "the sources hold no file")
        items, fingerprint = PlannedFiles(plan, dict(ignored), named), plan.fingerprint
    else:
        if not inputs.files:
            raise BatchError("the sources hold no file")
        entries = stamped(inputs.files)
        written_plan(new, entries)
        if (export := inputs.standard) is not None:
            events = export_items(export, options.sources, output.path, output.state)
            items, fingerprint = events, events.fingerprint
        else:
            stays = opened_stays(entries, options.mapping, output.state, named)
            items, fingerprint = stays, stays.tables.fingerprint
    import onnxruntime

    job = Job(
        task=task,
        bundle=str(bundle.path.absolute()),
        bundle_name=bundle.name,
        bundle_version=bundle.version,
        bundle_sha256=bundle.sha256,
        variant=variant,
        operating_point=bundle.operating_point(options.operating_point).name,
        device=device,
        format=options.format,
        inputs=fingerprint,
        n_inputs=items.total,
        n_parts=len(items),
        mapping=mapping,
        layout=LAYOUT,
        ibt=__version__,
        onnxruntime=onnxruntime.__version__,
    )
    _compare(output, job, new)
    new.replace(output.state / PLAN)
    atomic_write(output.state / JOB, job.to_json())
    if isinstance(items, PlannedFiles):
        items = PlannedFiles(stored_plan(output.state / PLAN), items.ignored, items.named)
    return items, job


def _compare(output: Output, job: Job, new: Path) -> None:
    """Refuse to continue a different run."""
    stored = output.state / JOB
    if not stored.is_file():
        return
    try:
        before = Job.from_json(stored.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BatchError(f"{stored}: damaged ({error}); --restart starts over") from error
    differences = before.differences(job)
    if not differences:
        return
    if before.inputs != job.inputs and (output.state / PLAN).is_file():
        found = difference(output.state / PLAN, new)
        if found["example"] is not None:
            differences = [text for text in differences if "fingerprint" not in text]
            differences.insert(
                0,
                f"the inputs changed ({found['added']} new, {found['gone']} gone, "
                f"{found['changed']} changed, e.g. {found['example']})",
            )
    raise BatchError(
        f"{output.path}: a different run was started there: {'; '.join(differences)}; "
        "--restart removes it and starts over"
    )


def _tallies(output: Output, job: Job) -> dict[int, Tally]:
    found = ((part, output.done(part, job)) for part in range(job.n_parts))
    return {part: tally for part, tally in found if tally is not None}


def _score(
    options: Options,
    job: Job,
    output: Output,
    items: Items,
    waiting: Sequence[int],
    workers: int,
    progress: Answered,
) -> None:
    if not waiting:
        return
    if options.engine == "ray":
        from ibt_deploy.batch.ray import scored_by_ray

        events: Iterator[tuple[int, Tally] | None] = scored_by_ray(
            job, output, items, waiting, options.workers
        )
        for event in events:
            _advance(progress, event)
        return
    with LocalEngine(job, output, items, workers) as engine:
        for event in engine.run(waiting, _TICK_SECONDS):
            _advance(progress, event)


def _advance(progress: Answered, event: tuple[int, Tally] | None) -> None:
    if event is not None:
        progress.add(event[1].inputs, event[1].n_refused)
    progress.show()


def _finished(
    output: Output, job: Job, items: Items, bundle: Bundle, workers: int, progress: Answered
) -> Result:
    total = Tally()
    for tally in _tallies(output, job).values():
        total.add(tally)
    tables = items.report
    summary = summary_of(job, total, tables)
    if isinstance(items, PlannedFiles) and items.ignored:
        summary["ignored"] = dict(items.ignored)
    page = report_page(summary, total, bundle.classes)
    atomic_write(output.path / REPORT, page)
    done = items.total - progress.before
    summary["run"] = {
        "workers": workers,
        "inputs_before": progress.before,
        "seconds": round(progress.seconds, 1),
        "inputs_per_second": round(done / progress.seconds, 2) if done else None,
    }
    atomic_write(output.path / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return Result(total, summary)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise BatchError(f"{path}: cannot be read ({error.strerror})") from error
