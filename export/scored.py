"""Run a part of a data set through the product: the bundle's own preprocessing, graph and calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from export.data import EcgPart, StayPart
from ibt_deploy.bundle import Calibration
from ibt_deploy.classes import N_CLASSES
from ibt_deploy.decisions import combined
from ibt_deploy.errors import InputError
from ibt_deploy.predictions import ArrhythmiaPrediction, Refusal, SepsisPrediction
from ibt_deploy.predictor import Predictor
from ibt_deploy.scorers.ecg import EcgScorer, PreparedEcg
from ibt_deploy.scorers.stay import CheckedStay, StayScorer
from training.models.encoder import Encoder
from training.models.transformer import EcgTransformer

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Float32s = npt.NDArray[np.float32]
Part = TypeVar("Part", EcgPart, StayPart)
Prepared = TypeVar("Prepared", PreparedEcg, CheckedStay)
Tick = Callable[[int], None]

BATCH_SIZE = 32


@dataclass(frozen=True, eq=False)
class PreparedPart(Generic[Part, Prepared]):
    """What scoring accepts of a part, ready for the graph, and how often it refused for which reason."""

    part: Part
    prepared: list[Prepared]
    refused: dict[str, int]


def prepared_ecgs(scorer: EcgScorer, part: EcgPart) -> PreparedPart[EcgPart, PreparedEcg]:
    """The windows of every recording that is not refused."""
    prepared, accepted, refused = _prepared(scorer.prepare, part.items())
    return PreparedPart(part.select(accepted), prepared, refused)


def prepared_stays(scorer: StayScorer, part: StayPart) -> PreparedPart[StayPart, CheckedStay]:
    """Every stay that is not refused, cleaned."""
    prepared, accepted, refused = _prepared(scorer.prepare, part.items())
    return PreparedPart(part.select(accepted), prepared, refused)


def _prepared(prepare: Callable[[Any], Any], items: Iterator[Any]) -> tuple[list[Any], Bools, dict[str, int]]:
    prepared, accepted, refused = [], [], Counter[str]()
    for item in items:
        try:
            prepared.append(prepare(item))
            accepted.append(True)
        except InputError as error:
            refused[error.code] += 1
            accepted.append(False)
    return prepared, np.array(accepted, dtype=bool), dict(refused)


@dataclass(frozen=True, eq=False)
class Answers(Generic[Part]):
    """Answers of a model about a part.

    Attributes
    ----------
    part
        What was answered; refused inputs are no longer in it.
    probabilities
        Calibrated, shape ``(n, 26)``, or ``(rows,)`` for stays.
    positive
        Decisions at the default operating point, same shape.
    refused
        How often scoring refused, by reason.
    """

    part: Part
    probabilities: Floats
    positive: Bools
    refused: dict[str, int]


def ecg_answers(predictor: Predictor, part: EcgPart) -> Answers[EcgPart]:
    """What the shipped model says about recordings."""
    found, accepted, refused = _predictions(predictor, part.items())
    answers = [p for p in found if isinstance(p, ArrhythmiaPrediction)]
    n_classes = part.labels.shape[1]
    return Answers(
        part.select(accepted),
        np.array([p.probabilities for p in answers]).reshape(-1, n_classes),
        np.array([p.positive for p in answers], dtype=bool).reshape(-1, n_classes),
        refused,
    )


def stay_answers(predictor: Predictor, part: StayPart) -> Answers[StayPart]:
    """What the shipped model says about every hour of stays."""
    found, accepted, refused = _predictions(predictor, part.items())
    answers = [p for p in found if isinstance(p, SepsisPrediction)]
    empty = np.empty(0)
    return Answers(
        part.select(accepted),
        np.concatenate([empty, *(p.risk for p in answers)]),
        np.concatenate([empty, *(p.alarms for p in answers)]).astype(bool),
        refused,
    )


def _predictions(predictor: Predictor, items: Iterator[Any]) -> tuple[list[Any], Bools, dict[str, int]]:
    answers = list(predictor.predict_many(items, BATCH_SIZE))
    accepted = np.array([not isinstance(a, Refusal) for a in answers], dtype=bool)
    refused = Counter(a.code for a in answers if isinstance(a, Refusal))
    return answers, accepted, dict(refused)


def over_windows(probabilities: Floats, counts: list[int]) -> Floats:
    """Mean over the windows of each recording: ``(windows, c)`` to ``(n, c)``."""
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
    means: Floats = np.add.reduceat(probabilities, starts, axis=0) / np.array(counts)[:, None]
    return means


def window_probabilities(logits: Float32s, counts: list[int], calibration: Calibration) -> Floats:
    """Calibrated probabilities ``(n, 26)`` of recordings whose windows' logits follow each other.

    Windows combine as in scoring: :func:`ibt_deploy.decisions.combined`.
    """
    per_window = np.split(calibration.probability(logits), np.cumsum(counts)[:-1])
    return np.stack([combined(windows) for windows in per_window])


@torch.no_grad()
def network_ecg_logits(network: Encoder, windows: Float32s) -> Float32s:
    """Logits ``(windows, 26)`` straight from a torch network; NaN marks what was not recorded.

    A network without a mask sees every window cut to what was recorded.
    """
    network.eval()
    found: Float32s = np.empty((len(windows), N_CLASSES), dtype=np.float32)
    if isinstance(network, EcgTransformer):
        for i in range(0, len(windows), BATCH_SIZE):
            found[i : i + BATCH_SIZE] = network.masked(torch.from_numpy(windows[i : i + BATCH_SIZE]))[0]
        return found
    recorded = (~np.isnan(windows[:, 0])).sum(axis=1)
    for length in np.unique(recorded):
        alike = np.flatnonzero(recorded == length)
        for i in range(0, len(alike), BATCH_SIZE):
            chosen = alike[i : i + BATCH_SIZE]
            found[chosen] = network(torch.from_numpy(windows[chosen, :, :length])).numpy()
    return found


@torch.no_grad()
def network_stay_logits(network: Encoder, stays: list[Float32s]) -> list[Float32s]:
    """Logits ``(hours,)`` of every stay's features ``(hours, F)`` straight from a torch network."""
    network.eval()
    found: list[Float32s] = [np.empty(0, dtype=np.float32)] * len(stays)
    by_length = sorted(range(len(stays)), key=lambda i: len(stays[i]))
    for start in range(0, len(by_length), BATCH_SIZE):
        chosen = by_length[start : start + BATCH_SIZE]
        hours = len(stays[chosen[-1]])
        rows = torch.zeros(len(chosen), hours, stays[chosen[0]].shape[1])
        for k, i in enumerate(chosen):
            rows[k, : len(stays[i])] = torch.from_numpy(stays[i])
        logits = network(rows).numpy()
        for k, i in enumerate(chosen):
            found[i] = logits[k, : len(stays[i])].copy()
    return found
