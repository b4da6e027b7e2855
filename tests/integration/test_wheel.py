"""What a wheel installs, and that its commands work next to folders of the same names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("ibt_deploy", "training", "export", "serving")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(root / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", out, source],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_has_one_package_at_its_top(root: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"ibt_deploy"}
    for package in PACKAGES:
        below = "" if package == "ibt_deploy" else "ibt_deploy/wings/"
        sources = {f"{below}{p.relative_to(root).as_posix()}" for p in (root / package).rglob("*.py")}
        assert sources <= names
    recipes = {
        f"ibt_deploy/wings/training/recipes/{p.name}" for p in (root / "training" / "recipes").glob("*.toml")
    }
    assert recipes <= names
    assert "ibt_deploy/wings/serving/page/index.html" in names


@pytest.mark.slow
def test_commands_of_a_wheel_work_beside_folders_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)],
        check=True, timeout=600,
    )  # fmt: skip
    here = tmp_path / "mine"
    for name in ("training", "serving", "export"):
        (here / name).mkdir(parents=True)
        (here / name / "__init__.py").write_text("raise RuntimeError('not this one')\n", encoding="utf-8")

    def run(code: str) -> str:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(("", str(site)))}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = "import sys; sys.argv[1:] = {!r}; from ibt_deploy.cli import main; main()"
    assert "sepsis-bbm" in run(command.format(["train", "recipes"]))
    for name in ("export", "serve", "reproduce"):
        assert "Usage" in run(command.format([name, "--help"]))
    examples = (
        "from ibt_deploy.wings import on_path; on_path(); from export.build import EXAMPLES; print(EXAMPLES)"
    )
    folder = Path(run(examples).strip())
    assert folder.is_relative_to(site)
    assert all((folder / name).is_file() for name in ("recording.hea", "recording.dat", "stay.psv"))
    where = "from ibt_deploy.wings import on_path; on_path(); import training; print(training.__file__)"
    assert str(site / "ibt_deploy" / "wings") in run(where)
