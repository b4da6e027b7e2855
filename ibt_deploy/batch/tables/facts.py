"""Facts about an export before anything is scored: rows, columns, doubtful units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.batch.tables.stays import Overlap
from ibt_deploy.errors import BadUnits
from ibt_deploy.mapping.doubts import ColumnFacts, Doubt, doubt_about, other_units, wide
from ibt_deploy.mapping.schema import Mapping
from ibt_deploy.mapping.units import CANONICAL, Conversion
from ibt_deploy.preprocess.stay import ROUNDED_ROOM_AIR
from ibt_deploy.types import Floats
from ibt_deploy.vocabulary import VARIABLES, Variable

SAMPLE = 100_000
ROWS_AT_ONCE = 65_536
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WITHOUT_DOUBT = ("Gender", "Unit1", "Unit2", "ICULOS")


@dataclass(frozen=True)
class Report:
    """Counts over an export.

    Attributes
    ----------
    files
        Files found.
    rows
        Rows of stays, including those of stays that will be refused.
    patients
        Stays.
    rejected_rows
        Rows that could not be used at all.
    unassigned_rows
        Unusable rows whose stay is unknown.
    refused_files
        Path, code and message of files that could not be read.
    columns
        Facts about every variable that has a column in the export.
    overlap
        Overlap of rows with timestamps.
    limits
        Measurements of each variable that were given as a limit (``<0.5``) and read as that limit.
    """

    files: int
    rows: int
    patients: int
    rejected_rows: int
    unassigned_rows: int
    refused_files: tuple[tuple[str, str, str], ...]
    columns: tuple[ColumnFacts, ...]
    overlap: Overlap = field(default_factory=Overlap)
    limits: dict[str, int] = field(default_factory=dict)

    @property
    def sentences(self) -> list[str]:
        """Notes on how the export was read, for readers of the scores."""
        if not self.limits:
            return self.overlap.sentences
        listed = ", ".join(f"{name} {count}" for name, count in self.limits.items())
        sentence = f"Values given as a limit (<0.5) were read as the limit: {listed}."
        return [*self.overlap.sentences, sentence]

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """Columns that must not be scored as they are."""
        found = (doubt_about(facts, self.patients) for facts in self.columns)
        return tuple(doubt for doubt in found if doubt is not None)

    def require_plausible(self, *, of_a_part: bool = False) -> None:
        """Refuse an export with doubtful columns.

        Parameters
        ----------
        of_a_part
            Whether only some rows were counted; only evident doubts are then refused.

        Raises
        ------
        BadUnits
            A column is doubtful (``doubtful_unit``).
        """
        if doubts := [doubt for doubt in self.doubts if doubt.is_evident or not of_a_part]:
            raise BadUnits(
                f"{'; '.join(doubt.message for doubt in doubts)}. Correct the units in the mapping, or write "
                "confirmed = true under the columns whose values you have checked",
                code="doubtful_unit",
            )

    def text(self) -> str:
        """The report for a terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"files: {self.files}, stays: {self.patients}, rows: {self.rows}"
        if self.rejected_rows:
            yield f"rows not usable: {self.rejected_rows}, of unknown patients: {self.unassigned_rows}"
        yield from (f"overlap: {sentence}" for sentence in self.overlap.sentences)
        yield from self.sentences[len(self.overlap.sentences) :]
        for path, code, message in self.refused_files:
            yield f"not read: {path}: {message} ({code})"
        doubtful = {doubt.variable: doubt for doubt in self.doubts}
        yield f"{'column':<17}{'unit':<18}{'values':>10}{'out of range':>14}" + _right(
            "5 %", "median", "95 %"
        )
        for facts in self.columns:
            shown = [f"{facts.quantiles[i]:.4g}" for i in (0, 2, 4)] if facts.quantiles else []
            mark = "  doubtful" if facts.variable in doubtful else ""
            share = f"{facts.out_of_range_share:>13.2%} "
            name = f"{facts.variable:<17}{_units(facts)[:17]:<18}"
            yield f"{name}{facts.values:>10}{share}{_right(*shown)}{mark}"
        for doubt in doubtful.values():
            yield f"doubtful: {doubt.message}"

    @classmethod
    def of(cls, found: dict[str, Any]) -> Report:
        """Build the report from its dictionary."""
        columns = tuple(
            ColumnFacts(**{**facts, "quantiles": tuple(facts["quantiles"])}) for facts in found["columns"]
        )
        files = tuple((path, code, message) for path, code, message in found["refused_files"])
        overlap = Overlap(**found["overlap"])
        return cls(**{**found, "columns": columns, "refused_files": files, "overlap": overlap})


def _units(facts: ColumnFacts) -> str:
    """The unit of a column and, if different, that of the model, in which its numbers are shown."""
    own = CANONICAL[facts.variable]
    return facts.unit if (facts.factor, facts.offset) == (1.0, 0.0) else f"{facts.unit} -> {own}"


def _right(*cells: str) -> str:
    return "".join(f"{cell:>10}" for cell in cells)


def column_facts(store: Path, mapping: Mapping | None, stays: int) -> tuple[ColumnFacts, ...]:
    """Count the columns of a store that have any value or are mapped.

    Shares are exact. For a column with more than 100,000 values, quantiles use every k-th value, so that
    memory stays bounded and a repeated run gives the same result.
    """
    import pyarrow.parquet as pq

    mapped = mapping.columns if mapping is not None else {}
    confirmed = mapping.confirmed if mapping is not None else frozenset()
    with pq.ParquetFile(store) as file:
        present = {variable.name: 0 for variable in VARIABLES} | _values(file.metadata)
        counters = [
            _Counter(variable, _stated(variable, mapping), present[variable.name])
            for variable in VARIABLES
            if variable.name not in WITHOUT_DOUBT and (present[variable.name] or variable.name in mapped)
        ]
        names = [counter.variable.name for counter in counters]
        for rows in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names, use_threads=False):
            for counter, column in zip(counters, rows.columns, strict=True):
                counter.add(np.asarray(column.drop_null().to_numpy(), dtype=np.float64))
    return tuple(counter.facts(counter.variable.name in confirmed) for counter in counters if stays)


def _values(metadata: Any) -> dict[str, int]:
    """Number of values in each column of a Parquet file."""
    found: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        for place in range(rows.num_columns):
            column = rows.column(place)
            empty = column.statistics.null_count if column.statistics is not None else 0
            found[column.path_in_schema] = found.get(column.path_in_schema, 0) + rows.num_rows - empty
    return found


def _stated(variable: Variable, mapping: Mapping | None) -> Conversion:
    if mapping is not None and variable.name in mapping.columns:
        return mapping.columns[variable.name].conversion
    return Conversion(variable.name, CANONICAL[variable.name])


class _Counter:
    """Counts the values of one column, chunk by chunk."""

    def __init__(self, variable: Variable, stated: Conversion, expected: int) -> None:
        self.variable = variable
        self._stated = stated
        self._usual = wide(variable.name)
        self._others = other_units(stated) if self._usual else {}
        self._low = ROUNDED_ROOM_AIR if variable.name == "FiO2" else np.float32(variable.plausible_min)
        self._high = np.float32(variable.plausible_max)
        self._step = max(math.ceil(expected / SAMPLE), 1)
        self._sample: list[Floats] = []
        self._values = 0
        self._outside = 0
        self._explained = dict.fromkeys(self._others, 0)

    def add(self, values: Floats) -> None:
        """Count more values."""
        with np.errstate(over="ignore"):
            short = values.astype(np.float32)
        sampled = values[-self._values % self._step :: self._step]
        self._sample.append(sampled[np.isfinite(sampled)])
        self._values += len(values)
        outside = values[(short < self._low) | (short > self._high)]
        self._outside += len(outside)
        if self._usual is None or not len(outside):
            return
        for unit, other in self._others.items():
            read = outside * other.factor + other.offset
            inside = (read >= self._usual[0]) & (read <= self._usual[1])
            self._explained[unit] += int(np.count_nonzero(inside))

    def facts(self, is_confirmed: bool) -> ColumnFacts:
        """The counts."""
        sample = np.concatenate([np.empty(0), *self._sample])
        quantiles = tuple(np.quantile(sample, QUANTILES).tolist()) if len(sample) else ()
        stated = self._stated
        return ColumnFacts(
            self.variable.name, stated.unit, stated.factor, stated.offset, is_confirmed, self._values,
            self._outside, quantiles, self._explained,
        )  # fmt: skip
