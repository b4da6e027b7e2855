"""The recipes that travel with the package, and a recipe written out in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ibt_deploy.errors import RecipeError
from training.recipe import Recipe, load_recipe
from training.recipe_checks import RANGES


def packaged_recipes() -> dict[str, Path]:
    """Files of the packaged recipes by name, sorted."""
    folder = Path(str(files("training").joinpath("recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def recipe_path(name: str) -> Path:
    """The recipe of a packaged name, or else the file ``name``.

    Raises
    ------
    RecipeError
        Neither exists.
    """
    packaged = packaged_recipes()
    if name in packaged:
        return packaged[name]
    path = Path(name)
    if not path.is_file():
        raise RecipeError(f"{name}: neither a file nor a packaged recipe; these are {', '.join(packaged)}")
    return path


def summary_line(path: Path) -> str:
    """The comment in the first line of a recipe."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def find_recipe(name: str, assignments: Mapping[str, str] | None = None) -> Recipe:
    """The packaged or own recipe ``name`` with overrides."""
    return load_recipe(recipe_path(name), assignments)


def toml_lines(recipe: Recipe) -> list[str]:
    """The whole recipe as TOML; comments give choices, ranges, and defaults that are departed from."""
    return _table_lines(recipe, "")


def _table_lines(table: Any, section: str) -> list[str]:
    hints = get_type_hints(type(table))
    lines, sections = [f"[{section}]"] if section else [], []
    for field in fields(table):
        value = getattr(table, field.name)
        if is_dataclass(value):
            sections += ["", *_table_lines(value, field.name)]
            continue
        notes = []
        if get_origin(hints[field.name]) is Literal:
            notes.append(" | ".join(map(str, get_args(hints[field.name]))))
        elif interval := RANGES.get(f"{section}.{field.name}" if section else field.name):
            notes.append(f"in {interval}")
        if field.default is not MISSING and field.default != value:
            notes.append(f"default {_toml(field.default)}")
        comment = f"  # {'; '.join(notes)}" if notes else ""
        lines.append(f"{field.name} = {_toml(value)}{comment}")
    return lines + sections


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)
