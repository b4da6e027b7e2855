"""A first look at large exports: a column in another unit shows in their first rows, before all is read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ibt_deploy.batch.progress import LARGE
from ibt_deploy.batch.tables import open_tables
from ibt_deploy.batch.tables_files import HEAD_BYTES, MAGIC, arrow, compression_of, found_files, opened
from ibt_deploy.batch.tables_report import Report
from ibt_deploy.errors import InputError
from ibt_deploy.mapping.schema import Mapping
from ibt_deploy.readers.stays import PARQUET_MAGIC

MOST_FILES = 8
EXCERPT_BYTES = 1 << 24
EXCERPT_ROWS = 50_000


def first_look(
    paths: Sequence[Path], mapping: Mapping | None, *, work: Path, memory_mb: int
) -> Report | None:
    """The report over the first rows of the large files; None without any that can be read.

    Parameters
    ----------
    work
        Folder of the run; a folder in it is used and removed.
    memory_mb
        Limit for this process.
    """
    folder = work / "look"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        large = [path for path in found_files(paths) if _size(path) >= LARGE]
        excerpts = []
        for number, path in enumerate(large[:MOST_FILES]):
            excerpt = folder / f"{number}{path.suffix}"
            folder.mkdir(parents=True, exist_ok=True)
            if _cut(path, excerpt):
                excerpts.append(excerpt)
        if not excerpts:
            return None
        return open_tables(excerpts, mapping, work=folder, memory_mb=memory_mb).report
    except InputError:  # nothing in it can be used; the survey says what is wrong with which file
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _cut(path: Path, excerpt: Path) -> bool:
    """Write the first rows of ``path``; False where it cannot be read or is no table."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if head.startswith(PARQUET_MAGIC):
            return _cut_parquet(path, excerpt)
        if b"\0" in head and not head.startswith(tuple(MAGIC)):
            return False
        with opened(path, compression_of(head)) as stream:
            text = stream.read(EXCERPT_BYTES)
    except OSError:
        return False
    whole = max(text.rfind(b"\n"), text.rfind(b"\r"))
    excerpt.write_bytes(text[: whole + 1])
    return True


def _cut_parquet(path: Path, excerpt: Path) -> bool:
    pa = arrow()
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            rows = next(file.iter_batches(batch_size=EXCERPT_ROWS), None)
    except (pa.ArrowException, OSError, ValueError):
        return False
    if rows is None:
        return False
    pq.write_table(pa.Table.from_batches([rows]), excerpt)
    return True
