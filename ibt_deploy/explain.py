"""Occlusion: which seconds and leads, or which hours and variables, moved a finding or a risk.

A part of the input is removed and the model run again; the drop in log odds is the effect of that part
(Zeiler and Fergus, ECCV 2014). In an ECG a stretch of all leads, or one lead throughout, becomes a straight
line between its ends; in a stay a variable, or the measurements of an hour, become missing. Effects of parts
that the model uses together do not add up to the whole. They say what the model relied on, not what causes
what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibt_deploy.bundle import Calibration
from ibt_deploy.preprocess.ecg import SAMPLING_RATE, window_spans
from ibt_deploy.scorers.ecg import EcgScorer, PreparedEcg
from ibt_deploy.scorers.stay import CheckedStay, StayScorer
from ibt_deploy.types import Float32s, Floats, Ints
from ibt_deploy.vocabulary import LEADS, N_TIME_VARYING, NAMES

STRETCH_SECONDS = 0.5
BATCH_SIZE = 32
DECIMALS = 4


@dataclass(frozen=True, eq=False)
class Explanation:
    """Effects of the parts of one input on one output, in units of log odds; positive where a part raised it.

    Attributes
    ----------
    output
        Abbreviation of the finding; ``risk`` for a stay.
    starts, ends
        Seconds of each stretch of an ECG, or hours of a stay (both the same), shape ``(parts,)``.
    over_time
        Effect of each stretch or hour, shape ``(parts,)``.
    channels
        Names of leads or variables.
    by_channel
        Effect of each of them, shape ``(channels,)``.
    """

    output: str
    starts: Floats
    ends: Floats
    over_time: Floats
    channels: tuple[str, ...]
    by_channel: Floats

    def to_dict(self) -> dict[str, Any]:
        """The explanation as a JSON-compatible dictionary."""
        return {
            "output": self.output,
            "method": "occlusion",
            "unit": "log odds",
            "time": [
                {"start": round(float(a), 3), "end": round(float(b), 3), "effect": round(float(e), DECIMALS)}
                for a, b, e in zip(self.starts, self.ends, self.over_time, strict=True)
            ],
            "channels": {
                name: round(float(e), DECIMALS)
                for name, e in zip(self.channels, self.by_channel, strict=True)
            },
        }


def explained_findings(
    scorer: EcgScorer, prepared: PreparedEcg, findings: Sequence[str] | None
) -> list[Explanation]:
    """Effects of every half second and every lead on findings.

    Parameters
    ----------
    findings
        Abbreviations; where left out, the positive ones or, without any, the one nearest to its threshold.

    Raises
    ------
    ValueError
        For a class that does not exist.
    """
    names = [c.abbreviation for c in scorer.bundle.classes]
    chosen = findings
    if chosen is None:
        answer = scorer.score([prepared], BATCH_SIZE)[0].findings
        nearest = max((f for f in answer if f.evaluable), key=lambda f: f.probability / f.threshold)
        chosen = [f.abbreviation for f in answer if f.positive] or [nearest.abbreviation]
    if unknown := [name for name in chosen if name not in names]:
        raise ValueError(f"no finding {unknown[0]!r}; there is {', '.join(names)}")
    outputs = {name: names.index(name) for name in chosen}
    return explained_ecg(scorer, prepared, scorer.bundle.calibration, outputs, BATCH_SIZE)


def explained_risk(
    scorer: StayScorer,
    prepared: CheckedStay,
    findings: Sequence[str] | None,  # noqa: ARG001
) -> list[Explanation]:
    """Effects of every hour and every variable on the highest risk; a stay has no findings to choose."""
    together = next(n for longest, n in scorer.bulk.together if prepared.size <= longest)
    return [explained_stay(scorer, prepared, scorer.bundle.calibration, together)]


def explained_ecg(
    scorer: EcgScorer,
    prepared: PreparedEcg,
    calibration: Calibration,
    outputs: Mapping[str, int],
    batch_size: int,
) -> list[Explanation]:
    """Effects of every half second and every lead of a recording on findings.

    Each window is explained on its own, as in scoring; a lead's effect is the mean over the windows.

    Parameters
    ----------
    scorer
        Runs the graph.
    prepared
        Result of ``scorer.prepare``.
    calibration
        Calibration of the bundle.
    outputs
        Index of each class, 0 to 25, by its abbreviation.
    batch_size
        Windows that go through the graph together.
    """
    stretch = round(STRETCH_SECONDS * SAMPLING_RATE)
    chosen = np.array(list(outputs.values()), dtype=np.int64)
    edges_of: list[Floats] = []
    over_time: list[Floats] = []
    by_lead: list[Floats] = []
    for window, (first, last) in zip(
        prepared.windows,
        window_spans(prepared.samples, prepared.windows.shape[2]),
        strict=True,
    ):
        edges = np.append(np.arange(0, last - first, stretch), last - first)
        stretches = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        copies = [window, *(_straightened(window, slice(None), a, b) for a, b in stretches)]
        copies += [_straightened(window, slice(i, i + 1), 0, last - first) for i in range(len(LEADS))]
        log_odds = _log_odds(scorer.logits(np.stack(copies), batch_size), calibration, chosen)
        effects = log_odds[0] - log_odds[1:]
        edges_of.append((np.array(stretches) + first) / SAMPLING_RATE)
        over_time.append(effects[: len(stretches)])
        by_lead.append(effects[len(stretches) :])
    starts, ends = np.concatenate(edges_of).T
    time, leads = np.concatenate(over_time), np.mean(by_lead, axis=0)
    return [Explanation(name, starts, ends, time[:, i], LEADS, leads[:, i]) for i, name in enumerate(outputs)]


def explained_stay(
    scorer: StayScorer, prepared: CheckedStay, calibration: Calibration, batch_size: int
) -> Explanation:
    """Effects of every hour's measurements and every variable on the risk where it is highest.

    Hours after the one of highest risk have the effect 0, because the model only looks back.
    """
    peak = int(np.argmax(scorer.logits(scorer.features([prepared]), 1)[0]))
    past = prepared.values[: peak + 1]
    measured = [i for i in range(N_TIME_VARYING) if not np.isnan(past[:, i]).all()]

    def without(rows: slice, columns: slice) -> CheckedStay:
        values = past.copy()
        values[rows, columns] = np.nan
        return CheckedStay(prepared.stay, values, prepared.warnings)

    all_rows, varying = slice(None), slice(0, N_TIME_VARYING)
    copies = [CheckedStay(prepared.stay, past, prepared.warnings)]
    copies += [without(slice(t, t + 1), varying) for t in range(len(past))]
    copies += [without(all_rows, slice(i, i + 1)) for i in measured]
    logits = np.stack(scorer.logits(scorer.features(copies), batch_size))[:, -1:]
    log_odds = _log_odds(logits, calibration, np.zeros(1, dtype=np.int64))[:, 0]
    effects = log_odds[0] - log_odds[1:]
    hours = prepared.stay.hours.astype(np.float64)
    over_time = np.zeros(len(hours))
    over_time[: len(past)] = effects[: len(past)]
    names = tuple(NAMES[i] for i in measured)
    return Explanation("risk", hours, hours, over_time, names, effects[len(past) :])


def _straightened(window: Float32s, leads: slice, start: int, stop: int) -> Float32s:
    """A copy with a straight line in ``leads`` from ``start`` to ``stop``; NaN stays NaN."""
    out = window.copy()
    part = out[leads, start:stop]
    absent = np.isnan(part)
    ends = np.nan_to_num(part[:, [0, -1]])
    line = np.linspace(ends[:, 0], ends[:, 1], stop - start, axis=1)
    out[leads, start:stop] = np.where(absent, np.nan, line)
    return out


def _log_odds(logits: Float32s, calibration: Calibration, outputs: Ints) -> Floats:
    """Calibrated log odds of some outputs, shape ``(n, outputs)``."""
    values: Floats = calibration.slope[outputs] * logits[:, outputs].astype(np.float64)
    return values + calibration.intercept[outputs]
