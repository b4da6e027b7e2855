"""Hourly sepsis risk of ICU stays.

Every answer is causal: features and graph only look back, and batches are padded on the right, where the
padding is in the future of every real hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ibt_deploy.bundle import Bundle
from ibt_deploy.device import OpenGraph
from ibt_deploy.predictions import SepsisPrediction
from ibt_deploy.preprocess.stay import StayPreprocessing, featurise
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.records import Notice, Recording, Stay
from ibt_deploy.scorers import NO_LIMIT, Batching
from ibt_deploy.types import Array, Float32s
from ibt_deploy.vocabulary import MAX_HOURS


@dataclass(frozen=True, eq=False)
class CheckedStay:
    """A stay that can be scored, with its plausible values, shape ``(hours, 40)``."""

    stay: Stay
    values: Float32s
    warnings: tuple[Notice, ...]

    @property
    def size(self) -> int:
        """Amount of work, in hours."""
        return len(self.values)


@dataclass(frozen=True, eq=False)
class PreparedStay(CheckedStay):
    """A checked stay with its features, shape ``(hours, F)``."""

    features: Float32s


def features_of(stays: Sequence[CheckedStay], constants: StayPreprocessing) -> list[Float32s]:
    """Features ``(hours, F)`` of every stay, computed together because a call costs more than its rows."""
    bare = [stay.values for stay in stays if not isinstance(stay, PreparedStay)]
    made: Iterator[Float32s] = iter(())
    if bare:
        ends = np.cumsum([len(values) for values in bare])
        found = featurise(np.concatenate(bare), np.concatenate([[0], ends]), constants, cleaned=True)
        made = iter(np.split(found, ends[:-1]))
    return [stay.features if isinstance(stay, PreparedStay) else next(made) for stay in stays]


def streamed_logits(graph: OpenGraph, rows: Float32s, steps: Sequence[int]) -> Float32s:
    """Logits ``(hours,)`` of one stay whose features ``(hours, F)`` arrive in ``steps``."""
    keys, values = graph.empty_cache(1)
    found, start = [], 0
    for n in steps:
        new: Array = rows[None, start : start + n]
        position = np.arange(start, start + n)[None]
        inputs = {"rows": new, "position": position, "past_k": keys, "past_v": values}
        logits, keys, values = graph.run(["logit", "present_k", "present_v"], inputs)
        found.append(logits[0])
        start += n
    return np.concatenate(found)


class StayScorer:
    """Scores stays with one bundle, graph and operating point."""

    item: ClassVar[type[Recording | Stay]] = Stay
    # attention is quadratic in the hours of a stay; the more stays wait, the less of a batch is padding
    bulk: ClassVar[Batching] = Batching(
        work=32_768, inputs=512, together=((64, 32), (128, 16), (MAX_HOURS, 4))
    )

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None = None) -> None:
        self.bundle = bundle
        self._graph = graph
        self._constants = _constants(bundle)
        self._point = bundle.operating_point(operating_point)
        self._model = graph.model(bundle, self._point.name)

    @staticmethod
    def soon(batch_size: int) -> Batching:
        """Some stays are pooled, to batch those of similar length."""
        return Batching(NO_LIMIT, 8 * batch_size, ((NO_LIMIT, batch_size),))

    @staticmethod
    def prepare(stay: Stay, bundle: Bundle) -> CheckedStay:  # noqa: ARG004
        """Check and clean one stay; raises InputError if it is refused."""
        return CheckedStay(stay, *checked_stay(stay))

    @staticmethod
    def ready(prepared: Sequence[CheckedStay], bundle: Bundle) -> list[PreparedStay]:
        """The stays with their features."""
        return [
            PreparedStay(entry.stay, entry.values, entry.warnings, features)
            for entry, features in zip(prepared, features_of(prepared, _constants(bundle)), strict=True)
        ]

    def features(self, stays: Sequence[CheckedStay]) -> list[Float32s]:
        """Features ``(hours, F)`` of every stay."""
        return features_of(stays, self._constants)

    def logits(self, features: Sequence[Float32s], batch_size: int) -> list[Float32s]:
        """Logits ``(hours,)`` of every stay's features ``(hours, F)``, in order.

        Stays of similar length share a batch.
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

    def features_and_logits(self, stay: Stay) -> tuple[Float32s, Float32s]:
        """The features of one stay, and its logits."""
        (rows,) = self.features([self.prepare(stay, self.bundle)])
        return rows, self.logits([rows], batch_size=1)[0]

    def score(self, prepared: Sequence[CheckedStay], batch_size: int) -> list[SepsisPrediction]:
        """Predictions, in order."""
        logits = self.logits(self.features(prepared), batch_size)
        return [self._prediction(p, z) for p, z in zip(prepared, logits, strict=True)]

    def _prediction(self, prepared: CheckedStay, logits: Float32s) -> SepsisPrediction:
        stay = prepared.stay
        risk = self.bundle.calibration.probability(logits)
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
            units_stated=stay.units_stated,
        )


def _constants(bundle: Bundle) -> StayPreprocessing:
    if not isinstance(bundle.preprocessing, StayPreprocessing):
        raise TypeError("a stay scorer needs a sepsis bundle")
    return bundle.preprocessing
