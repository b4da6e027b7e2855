"""The decision rule that turns probabilities into findings, shared by scoring, tuning and evaluation.

Thresholds apply to calibrated probabilities. Operating points differ in the other rules:

- by default every class that reaches its threshold is positive; if none does, the nearest one is, because an
  empty answer earns nothing in the Challenge;
- an *exclusive* operating point reports nothing if nothing reaches its threshold, and of findings that
  exclude each other only the one furthest above its threshold; the others become alternatives.

A long recording is scored in windows; how they are combined depends on the finding, see :data:`COMBINED`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ibt_deploy.types import Array, Bools, Floats
from ibt_deploy.vocabulary import CLASSES, N_CLASSES

EXCLUSIONS: tuple[tuple[str, str, str], ...] = (
    ("NSR", "AF AFL SB STach PR", "one rhythm drives the ventricles at a time"),
    ("AF", "AFL SB STach PR", "one rhythm drives the ventricles at a time"),
    ("AFL", "SB STach PR", "one rhythm drives the ventricles at a time"),
    ("SB", "STach PR", "one rhythm drives the ventricles at a time"),
    ("STach", "PR", "one rhythm drives the ventricles at a time"),
    ("SA", "AF AFL PR", "sinus arrhythmia is a rhythm of the sinus node, of any rate"),
    ("Brady", "STach NSR", "below 60 beats per minute the rate is neither fast nor normal"),
    ("IAVB", "AF AFL", "without P waves there is no PR interval"),
    ("LPR", "AF AFL", "without P waves there is no PR interval"),
    ("RBBB", "IRBBB LBBB", "a block is complete or not, and one bundle must conduct"),
    ("LBBB", "IRBBB LAnFB", "the block of the whole left bundle includes its fascicle and hides the right"),
    ("NSIVCB", "LBBB RBBB", "nonspecific means that the delay fits neither bundle"),
    ("RAD", "LAD LAnFB", "the axis points to one side; anterior fascicular block turns it to the left"),
)
"""Findings that exclude each other, with the clinical reason.

Sinus arrhythmia goes with sinus rhythm, bradycardia and tachycardia: its irregular beats have a sinus rate.
"""


COMBINED: tuple[tuple[str, Literal["any", "mean"], str], ...] = (
    (
        "AF AFL NSR SA SB STach Brady PR",
        "any",
        "rhythm and rate change: atrial fibrillation comes in episodes",
    ),
    ("PAC PVC", "any", "a single premature beat is one"),
    ("LAD RAD", "mean", "the axis stays; windows differ by noise and breathing"),
    ("BBB LBBB RBBB IRBBB LAnFB NSIVCB", "mean", "a block in the ventricles rarely comes and goes"),
    ("IAVB LPR", "mean", "every beat of a stretch has to be late"),
    ("LQRSV LQT PRWP QAb TAb TInv", "mean", "the shape of complexes changes slowly; a window may be noisy"),
)
"""How the windows of a recording are combined into one probability, the highest or the mean, and why."""


class Decided(NamedTuple):
    """Decisions for recordings: both of shape ``(n, classes)``, never true in the same place.

    Attributes
    ----------
    positive
        Findings.
    alternative
        Classes that reach their threshold but are excluded by a finding; only at exclusive operating points.
    """

    positive: Bools
    alternative: Bools


def decided(
    probabilities: Array, thresholds: Array, evaluable: Array | None = None, *, exclusive: bool = False
) -> Decided:
    """Findings and alternatives.

    Of mutually exclusive classes that reach their thresholds, the one with the highest ``probability /
    threshold`` is accepted first, then the next unless it excludes an accepted one, and so on.

    Parameters
    ----------
    probabilities
        Shape ``(n, classes)``, calibrated.
    thresholds
        Shape ``(classes,)``, above 0.
    evaluable
        Shape ``(classes,)``: classes that may be reported at all; default: every class.
    exclusive
        Whether the operating point is exclusive; the classes are then the 26.
    """
    allowed = np.ones(np.shape(thresholds), dtype=bool) if evaluable is None else np.asarray(evaluable, bool)
    reached: Bools = (probabilities >= thresholds) & allowed
    if not exclusive:
        empty = np.flatnonzero(~reached.any(axis=1))
        nearest = np.argmax(np.where(allowed, probabilities[empty] / thresholds, -1.0), axis=1)
        reached[empty, nearest] = True
        return Decided(reached, np.zeros_like(reached))
    positive = np.zeros_like(reached)
    for row in np.flatnonzero(reached.any(axis=1)):
        candidates = np.flatnonzero(reached[row])
        ratios = probabilities[row, candidates] / thresholds[candidates]
        for c in candidates[np.argsort(-ratios, kind="stable")]:
            positive[row, c] = not (EXCLUDES[c] & positive[row]).any()
    return Decided(positive, reached & ~positive)


def decisions(
    probabilities: Array, thresholds: Array, evaluable: Array | None = None, *, exclusive: bool = False
) -> Bools:
    """The findings of :func:`decided` without the alternatives."""
    return decided(probabilities, thresholds, evaluable, exclusive=exclusive).positive


def combined(per_window: Array) -> Floats:
    """One probability per class, ``(26,)``, from per-window ones, ``(windows, 26)``: see :data:`COMBINED`."""
    found: Floats = np.where(ANY, per_window.max(axis=0), per_window.mean(axis=0))
    return found


def decided_over_windows(
    per_window: Array, thresholds: Array, evaluable: Array | None = None, *, exclusive: bool = False
) -> Decided:
    """Findings and alternatives of one recording, shape ``(1, 26)`` each.

    Rhythms exclude each other only at the same time, so an exclusive operating point decides on each window
    and then reports what was a finding in any of them. ``per_window`` has shape
    ``(windows, 26)``; the other parameters are those of :func:`decided`.
    """
    if not exclusive:
        return decided(combined(per_window)[None], thresholds, evaluable)
    at_a_time = np.where(ANY, per_window, per_window.mean(axis=0))
    found = decided(at_a_time, thresholds, evaluable, exclusive=True)
    positive: Bools = found.positive.max(axis=0, keepdims=True)
    alternative: Bools = found.alternative.max(axis=0, keepdims=True) & ~positive
    return Decided(positive, alternative)


_INDEX = {name: i for i, c in enumerate(CLASSES) for name in c.abbreviation.split("|")}
ANY: Bools = np.zeros(N_CLASSES, dtype=bool)
"""Shape ``(26,)``: classes for which one window is enough."""
for _names, _how, _ in COMBINED:
    ANY[[_INDEX[_name] for _name in _names.split()]] = _how == "any"


def _excludes() -> Bools:
    matrix = np.zeros((N_CLASSES, N_CLASSES), dtype=bool)
    for one, others, _ in EXCLUSIONS:
        for other in others.split():
            matrix[_INDEX[one], _INDEX[other]] = matrix[_INDEX[other], _INDEX[one]] = True
    return matrix


EXCLUDES: Bools = _excludes()
"""Shape ``(26, 26)``, symmetric: true where two classes exclude each other."""
