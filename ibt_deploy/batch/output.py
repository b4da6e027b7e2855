"""Parts on disk: files are written atomically, and a part counts as done once its marker exists.

A marker holds the counts of its part and the sizes of its files, and is written last: whenever a run is
killed, a part is either done or will be redone, with the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

from ibt_deploy.batch.plan import LINES, Job
from ibt_deploy.batch.tally import Tally
from ibt_deploy.bundle import Bundle
from ibt_deploy.errors import EXTRA_OF, printable, require
from ibt_deploy.files import PARTIAL, atomic_open, atomic_write
from ibt_deploy.predictions import NOTICE, Prediction, Refusal
from ibt_deploy.types import PARTS

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
        """Folder of the part markers."""
        return self.state / "parts"

    def files(self, part: int, job: Job) -> tuple[Path, Path]:
        """The two files of a part."""
        suffix = "ndjson" if job.format == "fhir" else job.format
        name = f"part-{part:05d}.{suffix}"
        return self.path / PREDICTIONS / name, self.path / REFUSED / name

    def prepare(self) -> None:
        """Create the folders, and remove files that a killed process left half written."""
        for folder in (self.path / PREDICTIONS, self.path / REFUSED, self.state, self.markers):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f"*{PARTIAL}"):
                leftover.unlink(missing_ok=True)

    def done(self, part: int, job: Job) -> Tally | None:
        """The counts of a part that is done, else None."""
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
            found = PARTS[job.task].answers.load().table(predictions, job, bundle)
            tables = found, refusals_table(refusals, job)
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
    """Parts to score again: a missing package caused refusals in them, and a package was installed since.

    Their markers are removed, so that they remain to be done whatever happens next.
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
    """Import pyarrow; raises MissingExtra if it is not installed."""
    require("ibt batch --format parquet or csv", "pyarrow")
    import pyarrow

    return pyarrow


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


def table_of(
    columns: list[tuple[str, Any, Any]], job: Job, extra: Mapping[str, str] = MappingProxyType({})
) -> pa.Table:
    """A table of columns, each with its name, type and values; ``extra`` is added to the metadata."""
    pa = arrow()
    schema = pa.schema([(name, kind) for name, kind, _ in columns], metadata=_metadata(job) | dict(extra))
    arrays = [
        (values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)).cast(kind)
        for _, kind, values in columns
    ]
    return pa.table(arrays, schema=schema)


def _metadata(job: Job) -> dict[str, str]:
    model = {f"ibt.{name}": value for name, value in job.model_columns().items()}
    return {"ibt.task": job.task, "ibt.notice": NOTICE, "ibt.ibt": job.ibt} | model


def flattened(table: pa.Table) -> pa.Table:
    """The table for CSV, with the words of each list joined into one text."""
    pa = arrow()
    columns = [
        pa.array([LIST_SEPARATOR.join(words) for words in column.to_pylist()], type=pa.string())
        if pa.types.is_list(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)
