"""OMOP CDM 5.4: MEASUREMENT, PERSON, VISIT_DETAIL, VISIT_OCCURRENCE as CSV, Parquet or a DuckDB file.

A stay is a visit to an intensive care unit (concept 32037); adjacent or overlapping details are one
stay. Measurements are mapped by the LOINC code of their standard concept, as stated in CONCEPT; without
that table the most common concepts are known (``data/ehr_codes.csv``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ibt_deploy.batch.tables.sql import text
from ibt_deploy.errors import MalformedFile
from ibt_deploy.files import File
from ibt_deploy.standards.events import LOINC, OMOP, Meaning, Source, codes, meaning, unit_flags
from ibt_deploy.standards.exports import DUCKDB_MAGIC, MAGIC_AT, OMOP_TABLES, is_database, table_of

FORMAT = "OMOP CDM"
REQUIRED = {
    "measurement": ("person_id", "measurement_concept_id", "value_as_number"),
    "person": ("person_id",),
}
ICU_VISITS = (32037, 581379)
"""Intensive Care; Inpatient Critical Care Facility."""

MALE, FEMALE = 8507, 8532
EQUALS = 4172703
UNITS = {
    8840: "mg/dL",
    8753: "mmol/L",
    8749: "umol/L",
    8876: "mm[Hg]",
    8554: "%",
    8645: "U/L",
    8923: "[IU]/L",
    8713: "g/dL",
    8636: "g/L",
    8555: "s",
    8848: "10*3/uL",
    9444: "10*9/L",
    9557: "meq/L",
    8842: "ng/mL",
    8541: "/min",
    8653: "Cel",
    586323: "Cel",
    9289: "[degF]",
    8482: "[pH]",
}
"""UCUM codes of unit concepts, for an export without CONCEPT."""

SEPARATOR = "\x1f"


def load(connection: Any, files: Sequence[File]) -> Source:
    """Fill ``events`` and ``stays`` from the tables of an export.

    Raises
    ------
    MalformedFile
        A required table or column is missing, or a file is in memory.
    """
    paths = [file for file in files if isinstance(file, Path)]
    if len(paths) < len(files):
        raise MalformedFile("OMOP tables are read from files on disk", code="not_on_disk")
    columns = _views(connection, paths)
    for table, needed in REQUIRED.items():
        missing = [name for name in needed if name not in columns.get(table, ())]
        if missing:
            what = f"has no column {missing[0]}" if table in columns else "is missing"
            raise MalformedFile(f"the table {table.upper()} {what}", code="missing_columns")
    _write_events(connection, columns["measurement"])
    _write_stays(connection, columns)
    loinc, ucum = _concepts(connection, columns)

    def meanings(code: str, unit: str | None) -> Meaning | str:
        concept, _, words = (unit or "").partition(SEPARATOR)
        stated = ucum.get(concept, words or None)
        if code in loinc:
            return meaning(LOINC, loinc[code], stated)
        return meaning(OMOP, code, stated)

    return Source(FORMAT, meanings)


def _views(connection: Any, paths: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Create a view ``omop_NAME`` for each table, and return its columns in lower case."""
    relations: dict[str, str] = {}
    databases = [path for path in paths if _is_database(path)]
    for number, path in enumerate(databases):
        connection.execute(f"ATTACH {text(str(path))} AS cdm{number} (READ_ONLY)")
        for schema, name in connection.execute(
            f"SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'cdm{number}'"
        ).fetchall():
            if name.casefold() in OMOP_TABLES:
                relations.setdefault(name.casefold(), f'cdm{number}."{schema}"."{name}"')
    shards: dict[str, list[Path]] = {}
    for path in paths:
        table = table_of(path)
        if table is not None and path not in databases:
            shards.setdefault(table, []).append(path)
    for table, found in shards.items():
        names = f"[{', '.join(text(str(path)) for path in found)}]"
        kinds = {path.suffix.casefold() == ".parquet" for path in found}
        if len(kinds) > 1:
            raise MalformedFile(
                f"the table {table.upper()} is there as CSV and as Parquet", code="mixed_table"
            )
        relations[table] = (
            f"read_parquet({names}, union_by_name = true)"
            if kinds == {True}
            else f"read_csv({names}, header = true, all_varchar = true, union_by_name = true)"
        )
    columns = {}
    for table, relation in relations.items():
        given = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
        listed = ", ".join(f'"{name}" AS {name.casefold()}' for name in given if name.isidentifier())
        connection.execute(f"CREATE OR REPLACE TEMP VIEW omop_{table} AS SELECT {listed} FROM {relation}")
        columns[table] = tuple(name.casefold() for name in given)
    return columns


def _is_database(path: Path) -> bool:
    with path.open("rb") as stream:
        return is_database(stream.read(MAGIC_AT + len(DUCKDB_MAGIC)))


def _time(columns: Sequence[str], name: str) -> str:
    """SQL expression for a timestamp; a date alone is not one."""
    choices = []
    if f"{name}_datetime" in columns:
        choices.append(f"TRY_CAST({name}_datetime AS TIMESTAMP)")
    if f"{name}_date" in columns and f"{name}_time" in columns:
        choices.append(f"TRY_CAST(CAST({name}_date AS VARCHAR) || ' ' || {name}_time AS TIMESTAMP)")
    return f"coalesce({', '.join(choices)})" if choices else "CAST(NULL AS TIMESTAMP)"


def _identifier(name: str) -> str:
    """An identifier as text; pandas writes integers as ``8867.0`` to CSV if some are missing."""
    return f"regexp_replace(CAST({name} AS VARCHAR), '\\.0+$', '')"


def _write_events(connection: Any, columns: Sequence[str]) -> None:
    value = "TRY_CAST(value_as_number AS DOUBLE)"
    if "operator_concept_id" in columns:
        operator = "TRY_CAST(operator_concept_id AS BIGINT)"
        value = f"CASE WHEN coalesce({operator}, 0) IN (0, {EQUALS}) THEN {value} END"
    concept = _identifier("unit_concept_id") if "unit_concept_id" in columns else "NULL"
    words = "CAST(unit_source_value AS VARCHAR)" if "unit_source_value" in columns else "NULL"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE events AS SELECT {_identifier('person_id')} AS patient,"
        f" {_time(columns, 'measurement')} AS time, {_identifier('measurement_concept_id')} AS code,"
        f" coalesce(nullif({concept}, '0'), '') || {text(SEPARATOR)} || coalesce({words}, '') AS unit,"
        f" {value} AS value FROM omop_measurement"
    )


def _write_stays(connection: Any, columns: Mapping[str, Sequence[str]]) -> None:
    """Write visits to an intensive care unit, merging adjacent ones."""
    concepts = ", ".join(map(str, ICU_VISITS))
    visits = []
    for table in ("visit_detail", "visit_occurrence"):
        found = columns.get(table, ())
        stem = table.removesuffix("_occurrence")
        if f"{stem}_concept_id" not in found:
            continue
        start, end = _time(found, f"{stem}_start"), _time(found, f"{stem}_end")
        outer = _identifier("visit_occurrence_id") if "visit_occurrence_id" in found else "NULL"
        site = _identifier("care_site_id") if "care_site_id" in found else "NULL"
        visits.append(
            f"SELECT {_identifier('person_id')} AS patient, {outer} AS outer_visit, {site} AS site,"
            f" {start} AS starts, {end} AS ends FROM omop_{table}"
            f" WHERE TRY_CAST({stem}_concept_id AS BIGINT) IN ({concepts}) AND {start} IS NOT NULL"
        )
    nothing = "NULL AS patient, NULL AS outer_visit, NULL AS site, NULL AS starts, NULL AS ends"
    icu = visits[0] if visits else f"SELECT {nothing} WHERE false"
    if len(visits) > 1 and not connection.execute(f"SELECT count(*) FROM ({icu})").fetchone()[0]:
        icu = visits[1]
    occurrence = columns.get("visit_occurrence", ())
    outer = (
        f"SELECT {_identifier('visit_occurrence_id')} AS outer_visit,"
        f" {_time(occurrence, 'visit_start')} AS entered FROM omop_visit_occurrence"
        if "visit_occurrence_id" in occurrence
        else "SELECT NULL AS outer_visit, CAST(NULL AS TIMESTAMP) AS entered WHERE false"
    )
    _write_sites(connection, columns.get("care_site", ()))
    person = columns["person"]
    birth = ["TRY_CAST(birth_datetime AS TIMESTAMP)"] if "birth_datetime" in person else []
    if {"year_of_birth", "month_of_birth", "day_of_birth"} <= set(person):
        parts = (f"TRY_CAST({part}_of_birth AS BIGINT)" for part in ("year", "month", "day"))
        birth.append(f"CAST(make_date({', '.join(parts)}) AS TIMESTAMP)")
    born = f"coalesce({', '.join(birth)})" if birth else "CAST(NULL AS TIMESTAMP)"
    year = "TRY_CAST(year_of_birth AS BIGINT)" if "year_of_birth" in person else "NULL"
    sex = "TRY_CAST(gender_concept_id AS BIGINT)" if "gender_concept_id" in person else "NULL"
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE stays AS
        WITH icu AS ({icu}), marked AS (
            SELECT *, starts > max(coalesce(ends, TIMESTAMP '9999-12-31')) OVER (
                PARTITION BY patient ORDER BY starts, ends ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) IS NOT FALSE AS is_new FROM icu
        ), numbered AS (
            SELECT *, sum(CAST(is_new AS INTEGER)) OVER (
                PARTITION BY patient ORDER BY starts, ends ROWS UNBOUNDED PRECEDING) AS number FROM marked
        ), stay AS (
            SELECT patient, number, min(starts) AS starts,
                CASE WHEN bool_or(ends IS NULL) THEN NULL ELSE max(ends) END AS ends,
                arg_min(outer_visit, starts) AS outer_visit, arg_min(site, starts) AS site
            FROM numbered GROUP BY patient, number
        ), outside AS (SELECT outer_visit, min(entered) AS entered FROM ({outer}) GROUP BY outer_visit),
        someone AS (
            SELECT {_identifier("person_id")} AS patient, {born} AS born, {year} AS year, {sex} AS sex
            FROM omop_person
        )
        SELECT patient || '-' || number AS stay, patient, starts, ends, entered AS hospital_admission,
            CASE WHEN born IS NOT NULL THEN round(date_diff('day', born, starts) / 365.25, 2)
                ELSE CAST(year(starts) - year AS DOUBLE) END AS age,
            CASE sex WHEN {MALE} THEN 1.0 WHEN {FEMALE} THEN 0.0 END AS gender,
            unit1, unit2
        FROM stay LEFT JOIN sites USING (site) LEFT JOIN outside USING (outer_visit)
        LEFT JOIN someone USING (patient)
        """
    )


def _write_sites(connection: Any, columns: Sequence[str]) -> None:
    """Write the table ``sites``: Unit1 and Unit2 of each ward that CARE_SITE names."""
    connection.execute("CREATE OR REPLACE TEMP TABLE sites(site VARCHAR, unit1 DOUBLE, unit2 DOUBLE)")
    if {"care_site_id", "care_site_name"} <= set(columns):
        rows = connection.execute(
            f"SELECT DISTINCT {_identifier('care_site_id')}, care_site_name FROM omop_care_site"
        ).fetchall()
        for site, name in rows:
            connection.execute("INSERT INTO sites VALUES (?, ?, ?)", [site, *unit_flags(str(name))])


def _concepts(connection: Any, columns: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], dict[str, str]]:
    """LOINC codes of measurement concepts, and UCUM codes of unit concepts."""
    ucum = {str(concept): unit for concept, unit in UNITS.items()}
    if not {"concept_id", "concept_code", "vocabulary_id"} <= set(columns.get("concept", ())):
        return {}, ucum
    known = ", ".join(text(row.code) for row in codes().values() if row.system == LOINC)
    rows = connection.execute(
        f"SELECT {_identifier('concept_id')}, vocabulary_id, concept_code FROM omop_concept "
        f"WHERE vocabulary_id = 'UCUM' OR (vocabulary_id = 'LOINC' AND concept_code IN ({known}))"
    ).fetchall()
    loinc = {concept: code for concept, vocabulary, code in rows if vocabulary == LOINC}
    return loinc, ucum | {concept: code for concept, vocabulary, code in rows if vocabulary == "UCUM"}
