"""MEDS: ``subject_id``, ``time``, ``code``, ``numeric_value`` in Parquet, in one file or in shards.

A code is read as LOINC if it says so (``LOINC//8867-4//...`` or ``LOINC/8867-4``), or if
``metadata/codes.parquet`` names a LOINC code among its parents, and as an item of MIMIC-IV
(``LAB//50912//mg/dL``) if the whole export shows that it comes from there. The unit is the third part of
a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ibt_deploy.batch.tables.sql import text
from ibt_deploy.errors import MalformedFile
from ibt_deploy.files import File
from ibt_deploy.standards.events import LOINC, MIMIC, Meaning, Source, codes, meaning, unit_flags
from ibt_deploy.standards.exports import MEDS_VALUES

FORMAT = "MEDS"
PART = "//"
FEWEST_MIMIC_ITEMS = 10
"""Items of the table that an export must use before its numbers are taken for those of MIMIC-IV."""

ICU_ADMISSION = "ICU_ADMISSION"


def load(connection: Any, files: Sequence[File]) -> Source:
    """Fill ``events`` and ``stays`` from the Parquet files of an export."""
    shards = [str(file) for file in files if isinstance(file, Path)]
    if len(shards) == len(files):
        shard_list = ", ".join(text(path) for path in shards)
        connection.execute(
            "CREATE OR REPLACE TEMP VIEW meds AS "
            f"SELECT * FROM read_parquet([{shard_list}], union_by_name = true)"
        )
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [pq.read_table(pa.BufferReader(file.read_bytes())) for file in files]
        connection.register("meds", pa.concat_tables(tables, promote_options="default"))
    names = [row[0] for row in connection.execute("DESCRIBE meds").fetchall()]
    value = next((name for name in MEDS_VALUES if name in names), None)
    if value is None:
        raise MalformedFile("has no column numeric_value", code="missing_columns")
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW events AS SELECT CAST(subject_id AS VARCHAR) AS patient,"
        " CAST(time AS TIMESTAMP) AS time, CAST(code AS VARCHAR) AS code, CAST(NULL AS VARCHAR) AS unit,"
        f" CAST({value} AS DOUBLE) AS value FROM meds"
    )
    _write_stays(connection)
    distinct = [row[0] or "" for row in connection.execute("SELECT DISTINCT code FROM meds").fetchall()]
    parents = _parents(files)
    items = {code for code in map(_mimic_item, distinct) if code is not None}
    is_mimic = len(items) >= FEWEST_MIMIC_ITEMS
    notes = ("Codes were read as items of MIMIC-IV.",) if is_mimic else ()

    def meanings(code: str, _unit: str | None) -> Meaning | str:
        unit = _unit_of(code)
        loinc = _loinc(code) or parents.get(code)
        if loinc is not None:
            return meaning(LOINC, loinc, unit)
        item = _mimic_item(code)
        return meaning(MIMIC, item, unit) if item is not None and is_mimic else "unknown_code"

    return Source(FORMAT, meanings, notes)


def _write_stays(connection: Any) -> None:
    """Write one stay per ``ICU_ADMISSION``, with the hospital admission around it."""
    admissions = [
        row[0]
        for row in connection.execute(
            f"SELECT DISTINCT code FROM meds WHERE starts_with(code, '{ICU_ADMISSION}')"
        ).fetchall()
    ]
    connection.execute("CREATE OR REPLACE TEMP TABLE units(code VARCHAR, unit1 DOUBLE, unit2 DOUBLE)")
    if admissions:
        connection.executemany(
            "INSERT INTO units VALUES (?, ?, ?)",
            [(code, *unit_flags(code.removeprefix(ICU_ADMISSION))) for code in admissions],
        )
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE stays AS
        WITH admitted AS (
            SELECT subject_id, CAST(time AS TIMESTAMP) AS starts, max(unit1) AS unit1, max(unit2) AS unit2
            FROM meds JOIN units USING (code) WHERE time IS NOT NULL GROUP BY ALL
        ), discharged AS (
            SELECT DISTINCT subject_id, CAST(time AS TIMESTAMP) AS ends FROM meds
            WHERE starts_with(code, 'ICU_DISCHARGE') AND time IS NOT NULL
        ), stay AS (
            SELECT a.*, min(d.ends) AS ends FROM admitted a
            LEFT JOIN discharged d ON d.subject_id = a.subject_id AND d.ends > a.starts GROUP BY ALL
        ), hospital AS (
            SELECT h.subject_id, CAST(h.time AS TIMESTAMP) AS entered, min(CAST(d.time AS TIMESTAMP)) AS quit
            FROM meds h LEFT JOIN meds d ON d.subject_id = h.subject_id AND d.time > h.time
                AND starts_with(d.code, 'HOSPITAL_DISCHARGE')
            WHERE starts_with(h.code, 'HOSPITAL_ADMISSION') AND h.time IS NOT NULL GROUP BY ALL
        ), around AS (
            SELECT s.subject_id, s.starts, max(h.entered) AS entered FROM stay s JOIN hospital h
                ON h.subject_id = s.subject_id AND h.entered <= s.starts + INTERVAL 24 HOURS
                AND (h.quit IS NULL OR h.quit >= s.starts)
            GROUP BY ALL
        ), person AS (
            SELECT subject_id, min(CAST(time AS TIMESTAMP)) FILTER (code = 'MEDS_BIRTH') AS born,
                bool_or(code IN ('GENDER//M', 'GENDER//Male')) AS male,
                bool_or(code IN ('GENDER//F', 'GENDER//Female')) AS female
            FROM meds GROUP BY ALL
        )
        SELECT CAST(s.subject_id AS VARCHAR) || '-'
                || row_number() OVER (PARTITION BY s.subject_id ORDER BY s.starts) AS stay,
            CAST(s.subject_id AS VARCHAR) AS patient, s.starts, s.ends, a.entered AS hospital_admission,
            round(date_diff('day', p.born, s.starts) / 365.25, 2) AS age,
            CASE WHEN p.male AND NOT p.female THEN 1.0 WHEN p.female AND NOT p.male THEN 0.0 END AS gender,
            s.unit1, s.unit2
        FROM stay s LEFT JOIN around a ON a.subject_id = s.subject_id AND a.starts = s.starts
        LEFT JOIN person p ON p.subject_id = s.subject_id
        """
    )


def _loinc(code: str) -> str | None:
    parts = code.split(PART)
    if parts[0] == LOINC and len(parts) > 1:
        return parts[1]
    return parts[0].removeprefix("LOINC/") if parts[0].startswith("LOINC/") else None


def _mimic_item(code: str) -> str | None:
    parts = code.split(PART)
    return parts[1] if len(parts) > 1 and parts[0] == "LAB" and (MIMIC, parts[1]) in codes() else None


def _unit_of(code: str) -> str | None:
    parts = code.split(PART)
    return parts[2] if len(parts) > 2 else None


def _parents(files: Sequence[File]) -> dict[str, str]:
    """The LOINC code of each code, from ``metadata/codes.parquet`` beside the data."""
    found: dict[str, str] = {}
    for path in {p for file in files if isinstance(file, Path) for p in _metadata_of(file)}:
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        if not {"code", "parent_codes"} <= set(table.column_names):
            continue
        for code, parents in zip(table["code"].to_pylist(), table["parent_codes"].to_pylist(), strict=True):
            loinc = {parent.removeprefix("LOINC/") for parent in parents or [] if parent.startswith("LOINC/")}
            known = sorted(code for code in loinc if (LOINC, code) in codes())
            if len({codes()[LOINC, code].variable for code in known}) == 1:
                found[code] = known[0]
    return found


def _metadata_of(file: Path) -> list[Path]:
    return [
        path for folder in list(file.parents)[:3] if (path := folder / "metadata" / "codes.parquet").is_file()
    ]
