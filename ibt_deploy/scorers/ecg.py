"""Findings of 12-lead recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Bundle
from ibt_deploy.predictions import ArrhythmiaPrediction, Floats
from ibt_deploy.preprocess.ecg import EcgPreprocessing, StandardEcg, examined, window_spans, windows
from ibt_deploy.records import Recording
from ibt_deploy.scorers.session import OpenGraph
from ibt_deploy.thresholds import decisions


@dataclass(frozen=True, eq=False)
class PreparedEcg:
    """A recording that is ready to be scored: its windows, shape ``(windows, 12, 2000)``, float32."""

    recording: Recording
    standard: StandardEcg
    windows: npt.NDArray[np.float32]

    @property
    def size(self) -> int:
        """Work that it makes, in windows."""
        return len(self.windows)


class EcgScorer:
    """Scores recordings with one bundle, graph and operating point."""

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None = None) -> None:
        if not isinstance(bundle.preprocessing, EcgPreprocessing):
            raise TypeError("an ECG scorer needs an arrhythmia bundle")
        self._bundle = bundle
        self._graph = graph
        self._constants = bundle.preprocessing
        self._point = bundle.operating_point(operating_point)
        self._model = graph.model(bundle, self._point.name)
        self._evaluable = np.array([c.evaluable for c in bundle.classes])

    def prepare(self, recording: Recording) -> PreparedEcg:
        """Preprocess one recording; raises InputError where it is refused."""
        standard = examined(recording)
        return PreparedEcg(recording, standard, windows(standard, self._constants, crop="all"))

    def logits(self, signal: npt.NDArray[np.float32], batch_size: int) -> npt.NDArray[np.float32]:
        """Logits ``(windows, 26)`` of windows ``(windows, 12, 2000)``.

        The int8 graph takes its scales from the whole batch, so it gets one window at a time: an answer
        must not depend on what else was asked.
        """
        step = 1 if self._graph.variant == "int8" else batch_size
        parts = [
            self._graph.run(["logits"], {"signal": signal[start : start + step]})[0]
            for start in range(0, len(signal), step)
        ]
        return np.concatenate(parts)

    def score(self, prepared: Sequence[PreparedEcg], batch_size: int) -> list[ArrhythmiaPrediction]:
        """Predictions, in order."""
        if not prepared:
            return []
        logits = self.logits(np.concatenate([p.windows for p in prepared]), batch_size)
        ends = np.cumsum([p.size for p in prepared])
        per_recording = np.split(self._bundle.calibration.probability(logits), ends[:-1])
        return [self._prediction(p, w) for p, w in zip(prepared, per_recording, strict=True)]

    def _prediction(self, prepared: PreparedEcg, per_window: Floats) -> ArrhythmiaPrediction:
        recording, standard = prepared.recording, prepared.standard
        probabilities = per_window.mean(axis=0)
        samples = standard.signal.shape[1]
        spans = window_spans(samples, self._constants.length)
        starts = np.array([start for start, _ in spans]) / self._constants.sampling_rate
        return ArrhythmiaPrediction(
            record=recording.record_id,
            source=recording.source,
            format=recording.format,
            sampling_rate=recording.sampling_rate,
            duration=recording.duration,
            leads=recording.leads,
            changes=(
                *recording.notes,
                *standard.changes,
                *window_changes(spans, samples, self._constants),
            ),
            warnings=standard.warnings,
            model=self._model,
            classes=self._bundle.classes,
            probabilities=probabilities,
            thresholds=self._point.thresholds,
            positive=decisions(probabilities[None], self._point.thresholds, self._evaluable)[0],
            windows=per_window,
            window_starts=starts,
        )


def window_changes(
    spans: Sequence[tuple[int, int]], samples: int, constants: EcgPreprocessing
) -> tuple[str, ...]:
    """What cutting into windows, filtering and padding does to a record of ``samples``, one phrase each.

    Parameters
    ----------
    spans
        Of :func:`ibt_deploy.preprocess.ecg.window_spans`.
    samples
        Length of the record at the constants' sampling rate.
    constants
        Of the model.
    """
    seconds = constants.length / constants.sampling_rate
    changes = []
    if constants.band is not None:
        changes.append(f"band-passed from {constants.band[0]:g} to {constants.band[1]:g} Hz")
    if samples < constants.length:
        changes.append(
            f"{samples / constants.sampling_rate:g} s of signal followed by zeros up to {seconds:g} s"
        )
    elif samples > constants.length:
        if len(spans) > 1:
            changes.append(f"scored as {len(spans)} windows of {seconds:g} s, probabilities averaged")
        if rest := samples - spans[-1][1]:
            changes.append(f"the last {rest / constants.sampling_rate:.2g} s were left out")
    return tuple(changes)
