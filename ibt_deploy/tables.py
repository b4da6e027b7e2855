"""Read the tables that travel inside the package, with the standard library alone."""

from __future__ import annotations

import csv
from importlib.resources import files


def read_table(name: str) -> list[dict[str, str]]:
    """Rows of ``ibt_deploy/data/<name>`` as dictionaries keyed by the header line."""
    text = files("ibt_deploy").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
