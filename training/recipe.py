"""A recipe: all settings of one training run, in a TOML file.

Every key has a default. An unknown key, a value of the wrong type, out of range or not among the choices is
refused, so that a typo cannot train the wrong thing.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from ibt_deploy.errors import RecipeError
from ibt_deploy.types import Task, checked
from ibt_deploy.vocabulary import NAMES

METHODS: dict[str, dict[str, Any]] = {
    "teacher": {"method": "teacher"},
    "transformer": {"method": "transformer"},
    "bbm": {"method": "bbm"},
    "deit-soft": {"method": "deit", "deit": {"variant": "soft"}},
    "deit-hard": {"method": "deit", "deit": {"variant": "hard"}},
}
"""The arms of the paper's Table 2, each with the recipe keys it changes."""
N_GROUPS = {"arrhythmia": 4, "sepsis": 3}
"""Number of matched groups of a task when ``bbm.groups`` is 0."""

Count = Annotated[int, "[0, inf)"]
Size = Annotated[int, "[1, inf)"]
Positive = Annotated[float, "(0, inf)"]
NonNegative = Annotated[float, "[0, inf)"]
Share = Annotated[float, "[0, 1]"]
Rate = Annotated[float, "[0, 1)"]


@dataclass(frozen=True)
class DataRecipe:
    """What the networks see.

    ``features``: rows of stays, ``full`` (109) or ``values40``. ``scale``: every feature standardised over
    the training rows (``standard``), or only the measured values, with flags and times left between 0 and 1
    (``specified``). ``label``, in training only: ``official``, ``h12`` (1 from six rows earlier) or
    ``utility`` (1 where the Challenge's utility rewards an alarm, each row weighted by what the decision is
    worth there). ``band``: zero-phase pass band of ECGs in Hz, empty for none. ``max_hours``: longest stay;
    longer ones are refused. ``train_fraction``: share of the training part used (learning curves).
    ``drop_variables``: columns of stays hidden from the networks (ablation).
    ``sites``: hospitals of stays or sources of ECGs to train and select on, empty for all; the test part
    stays whole, so that the others can be scored as external. ``label_mask``: ``none`` treats an absent label
    as negative, as the official metric does; ``source`` leaves out of the loss the classes that an ECG source
    never has in the training part. ``soft_weight``: share of an ensemble's probabilities in the labels.
    ``refit``: learn from the validation part as well, once everything has been chosen on it.
    """

    features: Literal["full", "values40"] = "full"
    scale: Literal["standard", "specified"] = "standard"
    label: Literal["official", "h12", "utility"] = "official"
    band: tuple[float, ...] = ()
    max_hours: Annotated[int, "[1, 336]"] = 336
    train_fraction: Annotated[float, "(0, 1]"] = 1.0
    drop_variables: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    label_mask: Literal["none", "source"] = "none"
    soft_weight: Share = 0.0
    refit: bool = False


@dataclass(frozen=True)
class ResNetRecipe:
    """The ECG teacher, the residual network of Hannun et al. (2019)."""

    n_blocks: Size = 16
    base_filters: Size = 32
    kernel: Size = 16
    dropout: Rate = 0.2
    pad_to: Count = 0


@dataclass(frozen=True)
class LSTMRecipe:
    """The EHR teacher. ``projection``: a linear map of the rows gives the first layer a residual as well."""

    hidden: Size = 256
    n_layers: Size = 3
    dropout: Rate = 0.0
    projection: bool = True


@dataclass(frozen=True)
class StudentRecipe:
    """The transformer.

    ``depth`` 0 means the task's own: 8 blocks for ECG, 3 for EHR. ``patch``: samples of an ECG patch, 20
    (100 ms) in the paper. ``embedding_scale``: factor of a stay's embedded rows before positions are added.
    """

    dim: Annotated[int, "[2, inf)"] = 256
    depth: Count = 0
    heads: Size = 8
    mlp_ratio: Positive = 4.0
    dropout: Rate = 0.1
    patch: Annotated[int, "[1, 2000]"] = 20
    embedding_scale: Positive = 4.0
    readout: Literal["mean", "cls"] = "mean"


@dataclass(frozen=True)
class DeiTRecipe:
    """DeiT's response distillation (Touvron et al. 2021), for labels that do not exclude each other.

    ``alpha``: weight of the distillation term; ``tau``: temperature of the soft variant; ``ehr``: one query
    per hour, or two heads on each row.
    """

    variant: Literal["soft", "hard"] = "soft"
    alpha: Share = 0.5
    tau: Positive = 1.0
    ehr: Literal["queries", "two_heads"] = "queries"


@dataclass(frozen=True)
class BBMRecipe:
    """Block-by-block matching.

    ``groups``: number of matched groups, 0 for the task's own (4 for ECG, 3 for EHR). ``weight``: lambda.
    ``w1``, ``w2``, ``w3``: weights of Eq. 2, 3 and 4. ``groups_per_step``: number of groups beyond the first
    for which a step computes Eq. 2 and 3, drawn at random and weighted so that the expected loss is
    unchanged; 0 for all. ``deviation_floor``: least standard deviation of a teacher channel, as a share of
    its group's median. ``group_weights``: one per group, empty for all 1. ``schedule``: ``joint``,
    ``two_stage`` (matching alone for the first half, then the task alone) or ``cosine_to_zero``.
    ``alpha_kd``: weight of an added response distillation. ``pairing``: ``shuffled`` shows the teacher
    another record of the batch (control). ``teacher``: ``untrained`` matches a teacher with random weights,
    to separate the effect of the architecture from that of training (control).
    """

    groups: Count = 0
    weight: NonNegative = 1.0
    w1: NonNegative = 1.0
    w2: NonNegative = 1.0
    w3: NonNegative = 1.0
    groups_per_step: Count = 0
    deviation_floor: NonNegative = 1e-3
    group_weights: tuple[NonNegative, ...] = ()
    reduction: Literal["mean", "sum"] = "mean"
    standardise: bool = True
    standardise_rows: Size = 50_000
    l1_norm: Literal["none", "layernorm"] = "none"
    detach_block_inputs: bool = False
    h_bias: bool = False
    resize: Literal["area", "linear"] = "area"
    schedule: Literal["joint", "two_stage", "cosine_to_zero"] = "joint"
    alpha_kd: NonNegative = 0.0
    pairing: Literal["same", "shuffled"] = "same"
    teacher: Literal["trained", "untrained"] = "trained"


@dataclass(frozen=True)
class MaskedRecipe:
    """Pretraining of an ECG transformer without labels. ``share``: hidden patches of all leads."""

    share: Annotated[float, "(0, 1)"] = 0.5


@dataclass(frozen=True)
class AugmentRecipe:
    """Augmentation of training ECGs.

    ``n_ops`` RandAugment operations of shared ``magnitude`` 0 to 10. ``shortest_crop``: every batch is
    cropped at random positions to a length drawn between this many seconds and ten; 10 keeps all crops at ten
    seconds.
    """

    n_ops: Count = 2
    magnitude: Annotated[float, "[0, 10]"] = 3.0
    shortest_crop: Annotated[float, "[1, 10]"] = 5.0


@dataclass(frozen=True)
class FitRecipe:
    """Optimiser and schedule.

    ``batch_size`` counts ECGs or patients. Warm-up lasts ``min(warmup_epochs, warmup_fraction * all steps)``;
    the cosine ends at ``final_lr`` of the peak. Early stopping after ``patience`` epochs without a better
    selection metric, never before ``min_epochs``. ``precision`` ``auto`` means bf16 on CUDA and on CPUs with
    bf16 instructions, otherwise fp32. ``ema``: decay per step of a running average of the weights, which is
    then validated and saved; 0 for none. ``select``: validation criterion for the best epoch: the task's
    ``official`` metric, ``auroc``, ``bce``, or ``last`` for the final epoch, regardless of its scores. The
    method ``masked`` knows only its own error, and ``last``.
    """

    batch_size: Size = 128
    epochs: Size = 100
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-2
    beta1: Rate = 0.9
    beta2: Rate = 0.999
    eps: Positive = 1e-8
    warmup_epochs: NonNegative = 10.0
    warmup_fraction: Share = 0.1
    final_lr: Share = 0.01
    clip_norm: Positive = 1.0
    patience: Size = 15
    min_epochs: Count = 20
    ema: Rate = 0.0
    select: Literal["official", "auroc", "bce", "last"] = "official"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "off"


@dataclass(frozen=True)
class Recipe:
    """One training run. Only the sections that the task and the method use have an effect."""

    task: Task
    method: Literal["teacher", "transformer", "deit", "bbm", "masked"]
    seed: Count = 0
    data: DataRecipe = field(default_factory=DataRecipe)
    resnet: ResNetRecipe = field(default_factory=ResNetRecipe)
    lstm: LSTMRecipe = field(default_factory=LSTMRecipe)
    student: StudentRecipe = field(default_factory=StudentRecipe)
    deit: DeiTRecipe = field(default_factory=DeiTRecipe)
    bbm: BBMRecipe = field(default_factory=BBMRecipe)
    masked: MaskedRecipe = field(default_factory=MaskedRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    fit: FitRecipe = field(default_factory=FitRecipe)

    @property
    def needs_teacher(self) -> bool:
        """Whether training needs a teacher's checkpoint."""
        return self.method == "deit" or (self.method == "bbm" and self.bbm.teacher == "trained")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and checkpoints."""
        return asdict(self)

    @property
    def sha256(self) -> str:
        """Hash of the whole recipe, defaults included.

        What was added later counts only where it has an effect: ``data.refit``, and the section ``masked``.
        """
        table = self.to_dict()
        if not self.data.refit:
            del table["data"]["refit"]
        if self.method != "masked":
            del table["masked"]
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def recipe_from_dict(table: Mapping[str, Any]) -> Recipe:
    """Recipe from plain data; raises RecipeError for anything unknown or impossible."""
    try:
        recipe: Recipe = checked(table, Recipe)
        _refuse_contradictions(recipe)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return recipe


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of a recipe with ``changes`` merged in, key by key within its sections."""
    both = dict(table)
    for key, value in changes.items():
        before = both.get(key)
        both[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    return both


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Recipe with the values of dotted keys replaced; raises RecipeError."""
    table = recipe.to_dict()
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        table = merged(table, {section: {key: value}}) if key else table | {section: value}
    return recipe_from_dict(table)


def override(recipe: Recipe, assignments: Mapping[str, str]) -> Recipe:
    """Recipe with dotted keys replaced by values written as in TOML; bare words are strings."""

    def value(text: str) -> Any:
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text

    return with_values(recipe, {dotted: value(text) for dotted, text in assignments.items()})


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


HIGHEST_BAND_EDGE = 100.0


def _refuse_contradictions(recipe: Recipe) -> None:
    """Raise ValueError for values that contradict each other."""
    data, student, bbm = recipe.data, recipe.student, recipe.bbm
    if 2000 % student.patch:
        raise ValueError(f"student.patch: {student.patch} does not divide 2000 samples (10 s)")
    band = data.band
    if band and not (len(band) == 2 and 0 < band[0] < band[1] < HIGHEST_BAND_EDGE):
        raise ValueError(
            f"data.band: give two rising edges between 0 and {HIGHEST_BAND_EDGE:g} Hz, or nothing"
        )
    if unknown := [name for name in data.drop_variables if name not in NAMES]:
        raise ValueError(f"data.drop_variables: {', '.join(unknown)} not among the 40 variables")
    if data.refit and recipe.fit.select != "last":
        raise ValueError('data.refit: no validation is left to select an epoch on; set fit.select = "last"')
    if recipe.method == "masked" and recipe.task != "arrhythmia":
        raise ValueError("method: masked hides patches of ECGs; stays have none")
    if recipe.method == "masked" and data.soft_weight > 0:
        raise ValueError("data.soft_weight: the method masked uses no labels")
    if student.dim % student.heads:
        raise ValueError(f"student.dim: {student.dim} cannot be shared among {student.heads} heads")
    if student.dim % 2:
        raise ValueError(f"student.dim: {student.dim} is odd; sine and cosine need an even number")
    groups = bbm.groups or N_GROUPS[recipe.task]
    if bbm.group_weights and len(bbm.group_weights) != groups:
        raise ValueError(f"bbm.group_weights: {len(bbm.group_weights)} weights for {groups} groups")


def packaged_recipes() -> dict[str, Path]:
    """Files of the packaged recipes by name, sorted."""
    folder = Path(str(files("training").joinpath("recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def recipe_path(name: str) -> Path:
    """Path of the packaged recipe ``name``, or else of the file ``name``.

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
    """The recipe ``name``, packaged or a file, with overrides."""
    return load_recipe(recipe_path(name), assignments)


def toml_lines(recipe: Recipe) -> list[str]:
    """The whole recipe as TOML; comments give choices, ranges, and the default where the value differs."""
    return _table_lines(recipe, "")


def _table_lines(table: Any, section: str) -> list[str]:
    hints = get_type_hints(type(table), include_extras=True)
    lines, sections = [f"[{section}]"] if section else [], []
    for entry in fields(table):
        value, hint = getattr(table, entry.name), hints[entry.name]
        if is_dataclass(value):
            sections += ["", *_table_lines(value, entry.name)]
            continue
        if get_origin(hint) is tuple:
            hint = get_args(hint)[0]
        notes = []
        if get_origin(hint) is Literal:
            notes.append(" | ".join(map(str, get_args(hint))))
        elif get_origin(hint) is Annotated:
            notes.append(f"in {get_args(hint)[1]}")
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
