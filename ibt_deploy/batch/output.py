"""Parts on disk. Each file of a part appears whole, and a part counts as done once its marker is there.

A marker holds the counts of its part and the sizes of its files, and is written last: whatever moment a run
is killed at, a part is either done or done again, with the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ibt_deploy.batch.columns import arrow, flattened, predictions_table, refusals_table
from ibt_deploy.batch.job import LINES, Job
from ibt_deploy.batch.tally import Tally
from ibt_deploy.bundle import Bundle
from ibt_deploy.predictions import Prediction, Refusal

PREDICTIONS, REFUSED, STATE = "predictions", "refused", ".batch"
TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Output:
    """The folder of a run."""

    path: Path

    @property
    def state(self) -> Path:
        """Where the run keeps what it needs to go on."""
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
        """Make the folders; what was left half written is removed."""
        for folder in (self.path / PREDICTIONS, self.path / REFUSED, self.markers):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f"*{TEMPORARY}"):
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
            write_whole(scored, lambda f: f.writelines(line(p) for p in predictions))
            write_whole(refused, lambda f: f.writelines(line(r) for r in refusals))
        else:
            tables = predictions_table(predictions, job, bundle), refusals_table(refusals, job)
            for path, table in zip((scored, refused), tables, strict=True):
                write_whole(path, _parquet(table) if job.format == "parquet" else _csv(table))
        marker = {"sizes": [scored.stat().st_size, refused.stat().st_size], "tally": tally.to_dict()}
        text = json.dumps(marker, separators=(",", ":")).encode("ascii")
        write_whole(self.markers / f"{part:05d}.json", lambda f: f.write(text))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that appears whole or not at all, and stays after a power cut."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails does not say where
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _json_line(answer: Prediction | Refusal) -> bytes:
    return json.dumps(answer.to_dict(), allow_nan=False).encode("utf-8") + b"\n"


def _fhir_line(answer: Prediction | Refusal) -> bytes:
    from ibt_deploy.standards.fhir_answers import fhir_resource

    return json.dumps(fhir_resource(answer), allow_nan=False).encode("utf-8") + b"\n"


def _parquet(table: object) -> Callable[[BinaryIO], object]:
    import pyarrow.parquet

    return lambda stream: pyarrow.parquet.write_table(table, stream, compression="zstd")


def _csv(table: object) -> Callable[[BinaryIO], object]:
    arrow()
    import pyarrow.csv

    return lambda stream: pyarrow.csv.write_csv(flattened(table), stream)
