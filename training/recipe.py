"""A recipe: everything about one training run, in a TOML file.

Every key has a default. An unknown key, a value of the wrong type, out of range or not among the choices is
refused, so that a typo cannot train the wrong thing.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ibt_deploy.errors import RecipeError
from ibt_deploy.types import Task
from ibt_deploy.vocabulary import NAMES

METHODS: dict[str, dict[str, Any]] = {
    "teacher": {"method": "teacher"},
    "transformer": {"method": "transformer"},
    "bbm": {"method": "bbm"},
    "deit-soft": {"method": "deit", "deit": {"variant": "soft"}},
    "deit-hard": {"method": "deit", "deit": {"variant": "hard"}},
}
"""The arms of the paper's Table 2, each with what it changes of a recipe."""
N_GROUPS = {"arrhythmia": 4, "sepsis": 3}
"""Matched groups of a task where ``bbm.groups`` is 0."""


@dataclass(frozen=True)
class DataRecipe:
    """What the networks see.

    ``features``: rows of stays, ``full`` (109) or ``values40``. ``scale``: every feature standardised over
    the training rows, or left in the units of the specification. ``label``, in training only: ``official``,
    ``h12`` (1 from six rows earlier) or ``utility`` (1 where the Challenge's utility pays an alarm, each row
    weighted by what the decision is worth there). ``band``: zero-phase pass band of ECGs in Hz, empty for
    none. ``max_hours``: longest stretch of a stay seen at once. ``train_fraction``: share of the training
    part used (learning curves). ``drop_variables``: columns of stays hidden from the networks (ablation).
    ``sites``: hospitals of stays or sources of ECGs to train and select on, empty for all; the test part
    stays whole, so that the others can be scored as external. ``label_mask``: ``none`` takes an absent label
    as negative, as the official metric does; ``source`` leaves out of the loss the classes that a source of
    ECGs never has in the training part. ``soft_weight``: share of an ensemble's probabilities in the labels.
    ``refit``: learn from the validation part as well, once everything has been chosen on it.
    """

    features: Literal["full", "values40"] = "full"
    scale: Literal["standard", "specified"] = "standard"
    label: Literal["official", "h12", "utility"] = "official"
    band: tuple[float, ...] = ()
    max_hours: int = 336
    train_fraction: float = 1.0
    drop_variables: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    label_mask: Literal["none", "source"] = "none"
    soft_weight: float = 0.0
    refit: bool = False


@dataclass(frozen=True)
class ResNetRecipe:
    """The ECG teacher (science 1.3)."""

    n_blocks: int = 16
    base_filters: int = 32
    kernel: int = 16
    dropout: float = 0.2
    pad_to: int = 0


@dataclass(frozen=True)
class LSTMRecipe:
    """The EHR teacher. ``projection``: a linear map of the rows gives the first layer a residual as well."""

    hidden: int = 256
    n_layers: int = 3
    dropout: float = 0.0
    projection: bool = True


@dataclass(frozen=True)
class StudentRecipe:
    """The transformer.

    ``depth`` 0 means the task's own: 8 blocks for ECG, 3 for EHR. ``patch``: samples of an ECG patch, 20
    (100 ms) in the paper. ``embedding_scale``: factor of a stay's embedded rows before positions are added.
    """

    dim: int = 256
    depth: int = 0
    heads: int = 8
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    patch: int = 20
    embedding_scale: float = 4.0
    readout: Literal["mean", "cls"] = "mean"


@dataclass(frozen=True)
class DeiTRecipe:
    """Response distillation (science 3.3).

    ``alpha``: weight of the distillation term; ``tau``: temperature of the soft variant; ``ehr``: one query
    per hour, or two heads on each row.
    """

    variant: Literal["soft", "hard"] = "soft"
    alpha: float = 0.5
    tau: float = 1.0
    ehr: Literal["queries", "two_heads"] = "queries"


@dataclass(frozen=True)
class BBMRecipe:
    """Block-by-block matching.

    ``groups``: number of matched groups, 0 for the task's own (4 for ECG, 3 for EHR). ``weight``: lambda.
    ``w1``, ``w2``, ``w3``: weights of Eq. 2, 3 and 4. ``groups_per_step``: for how many groups beyond the
    first a step computes Eq. 2 and 3, drawn at random and weighted so that the expected loss is the same;
    0 for all. ``deviation_floor``: least standard deviation of a teacher channel, as a share of its group's
    median. ``group_weights``: one per group, empty for all 1.
    ``schedule``: ``joint``, ``two_stage`` (matching alone for the first half, then the task alone) or
    ``cosine_to_zero``. ``alpha_kd``: weight of an added response distillation.
    ``pairing``: ``shuffled`` shows the teacher another record of the batch (control). ``teacher``:
    ``untrained`` matches a teacher with random weights, so that the effect of architecture stands apart from
    that of training (control).
    """

    groups: int = 0
    weight: float = 1.0
    w1: float = 1.0
    w2: float = 1.0
    w3: float = 1.0
    groups_per_step: int = 0
    deviation_floor: float = 1e-3
    group_weights: tuple[float, ...] = ()
    reduction: Literal["mean", "sum"] = "mean"
    standardise: bool = True
    standardise_rows: int = 50_000
    l1_norm: Literal["none", "layernorm"] = "none"
    detach_block_inputs: bool = False
    h_bias: bool = False
    resize: Literal["area", "linear"] = "area"
    schedule: Literal["joint", "two_stage", "cosine_to_zero"] = "joint"
    alpha_kd: float = 0.0
    pairing: Literal["same", "shuffled"] = "same"
    teacher: Literal["trained", "untrained"] = "trained"


@dataclass(frozen=True)
class AugmentRecipe:
    """What training does to ECGs.

    ``n_ops`` RandAugment operations of shared ``magnitude`` 0 to 10. ``shortest_crop``: every batch is cut to
    a length drawn between this many seconds and ten, at random places; 10 leaves all at ten seconds.
    """

    n_ops: int = 2
    magnitude: float = 3.0
    shortest_crop: float = 5.0


@dataclass(frozen=True)
class FitRecipe:
    """Optimiser and schedule (science 5.1).

    ``batch_size`` counts ECGs or patients. Warm-up lasts ``min(warmup_epochs, warmup_fraction * all steps)``;
    the cosine ends at ``final_lr`` of the peak. Early stopping after ``patience`` epochs without a better
    selection metric, never before ``min_epochs``. ``precision`` ``auto`` means bf16 on CUDA and on CPUs
    that compute in it, otherwise fp32. ``ema``: decay per step of a running average of the weights, which is
    then what is validated and kept; 0 for none. ``select``: what the best epoch is best at on validation: the
    task's ``official`` metric, ``auroc``, ``bce``, or ``last`` for the final epoch, regardless of its scores.
    """

    batch_size: int = 128
    epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    warmup_epochs: float = 10.0
    warmup_fraction: float = 0.1
    final_lr: float = 0.01
    clip_norm: float = 1.0
    patience: int = 15
    min_epochs: int = 20
    ema: float = 0.0
    select: Literal["official", "auroc", "bce", "last"] = "official"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "off"


@dataclass(frozen=True)
class Recipe:
    """One training run. Only the sections that the task and the method use have an effect."""

    task: Task
    method: Literal["teacher", "transformer", "deit", "bbm"]
    seed: int = 0
    data: DataRecipe = field(default_factory=DataRecipe)
    resnet: ResNetRecipe = field(default_factory=ResNetRecipe)
    lstm: LSTMRecipe = field(default_factory=LSTMRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    deit: DeiTRecipe = field(default_factory=DeiTRecipe)
    bbm: BBMRecipe = field(default_factory=BBMRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    fit: FitRecipe = field(default_factory=FitRecipe)

    @property
    def needs_teacher(self) -> bool:
        """Whether training asks for a teacher's checkpoint."""
        return self.method == "deit" or (self.method == "bbm" and self.bbm.teacher == "trained")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and checkpoints."""
        return asdict(self)

    @property
    def sha256(self) -> str:
        """Hash of the whole recipe, defaults included."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _value(value: Any, hint: Any, path: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{path}: a table is expected, not {value!r}")
        return _from_mapping(value, hint, path)
    if origin is Literal:
        if value not in get_args(hint):
            raise RecipeError(f"{path}: {value!r} is not one of {', '.join(map(repr, get_args(hint)))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecipeError(f"{path}: a list is expected, not {value!r}")
        return tuple(_value(v, get_args(hint)[0], f"{path}[{i}]") for i, v in enumerate(value))
    if origin in (Union, types.UnionType):
        raise AssertionError(f"{path}: recipes have no union fields")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise RecipeError(f"{path}: {hint.__name__} is expected, not {value!r}")
    return value


def _from_mapping(table: Mapping[str, Any], cls: type[Any], path: str) -> Any:
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key in table:
        if key not in known:
            raise RecipeError(f"{path + '.' if path else ''}{key}: unknown key; known are {', '.join(known)}")
    values = {k: _value(v, hints[k], f"{path}.{k}" if path else k) for k, v in table.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise RecipeError(f"{path or 'recipe'}: {error}") from error


def recipe_from_dict(table: Mapping[str, Any]) -> Recipe:
    """Recipe from plain data; raises RecipeError for anything unknown or impossible."""
    recipe: Recipe = _from_mapping(table, Recipe, "")
    refuse_impossible(recipe.to_dict())
    return recipe


def override(recipe: Recipe, assignments: Mapping[str, str]) -> Recipe:
    """Recipe with dotted keys replaced by values written as in TOML; bare words are strings."""
    table = recipe.to_dict()
    for dotted, text in assignments.items():
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *sections, key = dotted.split(".")
        node = table
        for section in sections:
            if not isinstance(node.get(section), dict):
                raise RecipeError(f"{dotted}: unknown key")
            node = node[section]
        node[key] = value
    return recipe_from_dict(table)


def load_recipe(path: Path, assignments: Mapping[str, str] | None = None) -> Recipe:
    """Recipe from a TOML file, with command-line overrides."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from error
    return override(recipe_from_dict(table), assignments or {})


RANGES: dict[str, str] = {
    "seed": "[0, inf)",
    "data.max_hours": "[1, 336]",
    "data.train_fraction": "(0, 1]",
    "data.soft_weight": "[0, 1]",
    "resnet.n_blocks": "[1, inf)",
    "resnet.base_filters": "[1, inf)",
    "resnet.kernel": "[1, inf)",
    "resnet.dropout": "[0, 1)",
    "resnet.pad_to": "[0, inf)",
    "lstm.hidden": "[1, inf)",
    "lstm.n_layers": "[1, inf)",
    "lstm.dropout": "[0, 1)",
    "student.dim": "[2, inf)",
    "student.depth": "[0, inf)",
    "student.heads": "[1, inf)",
    "student.mlp_ratio": "(0, inf)",
    "student.dropout": "[0, 1)",
    "student.patch": "[1, 2000]",
    "student.embedding_scale": "(0, inf)",
    "deit.alpha": "[0, 1]",
    "deit.tau": "(0, inf)",
    "bbm.groups": "[0, inf)",
    "bbm.weight": "[0, inf)",
    "bbm.w1": "[0, inf)",
    "bbm.w2": "[0, inf)",
    "bbm.w3": "[0, inf)",
    "bbm.groups_per_step": "[0, inf)",
    "bbm.deviation_floor": "[0, inf)",
    "bbm.group_weights": "[0, inf)",
    "bbm.standardise_rows": "[1, inf)",
    "bbm.alpha_kd": "[0, inf)",
    "augment.n_ops": "[0, inf)",
    "augment.magnitude": "[0, 10]",
    "augment.shortest_crop": "[1, 10]",
    "fit.batch_size": "[1, inf)",
    "fit.epochs": "[1, inf)",
    "fit.lr": "(0, inf)",
    "fit.weight_decay": "[0, inf)",
    "fit.beta1": "[0, 1)",
    "fit.beta2": "[0, 1)",
    "fit.eps": "(0, inf)",
    "fit.warmup_epochs": "[0, inf)",
    "fit.warmup_fraction": "[0, 1]",
    "fit.final_lr": "[0, 1]",
    "fit.clip_norm": "(0, inf)",
    "fit.patience": "[1, inf)",
    "fit.min_epochs": "[0, inf)",
    "fit.ema": "[0, 1)",
}
"""Interval of each number, in the notation of mathematics."""

HIGHEST_BAND_EDGE = 100.0


def is_within(value: float, interval: str) -> bool:
    """Whether ``value`` lies in an ``interval`` such as ``"[0, 1)"``; NaN lies in none."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    return above and below and not math.isnan(value)


def refuse_impossible(table: Mapping[str, Any]) -> None:
    """Check the plain data of a whole recipe, defaults included.

    Raises
    ------
    RecipeError
        A number out of range, or values that exclude each other.
    """
    for dotted, interval in RANGES.items():
        section, _, key = dotted.rpartition(".")
        value = (table[section] if section else table)[key]
        for number in value if isinstance(value, list | tuple) else (value,):
            if not is_within(number, interval):
                raise RecipeError(f"{dotted}: {number} is not in {interval}")
    if 2000 % table["student"]["patch"]:
        raise RecipeError(f"student.patch: {table['student']['patch']} does not divide 2000 samples (10 s)")
    data, student, bbm = table["data"], table["student"], table["bbm"]
    band = data["band"]
    if band and not (len(band) == 2 and 0 < band[0] < band[1] < HIGHEST_BAND_EDGE):
        raise RecipeError(
            f"data.band: give two rising edges between 0 and {HIGHEST_BAND_EDGE:g} Hz, or nothing"
        )
    if unknown := [name for name in data["drop_variables"] if name not in NAMES]:
        raise RecipeError(f"data.drop_variables: {', '.join(unknown)} not among the 40 variables")
    if data["refit"] and table["fit"]["select"] != "last":
        raise RecipeError('data.refit: no validation is left to select an epoch on; set fit.select = "last"')
    if student["dim"] % student["heads"]:
        raise RecipeError(f"student.dim: {student['dim']} cannot be shared among {student['heads']} heads")
    if student["dim"] % 2:
        raise RecipeError(f"student.dim: {student['dim']} is odd; sine and cosine need an even number")
    groups = bbm["groups"] or N_GROUPS[table["task"]]
    if bbm["group_weights"] and len(bbm["group_weights"]) != groups:
        raise RecipeError(f"bbm.group_weights: {len(bbm['group_weights'])} weights for {groups} groups")


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
    """The whole recipe as TOML; comments give choices, ranges, and the default where the value differs."""
    return _table_lines(recipe, "")


def _table_lines(table: Any, section: str) -> list[str]:
    hints = get_type_hints(type(table))
    lines, sections = [f"[{section}]"] if section else [], []
    for entry in fields(table):
        value = getattr(table, entry.name)
        if is_dataclass(value):
            sections += ["", *_table_lines(value, entry.name)]
            continue
        notes = []
        if get_origin(hints[entry.name]) is Literal:
            notes.append(" | ".join(map(str, get_args(hints[entry.name]))))
        elif interval := RANGES.get(f"{section}.{entry.name}" if section else entry.name):
            notes.append(f"in {interval}")
        if entry.default is not MISSING and entry.default != value:
            notes.append(f"default {_toml(entry.default)}")
        comment = f"  # {'; '.join(notes)}" if notes else ""
        lines.append(f"{entry.name} = {_toml(value)}{comment}")
    return lines + sections


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)
