"""The numbers of a finished ``ibt batch`` that are compared with those of another."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ibt_deploy.errors import DataError
from ibt_deploy.extras import missing_extra
from ibt_deploy.types import AnyInts, Floats

Kind = Literal["input", "missing", "risk", "alarm", "finding", "warning", "length", "refused"]
FEWEST = 100


@dataclass(frozen=True, eq=False)
class Export:
    """The numbers of a finished ``ibt batch``.

    Attributes
    ----------
    path
        Its folder.
    summary
        ``summary.json``.
    patients
        Stays or recordings that were scored.
    numbers
        Values of each measure that is compared by tenths.
    shares
        How often each thing occurred, and out of how many.
    """

    path: Path
    summary: dict[str, Any]
    patients: int
    numbers: dict[str, tuple[Kind, Floats]] = field(default_factory=dict)
    shares: dict[str, tuple[Kind, int, int]] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """``arrhythmia`` or ``sepsis``."""
        return str(self.summary["task"])

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        """What was counted in each column of a table, by variable."""
        return {column["variable"]: column for column in self.summary.get("tables", {}).get("columns", [])}

    @property
    def rows(self) -> int:
        """Rows of the tables."""
        return int(self.summary.get("tables", {}).get("rows", 0))


def read_export(path: Path) -> Export:
    """The numbers of a finished run in ``path``.

    Raises
    ------
    DataError
        No finished run, another format than Parquet, or fewer than 100 patients.
    MissingExtra
        pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.dataset as ds
    except ModuleNotFoundError as error:
        raise missing_extra(error, "ibt monitor") from error
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        is_known = summary["task"] in ("sepsis", "arrhythmia") and summary["format"] == "parquet"
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: no finished run of ibt batch (no readable summary.json)") from None
    if not is_known:
        raise DataError(f"{path}: written with --format {summary['format']}; only Parquet can be compared")
    files = sorted((path / "predictions").glob("*.parquet"))
    try:
        table = ds.dataset([str(file) for file in files], format="parquet")
        found = _stays(table) if summary["task"] == "sepsis" else _recordings(table)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path}: predictions cannot be read ({str(error).splitlines()[0]})") from error
    patients, numbers, shares = found
    if patients < FEWEST:
        raise DataError(f"{path}: {patients} scored; a comparison needs at least {FEWEST}")
    for code, count in summary.get("warnings", {}).items():
        shares[f"warning {code}"] = ("warning", int(count), patients)
    shares["refused inputs"] = ("refused", int(summary["refusals"]), int(summary["answers"]))
    return Export(path, summary, patients, numbers, shares)


def _stays(table: Any) -> tuple[int, dict[str, tuple[Kind, Floats]], dict[str, tuple[Kind, int, int]]]:
    columns = table.to_table(columns=["record", "risk", "alarm", "missing"])
    risk = columns["risk"].to_numpy().astype(np.float64)
    alarm = columns["alarm"].to_numpy()
    record = columns["record"].combine_chunks().dictionary_encode()
    stay = record.indices.to_numpy()
    stays = len(record.dictionary)
    hours = np.bincount(stay, minlength=stays).astype(np.float64)
    in_alarm = np.bincount(stay, weights=alarm, minlength=stays) > 0
    numbers: dict[str, tuple[Kind, Floats]] = {
        "risk": ("risk", risk),
        "highest risk of a stay": ("risk", _highest(risk, stay, stays)),
        "variables missing in an hour": ("missing", columns["missing"].to_numpy().astype(np.float64)),
        "hours of a stay": ("length", hours),
    }
    shares: dict[str, tuple[Kind, int, int]] = {
        "hours in alarm": ("alarm", int(alarm.sum()), len(alarm)),
        "stays with an alarm": ("alarm", int(in_alarm.sum()), stays),
    }
    return stays, numbers, shares


def _highest(risk: Floats, stay: AnyInts, stays: int) -> Floats:
    found = np.zeros(stays)
    np.maximum.at(found, stay, risk)
    return found


def _recordings(table: Any) -> tuple[int, dict[str, tuple[Kind, Floats]], dict[str, tuple[Kind, int, int]]]:
    names = [name for name in table.schema.names if name.startswith(("p_", "pos_"))]
    columns = table.to_table(columns=[*names, "duration", "sampling_rate"])
    numbers: dict[str, tuple[Kind, Floats]] = {
        "duration": ("length", columns["duration"].to_numpy().astype(np.float64)),
        "sampling rate": ("input", columns["sampling_rate"].to_numpy().astype(np.float64)),
    }
    shares: dict[str, tuple[Kind, int, int]] = {}
    for name in names:
        kind, _, short = name.partition("_")
        values = columns[name].to_numpy()
        if kind == "p":
            numbers[f"probability {short}"] = ("risk", values.astype(np.float64))
        else:
            shares[f"finding {short}"] = ("finding", int(values.sum()), len(values))
    return len(columns), numbers, shares
