"""Hourly sepsis risk of ICU stays.

Every answer is causal: features and graph look back only, and batches are padded on the right, where the
padding lies in the future of every real hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ibt_deploy.bundle import Bundle
from ibt_deploy.predictions import SepsisPrediction
from ibt_deploy.preprocess.stay import StayPreprocessing, featurise
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.records import Notice, Stay
from ibt_deploy.scorers.session import OpenGraph
from ibt_deploy.types import Array, Float32s


@dataclass(frozen=True, eq=False)
class CheckedStay:
    """A stay that can be scored, with its plausible values, shape ``(hours, 40)``."""

    stay: Stay
    values: Float32s
    warnings: tuple[Notice, ...]

    @property
    def size(self) -> int:
        """Work that it makes, in stays."""
        return 1


@dataclass(frozen=True, eq=False)
class PreparedStay(CheckedStay):
    """The same with its features, shape ``(hours, F)``."""

    features: Float32s


def features_of(stays: Sequence[CheckedStay], constants: StayPreprocessing) -> list[Float32s]:
    """Features ``(hours, F)`` of every stay: of many at once, since a call costs more than its rows."""
    bare = [stay.values for stay in stays if not isinstance(stay, PreparedStay)]
    made: Iterator[Float32s] = iter(())
    if bare:
        ends = np.cumsum([len(values) for values in bare])
        found = featurise(np.concatenate(bare), np.concatenate([[0], ends]), constants, cleaned=True)
        made = iter(np.split(found, ends[:-1]))
    return [stay.features if isinstance(stay, PreparedStay) else next(made) for stay in stays]


class StayScorer:
    """Scores stays with one bundle, graph and operating point."""

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None = None) -> None:
        if not isinstance(bundle.preprocessing, StayPreprocessing):
            raise TypeError("a stay scorer needs a sepsis bundle")
        self._bundle = bundle
        self._graph = graph
        self._constants = bundle.preprocessing
        self._point = bundle.operating_point(operating_point)
        self._model = graph.model(bundle, self._point.name)

    def prepare(self, stay: Stay) -> CheckedStay:
        """Check and clean one stay; raises InputError where it is refused."""
        return CheckedStay(stay, *checked_stay(stay))

    def features(self, stays: Sequence[CheckedStay]) -> list[Float32s]:
        """Features ``(hours, F)`` of every stay."""
        return features_of(stays, self._constants)

    def logits(self, features: Sequence[Float32s], batch_size: int) -> list[Float32s]:
        """Logits ``(hours,)`` of every stay's features ``(hours, F)``, in order.

        Stays of like length share a batch.
        """
        found: list[Float32s] = [np.empty(0, dtype=np.float32)] * len(features)
        by_length = sorted(range(len(features)), key=lambda i: len(features[i]))
        for start in range(0, len(by_length), batch_size):
            chosen = by_length[start : start + batch_size]
            hours = max(len(features[i]) for i in chosen)
            rows = np.zeros((len(chosen), hours, self._constants.n_features), dtype=np.float32)
            for k, i in enumerate(chosen):
                rows[k, : len(features[i])] = features[i]
            position = np.broadcast_to(np.arange(hours), (len(chosen), hours))
            past_k, past_v = self._graph.empty_cache(len(chosen))
            inputs: dict[str, Array] = {
                "rows": rows,
                "position": np.ascontiguousarray(position),
                "past_k": past_k,
                "past_v": past_v,
            }
            logits = self._graph.run(["logit"], inputs)[0]
            for k, i in enumerate(chosen):
                found[i] = logits[k, : len(features[i])]
        return found

    def score(self, prepared: Sequence[CheckedStay], batch_size: int) -> list[SepsisPrediction]:
        """Predictions, in order."""
        logits = self.logits(self.features(prepared), batch_size)
        return [self._prediction(p, z) for p, z in zip(prepared, logits, strict=True)]

    def _prediction(self, prepared: CheckedStay, logits: Float32s) -> SepsisPrediction:
        stay = prepared.stay
        risk = self._bundle.calibration.probability(logits)
        threshold = float(self._point.thresholds[0])
        inserted = np.zeros(len(risk), dtype=bool) if stay.inserted is None else stay.inserted
        return SepsisPrediction(
            record=stay.patient_id,
            source=stay.source,
            format=stay.format,
            changes=stay.notes,
            warnings=prepared.warnings,
            model=self._model,
            hours=stay.hours,
            risk=risk,
            alarms=risk >= threshold,
            threshold=threshold,
            values=prepared.values,
            inserted=inserted,
        )
