"""Shared definitions: the tasks with their parts, names for numpy arrays, and validation of plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache, partial
from importlib import import_module
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

Task: TypeAlias = Literal["arrhythmia", "sepsis"]


class Part(str):
    """Location of a part of a task, as ``module:name``, imported on use.

    A run loads only the modules of its own task, and none of them needs to know the others.
    """

    __slots__ = ()

    def load(self) -> Any:
        """Import and return the part."""
        module, _, name = self.partition(":")
        return getattr(import_module(f"ibt_deploy.{module}"), name)


@dataclass(frozen=True, kw_only=True)
class TaskParts:
    """Everything that is specific to a task.

    Attributes
    ----------
    noun
        Plural noun for what it scores.
    inputs, outputs, optional_outputs
        Tensors of the graph with their number of axes.
    has_classes
        Whether the contract of a bundle lists the 26 classes; else the graph has one output.
    causal
        Whether an answer for an hour must not depend on later hours.
    in_tables
        Whether a batch run reads its inputs from tables; otherwise each is in files of its own.
    files
        Pattern of the labelled files in a folder.
    takes_labels
        Whether labels may come from a separate table.
    scorer
        A :class:`ibt_deploy.scorers.TaskScorer`.
    explained
        Explains the answer for an input that the scorer has prepared (:mod:`ibt_deploy.explain`).
    preprocessing, prediction
        Classes with ``from_dict``: of the constants in a contract, and of an answer.
    report, csv_columns, csv_cells
        How a prediction is shown: makes a report for people (:mod:`ibt_deploy.render.report`); names the
        columns of the CSV between the record and the model; makes the cells of its lines.
    figure
        Draws an input with its prediction and explanations.
    fhir
        Makes the FHIR resources of a prediction.
    answers
        A :class:`ibt_deploy.batch.answers.Answers`.
    scored
        Makes an :class:`ibt_deploy.evaluation.Scored` from a predictor, files and perhaps a table of labels.
    recalibrated
        Makes a recalibration of a bundle from that (:mod:`ibt_deploy.evaluation.recalibration`).
    exported, changes
        Read the numbers of a finished batch run, and compare them with the data behind a bundle
        (:mod:`ibt_deploy.evaluation.monitoring`).
    """

    noun: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    optional_outputs: Mapping[str, int] = field(default_factory=dict)
    has_classes: bool = False
    causal: bool = False
    in_tables: bool = False
    files: str
    takes_labels: bool = False
    scorer: Part
    explained: Part
    preprocessing: Part
    prediction: Part
    report: Part
    csv_columns: tuple[str, ...]
    csv_cells: Part
    figure: Part
    fhir: Part
    answers: Part
    scored: Part
    recalibrated: Part
    exported: Part
    changes: Part


PARTS: dict[Task, TaskParts] = {
    "arrhythmia": TaskParts(
        noun="recordings",
        inputs={"signal": 3},
        outputs={"logits": 2},
        optional_outputs={"features": 2},
        has_classes=True,
        files="*.hea",
        takes_labels=True,
        scorer=Part("scorers.ecg:EcgScorer"),
        explained=Part("explain:explained_findings"),
        preprocessing=Part("preprocess.ecg:EcgPreprocessing"),
        prediction=Part("predictions:ArrhythmiaPrediction"),
        report=Part("render.prediction:findings_report"),
        csv_columns=(
            *("code", "abbreviation", "name", "probability", "threshold", "positive", "evaluable"),
            *("status", "windows_reached", "windows", "highest", "highest_at"),
        ),
        csv_cells=Part("render.prediction:findings_cells"),
        figure=Part("render.plot:ecg_figure"),
        fhir=Part("standards.fhir_answers:findings_resources"),
        answers=Part("batch.answers:Findings"),
        scored=Part("evaluation.ecg:scored_recordings"),
        recalibrated=Part("evaluation.recalibration:recalibrated_recordings"),
        exported=Part("evaluation.monitoring:numbers_of_recordings"),
        changes=Part("evaluation.monitoring:against_recordings"),
    ),
    "sepsis": TaskParts(
        noun="stays",
        inputs={"rows": 3, "position": 2, "past_k": 5, "past_v": 5},
        outputs={"logit": 2, "present_k": 5, "present_v": 5},
        causal=True,
        in_tables=True,
        files="*.psv",
        scorer=Part("scorers.stay:StayScorer"),
        explained=Part("explain:explained_risk"),
        preprocessing=Part("preprocess.stay:StayPreprocessing"),
        prediction=Part("predictions:SepsisPrediction"),
        report=Part("render.prediction:risk_report"),
        csv_columns=("hour", "risk", "threshold", "alarm", "inserted", "missing"),
        csv_cells=Part("render.prediction:risk_cells"),
        figure=Part("render.plot:stay_figure"),
        fhir=Part("standards.fhir_answers:risk_resources"),
        answers=Part("batch.answers:Risks"),
        scored=Part("evaluation.stay:scored_stays"),
        recalibrated=Part("evaluation.recalibration:recalibrated_stays"),
        exported=Part("evaluation.monitoring:numbers_of_stays"),
        changes=Part("evaluation.monitoring:against_stays"),
    ),
}
TASKS: tuple[Task, ...] = tuple(PARTS)
NOUNS: dict[str, str] = {task: parts.noun for task, parts in PARTS.items()}

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Float32s: TypeAlias = npt.NDArray[np.float32]
AnyFloats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]
Int16s: TypeAlias = npt.NDArray[np.int16]
AnyInts: TypeAlias = npt.NDArray[np.integer[Any]]
Indices: TypeAlias = npt.NDArray[np.intp]
Bools: TypeAlias = npt.NDArray[np.bool_]
Strings: TypeAlias = npt.NDArray[np.str_]


def checked(value: Any, hint: Any, path: str = "", *, ignore_unknown: bool = False) -> Any:
    """Convert plain data, as returned by JSON and TOML parsers, to the type that ``hint`` names.

    Parameters
    ----------
    value
        The parsed value.
    hint
        A dataclass, a plain type, a union of those, ``Literal``, ``tuple[X, ...]`` or ``dict[str, X]``. A
        number may state its interval beside its type: ``Annotated[float, "(0, 1]"]``. An integer is accepted
        as a float too; NaN and infinities are not.
    path
        Path of the value, for messages.
    ignore_unknown
        Skip keys that a dataclass does not have, instead of refusing them.

    Raises
    ------
    ValueError
        A wrong type, a number out of its interval, a key that is unknown or missing; the message begins with
        its path, ``section.key``.
    """
    part = partial(checked, ignore_unknown=ignore_unknown)
    hint, interval, origin, inner = _taken_apart(hint)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{path}: {value!r:.80} is not one of {', '.join(map(repr, inner))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{path}: a list is expected, not {value!r:.80}")
        return tuple(part(v, inner[0], f"{path}[{i}]") for i, v in enumerate(value))
    if origin is dict or is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: a table is expected, not {value!r:.80}")
        before = f"{path}." if path else ""
        if origin is dict:
            return {key: part(v, inner[1], f"{before}{key}") for key, v in value.items()}
        known = _entries(hint)
        for key in value:
            if key not in known and not ignore_unknown:
                raise ValueError(f"{before}{key}: unknown key; known are {', '.join(known)}")
        for key, (_, is_needed) in known.items():
            if is_needed and key not in value:
                raise ValueError(f"{before}{key} is missing")
        return hint(
            **{k: part(value[k], kind, f"{before}{k}") for k, (kind, _) in known.items() if k in value}
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{path}: {getattr(hint, '__name__', hint)} is expected, not {value!r:.80}")
    if hint in (int, float) and not is_within(value, interval):
        raise ValueError(f"{path}: {value} is not in {interval}")
    return value


@cache
def _taken_apart(hint: Any) -> tuple[Any, str, Any, tuple[Any, ...]]:
    """A hint without its interval, the interval, and the origin and arguments of the hint."""
    hint, interval = get_args(hint) if get_origin(hint) is Annotated else (hint, "(-inf, inf)")
    return hint, interval, get_origin(hint), get_args(hint)


@cache
def _entries(cls: type[Any]) -> dict[str, tuple[Any, bool]]:
    """The type of each field of a dataclass, and whether it is required."""
    hints = get_type_hints(cls, include_extras=True)
    return {
        entry.name: (hints[entry.name], entry.default is entry.default_factory is MISSING)
        for entry in fields(cls)
    }


@cache
def _bounds(interval: str) -> tuple[float, float]:
    low, high = map(float, interval[1:-1].split(","))
    return low, high


def is_within(number: float, interval: str) -> bool:
    """Whether ``number`` lies in an ``interval`` such as ``"[0, 1)"``; NaN lies in none."""
    low, high = _bounds(interval)
    above = number > low if interval[0] == "(" else number >= low
    return above and (number < high if interval[-1] == ")" else number <= high)
