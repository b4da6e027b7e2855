"""Project files: the command-line page, the site, the citation, the workflows."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")


def loaded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def project(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_the_page_of_the_command_line_is_what_help_prints(root: Path) -> None:
    pinned = re.search(
        r"^click==(\S+)$", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert pinned is not None
    if importlib.metadata.version("click") != pinned.group(1):
        pytest.skip(f"the page is that of click {pinned.group(1)}")
    # in a separate process: click caches a command's help option as another test first requested it
    script = "import sys; from cli_page import cli_page; sys.stdout.buffer.write(cli_page().encode())"
    environment = os.environ | {"PYTHONPATH": f"{root / 'docs'}{os.pathsep}{root}"}
    made = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    stored = (root / "docs" / "cli.md").read_text(encoding="utf-8")
    assert stored == made.stdout.decode(), "run: python docs/cli_page.py"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=root, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.parent.name for path in (tmp_path / "site").rglob("index.html")}
    assert {"cli", "api", "standards", "arrhythmia", "sepsis", "score_an_ecg"} <= pages


@pytest.mark.slow
def test_spelling(root: Path) -> None:
    pytest.importorskip("codespell_lib")
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib"], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout


def test_the_citation_names_the_version_and_the_licence(root: Path) -> None:
    citation = loaded(root / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == project(root)["version"]
    assert citation["license"] == project(root)["license"]
    assert {"message", "title", "authors"} <= set(citation)


def test_workflows_use_what_exists(root: Path) -> None:
    extras = set(project(root)["optional-dependencies"])
    for path in sorted((root / ".github" / "workflows").glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        found = loaded(path)
        assert all("runs-on" in job and job["steps"] for job in found["jobs"].values())
        for group in re.findall(r"\[([a-z,]+)\]'", text):
            assert set(group.split(",")) <= extras, path.name
        assert found["permissions"] == {"contents": "read"}
    matrix = loaded(root / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix[0] == project(root)["requires-python"].removeprefix(">=")


def test_forms_are_complete(root: Path) -> None:
    for path in (root / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        if path.stem != "config":
            form = loaded(path)
            assert {"name", "description", "body"} <= set(form)
            ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
            assert len(set(ids)) == len(ids)


def test_pre_commit_runs_the_pinned_versions(root: Path) -> None:
    pins = (root / "constraints.txt").read_text(encoding="utf-8")
    for repository in loaded(root / ".pre-commit-config.yaml")["repos"]:
        name = repository["repo"].rsplit("/", 1)[-1].removesuffix("-pre-commit")
        assert f"{name}=={repository['rev'].removeprefix('v')}" in pins
