from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

from ibt_deploy import __version__
from ibt_deploy.cli import group as module
from ibt_deploy.cli import main
from ibt_deploy.errors import MissingExtra, missing_extra


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two third-party commands: one that works, one whose package is not installed."""
    good = ModuleType("good_commands")
    good.hello = click.Command("hello", callback=lambda: click.echo("hi"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "good_commands", good)
    found = {
        "hello": EntryPoint("hello", "good_commands:hello", module.ENTRY_POINTS),
        "train": EntryPoint("train", "torch.absent:train", module.ENTRY_POINTS),
        "broken": EntryPoint("broken", "good_commands:__name__", module.ENTRY_POINTS),
    }
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(module, "_entry_points", lambda: found)


def test_version(root: Path) -> None:
    first, *models = run("--version").output.splitlines()
    assert first == f"ibt, version {__version__}"
    assert models == [
        f"{task}: {found['name']} {found['version']}"
        for task in ("arrhythmia", "sepsis")
        for found in [json.loads((root / "ibt_deploy" / "bundles" / task / "bundle.json").read_text())]
    ]


def test_help_lists_every_command_without_importing_it(entry: None) -> None:
    output = run("--help").output
    for name in (*module.OWN, "hello", "train"):
        assert f"\n  {name} " in output
    assert "not a medical device" in output
    assert "Exit status" in output


@pytest.mark.parametrize("name", list(module.OWN))
def test_every_command_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"ibt {name}" in result.output
    assert "Examples:" in result.output


def test_commands_of_other_packages_are_found(entry: None) -> None:
    assert run("hello").output == "hi\n"


def test_a_missing_extra_is_named(entry: None) -> None:
    result = run("train")
    assert result.exit_code == 2
    assert result.stderr == "ibt: 'ibt train' needs torch, which is not installed: pip install 'ibt[train]'\n"


def test_an_entry_point_that_is_no_command_is_named(entry: None) -> None:
    result = run("broken")
    assert result.exit_code == 2
    assert "is not a command" in result.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    assert run("foo").exit_code == 2


def test_a_module_that_no_extra_brings_is_broken_not_missing() -> None:
    error = ModuleNotFoundError("No module named 'ibt_deploy.gone'", name="ibt_deploy.gone")
    with pytest.raises(ModuleNotFoundError):
        missing_extra(error, "x")
    found = missing_extra(ModuleNotFoundError("x", name="matplotlib.figure"), "a plot")
    assert isinstance(found, MissingExtra)
    assert "ibt[plot]" in str(found)
