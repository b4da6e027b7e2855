"""The embedded engine, within a limit of memory and a folder for what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ibt_deploy.batch.tables_sql import text
from ibt_deploy.errors import BatchError, MissingExtra
from ibt_deploy.printable import one_line

RESERVED_MB = 300
"""Memory of the process besides the engine's own: interpreter, libraries, buffers of a reader."""

LEAST_MB = 512


@contextmanager
def engine(folder: Path, memory_mb: int, threads: int | None) -> Iterator[Any]:
    """A connection that keeps to a limit of memory and spills into ``folder``.

    Raises
    ------
    BatchError
        Disk or memory do not suffice, or the limit is too low.
    MissingExtra
        DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("tables need duckdb: pip install 'ibt[batch]'") from error
    if memory_mb < LEAST_MB:
        raise BatchError(f"a memory limit of {memory_mb} MB is too low; give at least {LEAST_MB}")
    spill = folder / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    settings = {
        "memory_limit": f"{memory_mb - RESERVED_MB}MiB",
        "temp_directory": str(spill),
        "preserve_insertion_order": "true",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "TimeZone": "UTC",
    }
    if threads is not None:
        settings["threads"] = str(threads)
    connection = duckdb.connect(":memory:")
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = {text(value)}")
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise BatchError(f"{folder}: {one_line(error)}; give more memory or disk") from error
    except duckdb.IOException as error:
        raise BatchError(f"{folder}: {one_line(error)}") from error
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)
