"""Findings of 12-lead recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ibt_deploy.bundle import Bundle
from ibt_deploy.decisions import combined, decided_over_windows
from ibt_deploy.device import OpenGraph
from ibt_deploy.familiarity import UNFAMILIAR
from ibt_deploy.predictions import ArrhythmiaPrediction
from ibt_deploy.preprocess.ecg import (
    FILLED_SAMPLES,
    EcgPreprocessing,
    examined,
    window_spans,
    windows,
)
from ibt_deploy.preprocess.heart_rate import FrontalAxis, HeartRate
from ibt_deploy.records import Notice, Recording, Stay
from ibt_deploy.scorers import NO_LIMIT, Batching
from ibt_deploy.types import Bools, Float32s, Floats

LONGEST_EVALUATED = 60
"""Seconds; nearly every recording of the evaluation is shorter."""


@dataclass(frozen=True, eq=False)
class PreparedEcg:
    """A recording ready to be scored; its signal, seven times as large as the windows, can be freed.

    Attributes
    ----------
    windows
        Input of the model, shape ``(windows, 12, 2000)``.
    samples
        Length of the whole recording at the model's sampling rate.
    record, source, format, sampling_rate, duration, leads
        As for the recording.
    changes, warnings
        Remarks of the reader and of preprocessing.
    heart_rate, axis
        As computed from the signal.
    """

    windows: Float32s
    samples: int
    record: str
    source: str
    format: str
    sampling_rate: float
    duration: float
    leads: tuple[str, ...]
    changes: tuple[str, ...]
    warnings: tuple[Notice, ...]
    heart_rate: HeartRate | None
    axis: FrontalAxis | None

    @property
    def size(self) -> int:
        """Amount of work, in windows."""
        return len(self.windows)


class EcgScorer:
    """Scores recordings with one bundle, graph and operating point."""

    item: ClassVar[type[Recording | Stay]] = Recording
    bulk: ClassVar[Batching] = Batching(work=128, inputs=256, together=((NO_LIMIT, 32),))

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None = None) -> None:
        self.bundle = bundle
        self._graph = graph
        self._constants = _constants(bundle)
        self._point = bundle.operating_point(operating_point)
        self._model = graph.model(bundle, self._point.name)
        self._evaluable = np.array([c.evaluable for c in bundle.classes])
        self._familiarity = bundle.familiarity()

    @staticmethod
    def soon(batch_size: int) -> Batching:
        """Recordings are scored as soon as their windows fill a batch."""
        return Batching(batch_size, batch_size, ((NO_LIMIT, batch_size),))

    @staticmethod
    def prepare(recording: Recording, bundle: Bundle) -> PreparedEcg:
        """Preprocess one recording; raises InputError if it is refused."""
        standard = examined(recording)
        return PreparedEcg(
            windows=windows(standard, _constants(bundle)),
            samples=standard.signal.shape[1],
            record=recording.record_id,
            source=recording.source,
            format=recording.format,
            sampling_rate=recording.sampling_rate,
            duration=recording.duration,
            leads=recording.leads,
            changes=(*recording.notes, *standard.changes),
            warnings=standard.warnings,
            heart_rate=standard.heart_rate,
            axis=standard.axis,
        )

    @staticmethod
    def ready(prepared: Sequence[PreparedEcg], bundle: Bundle) -> Sequence[PreparedEcg]:  # noqa: ARG004
        """Return the recordings unchanged."""
        return prepared

    def logits(self, signal: Float32s, batch_size: int) -> Float32s:
        """Logits ``(windows, 26)`` of windows ``(windows, 12, 2000)``.

        An int8 graph that takes its scales from the batch gets one window at a time: an answer must not
        depend on the other inputs of the batch.
        """
        return self._run(["logits"], signal, batch_size)[0]

    def features(self, signal: Float32s, batch_size: int) -> Float32s:
        """Input of the classifier for windows ``(windows, 12, 2000)``, shape ``(windows, dim)``."""
        return self._run(["features"], signal, batch_size)[0]

    def _run(self, outputs: list[str], signal: Float32s, batch_size: int) -> list[Float32s]:
        step = 1 if self._graph.takes_scales_from_batch else batch_size
        parts = [
            self._graph.run(outputs, {"signal": signal[start : start + step]})
            for start in range(0, len(signal), step)
        ]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def features_and_logits(self, recording: Recording) -> tuple[Float32s, Float32s]:
        """The windows of one recording, and their logits."""
        signal = self.prepare(recording, self.bundle).windows
        return signal, self.logits(signal, batch_size=8)

    def score(self, prepared: Sequence[PreparedEcg], batch_size: int) -> list[ArrhythmiaPrediction]:
        """Predictions, in order."""
        if not prepared:
            return []
        signal = np.concatenate([p.windows for p in prepared])
        ends = np.cumsum([p.size for p in prepared])
        familiar: list[float | None] = [None] * len(prepared)
        if self._familiarity is None:
            logits = self.logits(signal, batch_size)
        else:
            logits, features = self._run(["logits", "features"], signal, batch_size)
            means = np.stack([f.mean(axis=0) for f in np.split(features.astype(np.float64), ends[:-1])])
            familiar = [1.0 - float(share) for share in self._familiarity.share_nearer(means)]
        per_recording = np.split(self.bundle.calibration.probability(logits), ends[:-1])
        return [self._prediction(*found) for found in zip(prepared, per_recording, familiar, strict=True)]

    def _prediction(
        self, prepared: PreparedEcg, per_window: Floats, familiarity: float | None
    ) -> ArrhythmiaPrediction:
        point = self._point
        given = decided_over_windows(per_window, point.thresholds, self._evaluable, exclusive=point.exclusive)
        spans = window_spans(prepared.samples, self._constants.length)
        starts = np.array([start for start, _ in spans]) / self._constants.sampling_rate
        return ArrhythmiaPrediction(
            record=prepared.record,
            source=prepared.source,
            format=prepared.format,
            sampling_rate=prepared.sampling_rate,
            duration=prepared.duration,
            leads=prepared.leads,
            changes=(*prepared.changes, *window_changes(spans, prepared.samples, self._constants)),
            warnings=(
                *prepared.warnings,
                *self._short_recording(prepared.samples),
                *self._long_recording(prepared.samples, spans),
                *_unfamiliar(familiarity),
                *self._contradicted(prepared, given.positive[0]),
            ),
            model=self._model,
            classes=self.bundle.classes,
            probabilities=combined(per_window),
            thresholds=point.thresholds,
            positive=given.positive[0],
            alternative=given.alternative[0],
            windows=per_window,
            window_starts=starts,
            familiarity=familiarity,
            heart_rate=prepared.heart_rate,
            axis=prepared.axis,
        )

    def _contradicted(self, prepared: PreparedEcg, positive: Bools) -> list[Notice]:
        """A warning for every positive finding that the computed heart rate or axis contradicts."""
        computed = (("heart_rate_contradicts", prepared.heart_rate), ("axis_contradicts", prepared.axis))
        return [
            Notice(code, f"{entry.name}: {reason}")
            for code, measured in computed
            for entry, given in zip(self.bundle.classes, positive, strict=True)
            if measured and given and (reason := measured.contradiction(entry.abbreviation))
        ]

    def _short_recording(self, samples: int) -> tuple[Notice, ...]:
        """A warning for less than a whole window, with what validation says about that length."""
        if samples >= self._constants.length - FILLED_SAMPLES:
            return ()
        seconds = samples / self._constants.sampling_rate
        sentence = f"{seconds:.1f} s of signal; the published figures are of 10 s"
        curve = self.bundle.contract.get("short_recordings")
        if curve:
            # the curve descends from ten seconds on; np.interp needs it to ascend
            kept = np.interp(seconds, curve["seconds"][::-1], curve["recordings_unchanged"][::-1])
            sentence += f"; of recordings cut to this length {float(kept):.0%} kept every finding"
        return (Notice("short_recording", sentence),)

    def _long_recording(self, samples: int, spans: Sequence[tuple[int, int]]) -> tuple[Notice, ...]:
        """A warning beyond a minute: the more windows, the more likely that one of them is wrong."""
        seconds = samples / self._constants.sampling_rate
        if seconds <= LONGEST_EVALUATED:
            return ()
        sentence = (
            f"{seconds:.0f} s of signal; the model was evaluated on at most {LONGEST_EVALUATED} s, and among "
            f"{len(spans)} windows a false alarm is more likely than in one: see in how many a finding stands"
        )
        return (Notice("long_recording", sentence),)


def _constants(bundle: Bundle) -> EcgPreprocessing:
    if not isinstance(bundle.preprocessing, EcgPreprocessing):
        raise TypeError("an ECG scorer needs an arrhythmia bundle")
    return bundle.preprocessing


def _unfamiliar(familiarity: float | None) -> tuple[Notice, ...]:
    if familiarity is None or familiarity >= 1 - UNFAMILIAR:
        return ()
    sentence = f"unlike the training recordings: {familiarity:.1%} of their kind lie as far from the middle"
    return (Notice("unfamiliar", sentence),)


def window_changes(
    spans: Sequence[tuple[int, int]], samples: int, constants: EcgPreprocessing
) -> tuple[str, ...]:
    """Changes to a record of ``samples`` by windowing, filtering and padding, one phrase each.

    Parameters
    ----------
    spans
        Result of :func:`ibt_deploy.preprocess.ecg.window_spans`.
    samples
        Length of the record at the constants' sampling rate.
    constants
        Constants of the model.
    """
    seconds = constants.length / constants.sampling_rate
    changes = []
    if constants.band is not None:
        changes.append(f"band-passed from {constants.band[0]:g} to {constants.band[1]:g} Hz")
    if samples < constants.length and constants.shortest_seconds is None:
        changes.append(
            f"{samples / constants.sampling_rate:g} s of signal followed by zeros up to {seconds:g} s"
        )
    elif samples > constants.length:
        if len(spans) > 1:
            changes.append(
                f"scored as {len(spans)} windows of {seconds:g} s: of rhythm and ectopy the "
                "highest probability counts, of other findings the mean"
            )
        if rest := samples - spans[-1][1]:
            changes.append(f"the last {rest / constants.sampling_rate:.2g} s were left out")
    return tuple(changes)
