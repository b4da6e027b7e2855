"""Recipes: refusals, overrides, and that every default can be written out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ibt_deploy.errors import RecipeError
from training.distil import boundaries
from training.recipe import Recipe, load_recipe, override, recipe_from_dict, toml_lines

MINIMAL = {"task": "sepsis", "method": "bbm"}


def with_value(dotted: str, value: object) -> dict[str, object]:
    table: dict[str, object] = dict(MINIMAL)
    section, _, key = dotted.rpartition(".")
    if section:
        table[section] = {key: value}
    else:
        table[key] = value
    return table


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("fit.learning_rate", 1e-3, "fit.learning_rate: unknown key; known are batch_size"),
        ("speed", 1, "speed: unknown key"),
        ("fit.epochs", 3.5, "fit.epochs: int is expected, not 3.5"),
        ("fit.epochs", True, "fit.epochs: int is expected"),
        ("fit.epochs", "3", "fit.epochs: int is expected"),
        ("fit.lr", "fast", "fit.lr: float is expected"),
        ("fit.lr", False, "fit.lr: float is expected"),
        ("bbm.standardise", 1, "bbm.standardise: bool is expected"),
        ("bbm.group_weights", 1.0, "bbm.group_weights: a list is expected"),
        ("bbm.group_weights", [1.0, "x", 1.0], "bbm.group_weights.1.: float is expected"),
        ("fit", 3, "fit: a table is expected"),
        ("task", "diabetes", "task: 'diabetes' is not one of 'arrhythmia', 'sepsis'"),
        ("bbm.schedule", "later", "bbm.schedule: 'later' is not one of 'joint'"),
        ("fit.lr", 0.0, "fit.lr: 0.0 is not in .0, inf."),
        ("fit.lr", float("nan"), "fit.lr: nan is not in"),
        ("fit.lr", float("inf"), "fit.lr: inf is not in"),
        ("fit.epochs", 0, "fit.epochs"),
        ("fit.batch_size", 0, "fit.batch_size"),
        ("student.dropout", 1.0, "student.dropout"),
        ("augment.magnitude", 11, "augment.magnitude"),
        ("data.train_fraction", 0.0, "data.train_fraction"),
        ("data.max_hours", 337, "data.max_hours"),
        ("data.band", [40.0], "data.band"),
        ("data.band", [40.0, 0.5], "data.band"),
        ("data.drop_variables", ["HR", "Pulse"], "data.drop_variables: Pulse"),
        ("student.dim", 100, "student.dim: 100 cannot be shared among 8 heads"),
        ("bbm.group_weights", [1.0, 1.0], "bbm.group_weights: 2 weights for 3 groups"),
        ("bbm.group_weights", [1.0, -1.0, 1.0], r"bbm.group_weights\[1\]: -1.0 is not in .0, inf."),
        ("data.band", [0.5, float("nan")], r"data.band\[1\]: nan is not in"),
        ("fit.lr", 10**400, "fit.lr: inf is not in"),
    ],
)
def test_a_slip_of_the_pen_is_refused(dotted: str, value: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from_dict(with_value(dotted, value))


def test_task_and_method_are_required() -> None:
    with pytest.raises(RecipeError, match="method"):
        recipe_from_dict({"task": "sepsis"})


def test_whole_numbers_serve_as_floats() -> None:
    assert recipe_from_dict(with_value("fit.lr", 1)).fit.lr == 1.0


def test_every_number_has_a_range() -> None:
    lines = "\n".join(toml_lines(recipe_from_dict(MINIMAL))).splitlines()
    numbers = [line for line in lines if re.match(r"\w+ = -?\d", line)]
    assert len(numbers) > 40
    assert [line for line in numbers if "  # in " not in line] == []


def test_overrides_are_written_as_in_toml() -> None:
    recipe = override(
        recipe_from_dict(MINIMAL),
        {
            "fit.lr": "3e-4",
            "fit.epochs": "7",
            "bbm.schedule": "two_stage",
            "bbm.group_weights": "[1, 2.5, 0]",
            "bbm.standardise": "false",
            "task": '"sepsis"',
            "data.drop_variables": '["ICULOS"]',
        },
    )
    assert (recipe.fit.lr, recipe.fit.epochs, recipe.bbm.schedule) == (3e-4, 7, "two_stage")
    assert recipe.bbm.group_weights == (1.0, 2.5, 0.0)
    assert recipe.bbm.standardise is False
    assert recipe.data.drop_variables == ("ICULOS",)
    assert recipe.fit.batch_size == recipe_from_dict(MINIMAL).fit.batch_size


def test_an_override_of_a_section_replaces_it() -> None:
    recipe = override(recipe_from_dict({**MINIMAL, "fit": {"epochs": 7}}), {"fit": "{lr = 1e-4}"})
    assert (recipe.fit.lr, recipe.fit.epochs) == (1e-4, recipe_from_dict(MINIMAL).fit.epochs)


@pytest.mark.parametrize("dotted", ["fit.rate", "nothing.lr", "fit.lr.peak", "rate"])
def test_overrides_of_unknown_keys_are_refused(dotted: str) -> None:
    with pytest.raises(RecipeError, match="unknown key"):
        override(recipe_from_dict(MINIMAL), {dotted: "1"})


def test_a_recipe_survives_plain_data_and_its_hash_tells_recipes_apart() -> None:
    recipe = recipe_from_dict(MINIMAL)
    assert recipe_from_dict(recipe.to_dict()) == recipe
    assert recipe_from_dict({**MINIMAL, "seed": 1}).sha256 != recipe.sha256
    assert recipe_from_dict({**MINIMAL, "bbm": {"weight": 1}}).sha256 == recipe.sha256


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_text("task = ", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        load_recipe(bad)
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"bad\.toml"):
        load_recipe(bad)


def test_every_packaged_recipe_is_valid_and_says_what_it_is(root: Path) -> None:
    recipes = sorted((root / "training" / "recipes").glob("*.toml"))
    assert recipes
    for path in recipes:
        recipe = load_recipe(path)
        assert path.stem.startswith(recipe.task)
        assert path.read_text(encoding="utf-8").startswith("# ")


def test_groups_are_as_even_as_the_units_divide() -> None:
    def pairs(task: str, groups: int, teacher: int, student: int) -> tuple[tuple[int, int], ...]:
        recipe: Recipe = recipe_from_dict({"task": task, "method": "bbm", "bbm": {"groups": groups}})
        return boundaries(recipe, teacher, student)

    assert pairs("arrhythmia", 0, 16, 8) == ((4, 2), (8, 4), (12, 6), (16, 8))
    assert pairs("arrhythmia", 2, 16, 8) == ((8, 4), (16, 8))
    assert pairs("arrhythmia", 1, 16, 8) == ((16, 8),)
    assert pairs("sepsis", 0, 3, 3) == ((1, 1), (2, 2), (3, 3))
    with pytest.raises(RecipeError, match=r"bbm\.groups"):
        pairs("arrhythmia", 3, 16, 8)
