"""The documentation lists what it promises to list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CODE = re.compile(r'(?:code=|Notice\(\s*|default_code: ClassVar\[str\] = )"([a-z0-9_]+)"')
INTERNAL = {"input_error", "bad_units", "bad_sampling"}
"""Codes of classes whose every refusal has a code of its own."""


def test_every_reason_code_is_documented(root: Path) -> None:
    documented = {
        code
        for page in (root / "docs").glob("*.md")
        for code in re.findall(r"`([a-z0-9_]+)`", page.read_text(encoding="utf-8"))
    }
    stated = {
        code
        for path in (root / "ibt_deploy").rglob("*.py")
        for code in CODE.findall(path.read_text(encoding="utf-8"))
    }
    assert not stated - documented - INTERNAL


def test_relative_links_lead_somewhere(root: Path) -> None:
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_queries_of_the_batch_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'ibt[batch]'")
    page = (Path(__file__).parents[1] / "docs" / "batch.md").read_text(encoding="utf-8")
    (queries,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    rows = {
        "scores/predictions": "'a' AS record, 0.9 AS p_AF, true AS pos_AF, ['AF', 'LAD'] AS findings",
        "scores/refused": "'b' AS source, 'too_short' AS code, 'b: too short' AS message",
        "risks/predictions": "'p' AS record, 3 AS hour, true AS alarm, 0.2 AS risk",
    }
    for folder, row in rows.items():
        (tmp_path / folder).mkdir(parents=True)
        duckdb.sql(f"COPY (SELECT {row}) TO '{folder}/part-00000.parquet'")
    found = [duckdb.sql(query).fetchall() for query in queries.split(";") if query.strip()]
    assert [len(rows) for rows in found] == [1, 2, 1, 1]
