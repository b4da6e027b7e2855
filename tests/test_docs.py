"""What the documentation promises to list is listed."""

from __future__ import annotations

import re
from pathlib import Path

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
