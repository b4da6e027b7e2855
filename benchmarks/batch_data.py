"""Exports to score: copies of recordings under other names, and a table as another hospital writes it."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAPPING = """
[table]
patient = "case"
hospital = "site"
label = "SepsisLabel"

[time]
column = "icu_hour"
"""
UNITS: dict[str, tuple[str, str]] = {
    "Temp": ("degF", '"Temp"::DOUBLE * 1.8 + 32'),
    "Glucose": ("mmol/L", '"Glucose"::DOUBLE / 18.0156'),
    "Creatinine": ("umol/L", '"Creatinine"::DOUBLE * 88.402'),
    "Hgb": ("g/L", '"Hgb"::DOUBLE * 10'),
}
"""Variables that the other table has in other units, and how its values are made."""


def linked_copies(headers: list[Path], folder: Path, count: int) -> None:
    """``count`` records in ``folder``, a thousand in each sub-folder, under names of their own.

    New headers hold the new names; the signal files are links to the originals.
    """
    for number in range(count):
        header = headers[number % len(headers)]
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        text = header.read_text(encoding="utf-8", errors="surrogateescape")
        name = f"copy{number:06d}"
        for signal in sorted({line.split()[0] for line in text.splitlines()[1:] if _is_signal(line)}):
            other = signal.replace(header.stem, name) if header.stem in signal else f"{name}_{signal}"
            text = re.sub(rf"^{re.escape(signal)}(?=\s)", other, text, flags=re.MULTILINE)
            _linked(header.with_name(signal), place / other)
        first, _, rest = text.partition("\n")
        record = re.sub(r"^\S+?(?=(\.mat|/\d+)?\s)", name, first)
        (place / f"{name}.hea").write_text(f"{record}\n{rest}", encoding="utf-8", errors="surrogateescape")


def renamed_csv(parquet: Path, folder: Path, times: int = 1) -> tuple[Path, Path]:
    """The table as one shuffled CSV with other column names and units, and its mapping.

    ``times`` as many stays are made by giving each copy patient names of its own.
    """
    import duckdb

    from ibt_deploy.vocabulary import NAMES

    connection = duckdb.connect()
    connection.execute("SET memory_limit = '1GB'")
    connection.execute(f"SET temp_directory = '{folder}'")
    columns = ["concat('n', copy, '-', patient_id) AS \"case\"", "hospital AS site", '"ICULOS" AS icu_hour']
    lines = [MAPPING]
    for name in NAMES:
        if name == "ICULOS":
            continue
        unit, made = UNITS.get(name, ("", f'"{name}"'))
        if name == "Gender":
            columns.append("CASE WHEN \"Gender\" = 1 THEN 'm' WHEN \"Gender\" = 0 THEN 'f' END AS sex")
            lines.append('[columns.Gender]\ncolumn = "sex"\nmale = ["m"]\nfemale = ["f"]\n')
            continue
        columns.append(f'{made} AS "x_{name}"')
        wanted = f'unit = "{unit}"' if unit else "factor = 1.0"
        lines.append(f'[columns.{name}]\ncolumn = "x_{name}"\n{wanted}\n')
    columns.append('"SepsisLabel"')
    table, mapping = folder / f"renamed{times}.csv", folder / "mapping.toml"
    connection.execute(
        f"COPY (SELECT {', '.join(columns)} FROM read_parquet('{parquet}'), range({times}) t(copy) "
        f"ORDER BY hash(copy, patient_id, hour)) TO '{table}' (HEADER)"
    )
    mapping.write_text("\n".join(lines), encoding="utf-8")
    return table, mapping


def _is_signal(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _linked(target: Path, link: Path) -> None:
    try:
        os.link(target, link)
    except OSError:  # another file system, or links to others' files are forbidden
        link.symlink_to(target.resolve())
