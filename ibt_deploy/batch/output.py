"""Parts on disk. Each file of a part appears whole, and a part counts as done once its marker is there.

A marker holds the counts of its part and the sizes of its files, and is written last: whatever moment a run
is killed at, a part is either done or done again, with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ibt_deploy.batch.plan import LINES, Job
from ibt_deploy.batch.tally import Tally, short_name
from ibt_deploy.bundle import Bundle
from ibt_deploy.errors import EXTRA_OF, missing_extra, printable
from ibt_deploy.files import PARTIAL, atomic_open, atomic_write
from ibt_deploy.predictions import NOTICE, ArrhythmiaPrediction, Prediction, Refusal, SepsisPrediction
from ibt_deploy.types import Bools

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS, REFUSED, STATE, LOCK = "predictions", "refused", ".batch", "lock"
READING = ("batch", "formats")
"""Extras whose packages readers use."""
MISSING = "missing_extra"
PACKAGES = "packages.json"
LIST_SEPARATOR = "; "


@dataclass(frozen=True)
class Output:
    """The folder of a run."""

    path: Path

    @property
    def state(self) -> Path:
        """Where the run keeps what it needs to resume."""
        return self.path / STATE

    @property
    def markers(self) -> Path:
        """Where the markers of the parts are."""
        return self.state / "parts"

    def files(self, part: int, job: Job) -> tuple[Path, Path]:
        """The two files of a part."""
        suffix = "ndjson" if job.format == "fhir" else job.format
        name = f"part-{part:05d}.{suffix}"
        return self.path / PREDICTIONS / name, self.path / REFUSED / name

    def prepare(self) -> None:
        """Make the folders, and remove files that a killed process left half written."""
        for folder in (self.path / PREDICTIONS, self.path / REFUSED, self.state, self.markers):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f"*{PARTIAL}"):
                leftover.unlink(missing_ok=True)

    def done(self, part: int, job: Job) -> Tally | None:
        """The counts of a part that is done, None where it is not."""
        try:
            marker = json.loads((self.markers / f"{part:05d}.json").read_bytes())
            sizes = [file.stat().st_size for file in self.files(part, job)]
        except (OSError, ValueError):
            return None
        return Tally.from_dict(marker["tally"]) if marker["sizes"] == sizes else None

    def write(
        self,
        part: int,
        job: Job,
        bundle: Bundle,
        answers: Sequence[Prediction | Refusal],
        tally: Tally,
    ) -> None:
        """Write a part and its marker."""
        predictions = [a for a in answers if not isinstance(a, Refusal)]
        refusals = [a for a in answers if isinstance(a, Refusal)]
        scored, refused = self.files(part, job)
        if job.format in LINES:
            line = _fhir_line if job.format == "fhir" else _json_line
            for path, found in ((scored, predictions), (refused, refusals)):
                with atomic_open(path) as stream:
                    stream.writelines(line(answer) for answer in found)
        else:
            tables = predictions_table(predictions, job, bundle), refusals_table(refusals, job)
            for path, table in zip((scored, refused), tables, strict=True):
                with atomic_open(path) as stream:
                    (_write_parquet if job.format == "parquet" else _write_csv)(table, stream)
        marker = {"sizes": [scored.stat().st_size, refused.stat().st_size], "tally": tally.to_dict()}
        atomic_write(self.markers / f"{part:05d}.json", json.dumps(marker, separators=(",", ":")))


def _json_line(answer: Prediction | Refusal) -> bytes:
    return json.dumps(answer.to_dict(), allow_nan=False).encode("utf-8") + b"\n"


def _fhir_line(answer: Prediction | Refusal) -> bytes:
    from ibt_deploy.standards.fhir_answers import fhir_resource

    return json.dumps(fhir_resource(answer), allow_nan=False).encode("utf-8") + b"\n"


def _write_parquet(table: pa.Table, stream: BinaryIO) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, stream, compression="zstd")


def _write_csv(table: pa.Table, stream: BinaryIO) -> None:
    import pyarrow.csv

    pyarrow.csv.write_csv(flattened(table), stream)


def installed() -> set[str]:
    """The optional packages of readers that can be imported here."""
    return {name for name, extra in EXTRA_OF.items() if extra in READING and find_spec(name) is not None}


def reopened(output: Output, done: Mapping[int, Tally]) -> set[int]:
    """Parts to score again: a missing package cost them refusals, and a package was installed since.

    Their markers are removed, so that they stay to be done whatever happens next.
    """
    stored = output.state / PACKAGES
    now = installed()
    try:
        before = set(json.loads(stored.read_bytes()))
    except (OSError, ValueError):
        before = set()
    waiting = {part for part, tally in done.items() if tally.refused[MISSING]} if now - before else set()
    for part in waiting:
        (output.markers / f"{part:05d}.json").unlink(missing_ok=True)
    atomic_write(stored, json.dumps(sorted(now)))
    return waiting


def arrow() -> Any:
    """pyarrow; MissingExtra where it is not installed."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise missing_extra(error, "ibt batch --format parquet or csv") from error
    return pyarrow


def predictions_table(predictions: Sequence[Prediction], job: Job, bundle: Bundle) -> pa.Table:
    """The rows of ``predictions/``: one for each recording, or for each hour of each stay."""
    if job.task == "arrhythmia":
        return _findings([p for p in predictions if isinstance(p, ArrhythmiaPrediction)], job, bundle)
    return _risks([p for p in predictions if isinstance(p, SepsisPrediction)], job)


def refusals_table(refusals: Sequence[Refusal], job: Job) -> pa.Table:
    """The rows of ``refused/``."""
    pa = arrow()
    columns = {
        "source": [printable(r.source) for r in refusals],
        "code": [r.code for r in refusals],
        "message": [printable(r.message) for r in refusals],
    }
    schema = pa.schema([(name, pa.string()) for name in columns], metadata=_metadata(job))
    return pa.table(columns, schema=schema)


def _findings(predictions: Sequence[ArrhythmiaPrediction], job: Job, bundle: Bundle) -> pa.Table:
    pa = arrow()
    classes = bundle.classes
    names = [short_name(c.abbreviation) for c in classes]
    shape = (len(predictions), len(classes))
    probabilities = np.array([p.probabilities for p in predictions], dtype=np.float32).reshape(shape)
    positive = np.array([p.positive for p in predictions], dtype=bool).reshape(shape)
    alternative = np.array([p.alternative for p in predictions], dtype=bool).reshape(shape)
    share, highest, highest_at = (np.empty(shape, dtype=np.float32) for _ in range(3))
    for row, p in enumerate(predictions):
        share[row] = (p.windows >= p.thresholds).mean(axis=0)
        highest[row] = p.windows.max(axis=0)
        highest_at[row] = p.window_starts[p.windows.argmax(axis=0)]
    words = pa.list_(pa.string())

    def named(flags: Bools) -> list[list[str]]:
        return [[n for n, y in zip(names, row, strict=True) if y] for row in flags]

    columns: list[tuple[str, Any, Any]] = [
        ("record", pa.string(), [printable(p.record) for p in predictions]),
        ("source", pa.string(), [printable(p.source) for p in predictions]),
        ("findings", words, named(positive)),
        ("alternatives", words, named(alternative)),
        *((f"p_{name}", pa.float32(), p) for name, p in zip(names, probabilities.T, strict=True)),
        *((f"pos_{name}", pa.bool_(), y) for name, y in zip(names, positive.T, strict=True)),
        *((f"share_{name}", pa.float32(), s) for name, s in zip(names, share.T, strict=True)),
        *((f"max_{name}", pa.float32(), p) for name, p in zip(names, highest.T, strict=True)),
        *((f"max_at_{name}", pa.float32(), s) for name, s in zip(names, highest_at.T, strict=True)),
        ("windows", pa.int32(), [len(p.windows) for p in predictions]),
        ("duration", pa.float64(), [round(p.duration, 3) for p in predictions]),
        ("sampling_rate", pa.float64(), [p.sampling_rate for p in predictions]),
        ("format", pa.string(), [printable(p.format) for p in predictions]),
        ("warnings", words, [[w.code for w in p.warnings] for p in predictions]),
        ("changes", words, [[printable(c) for c in p.changes] for p in predictions]),
    ]
    thresholds = bundle.operating_point(job.operating_point).thresholds.tolist()
    described = [
        {"column": name, "code": c.code, "name": c.name, "evaluable": c.evaluable, "threshold": threshold}
        for name, c, threshold in zip(names, classes, thresholds, strict=True)
    ]
    return _table(columns, job, {"ibt.classes": json.dumps(described)})


def _risks(predictions: Sequence[SepsisPrediction], job: Job) -> pa.Table:
    pa = arrow()
    lengths = [len(p.risk) for p in predictions]
    of_stay = pa.array(np.repeat(np.arange(len(predictions)), lengths))

    def each(values: list[Any], kind: Any) -> Any:
        return pa.array(values, type=kind).take(of_stay)

    def joined(arrays: list[Any], dtype: Any) -> Any:
        return np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)

    words = pa.list_(pa.string())
    columns: list[tuple[str, Any, Any]] = [
        ("record", pa.string(), each([printable(p.record) for p in predictions], pa.string())),
        ("hour", pa.int32(), joined([p.hours for p in predictions], np.int64)),
        ("risk", pa.float32(), joined([p.risk for p in predictions], np.float64)),
        ("threshold", pa.float32(), each([p.threshold for p in predictions], pa.float32())),
        ("alarm", pa.bool_(), joined([p.alarms for p in predictions], bool)),
        ("inserted", pa.bool_(), joined([p.inserted for p in predictions], bool)),
        ("missing", pa.int16(), joined([np.isnan(p.values).sum(axis=1) for p in predictions], np.int64)),
        ("source", pa.string(), each([printable(p.source) for p in predictions], pa.string())),
        ("warnings", words, each([[w.code for w in p.warnings] for p in predictions], words)),
    ]
    return _table(columns, job, {})


def _table(columns: list[tuple[str, Any, Any]], job: Job, extra: dict[str, str]) -> pa.Table:
    pa = arrow()
    schema = pa.schema([(name, kind) for name, kind, _ in columns], metadata=_metadata(job) | extra)
    arrays = [
        (values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)).cast(kind)
        for _, kind, values in columns
    ]
    return pa.table(arrays, schema=schema)


def _metadata(job: Job) -> dict[str, str]:
    model = {f"ibt.{name}": value for name, value in job.model_columns().items()}
    return {"ibt.task": job.task, "ibt.notice": NOTICE, "ibt.ibt": job.ibt} | model


def flattened(table: pa.Table) -> pa.Table:
    """The table for CSV, which knows no lists: their words in one text."""
    pa = arrow()
    columns = [
        pa.array([LIST_SEPARATOR.join(words) for words in column.to_pylist()], type=pa.string())
        if pa.types.is_list(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)
