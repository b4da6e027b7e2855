"""Risk of the next hour of a stay without recomputing the hours before it.

Possible because the model is causal: what later hours need of earlier ones is kept in a :class:`StreamState`
(rows, feature state, keys and values of the transformer), at most 2.2 MB for 336 hours. The risks equal those
of the whole stay scored at once to 1e-5. A correction of an earlier row cannot be streamed: start again from
the first row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import Device
from ibt_deploy.errors import BundleError, TooShort
from ibt_deploy.preprocess.stay import FeatureState, featurise_next
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.preprocess.stay_constants import StayPreprocessing
from ibt_deploy.records import Notice, Stay
from ibt_deploy.scorers.session import OpenGraph
from ibt_deploy.types import Bools, Float32s, Floats


@dataclass(frozen=True, eq=False)
class StreamState:
    """What the next hour needs to know of a stay.

    Attributes
    ----------
    values
        Rows so far, shape ``(hours, 40)``.
    features
        State of the features.
    past_k, past_v
        Keys and values, shape ``(blocks, 1, heads, hours, size)``.
    sha256
        Of the bundle that made it; no other may go on from here.
    """

    values: Floats
    features: FeatureState
    past_k: Float32s
    past_v: Float32s
    sha256: str


class Step(NamedTuple):
    """Risks and alarms of the new hours, warnings about the stay so far, and the state after them."""

    risk: Floats
    alarms: Bools
    warnings: tuple[Notice, ...]
    state: StreamState


class RiskStream:
    """Scores stays hour by hour; holds no stay itself, so that one serves any number of them.

    Parameters
    ----------
    bundle, graph
        A sepsis bundle and its open graph; :meth:`load` opens both.
    operating_point
        Name of the threshold; the bundle's default where left out.

    Raises
    ------
    BundleError
        When the bundle is for another task.
    """

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None = None) -> None:
        if not isinstance(bundle.preprocessing, StayPreprocessing):
            raise BundleError(f"{bundle.path}: a bundle for {bundle.task} cannot score stays")
        self._bundle = bundle
        self._graph = graph
        self._constants = bundle.preprocessing
        self._threshold = float(bundle.operating_point(operating_point).thresholds[0])

    @classmethod
    def load(
        cls,
        task_or_directory: str | Path = "sepsis",
        *,
        device: Device = "auto",
        threads: int | None = None,
        operating_point: str | None = None,
    ) -> RiskStream:
        """Load a bundle and make it ready; parameters and errors as for :func:`ibt_deploy.load`."""
        bundle = load_bundle(task_or_directory)
        graph = OpenGraph.of(bundle, device=device, variant=None, threads=threads)
        return cls(bundle, graph, operating_point)

    def next(self, rows: Floats, state: StreamState | None = None) -> Step:
        """Score the hours that follow.

        Parameters
        ----------
        rows
            New hourly rows, shape ``(new, 40)``, at least one.
        state
            After the rows before; None at the start of a stay.

        Raises
        ------
        InputError
            When the stay up to here is refused, by the same rules as a whole stay; the state stays usable.
        BundleError
            When the state was made by another bundle.
        """
        if not len(rows):
            raise TooShort("no new hour", code="no_rows")
        if state is None:
            past_k, past_v = self._graph.empty_cache(1)
            none = np.empty((0, rows.shape[1]))
            state = StreamState(none, FeatureState.empty(), past_k, past_v, self._bundle.sha256)
        elif state.sha256 != self._bundle.sha256:
            raise BundleError("this state was made by another bundle; start again from the first hour")
        values = np.concatenate([state.values, rows])
        cleaned, warnings = checked_stay(Stay(values, patient_id="stream", source="stream", format="rows"))
        before = len(state.values)
        features, after = featurise_next(cleaned[before:], self._constants, state.features, cleaned=True)
        logits, past_k, past_v = self._graph.run(
            ["logit", "present_k", "present_v"],
            {
                "rows": features[None],
                "position": np.arange(before, len(values))[None],
                "past_k": state.past_k,
                "past_v": state.past_v,
            },
        )
        risk = self._bundle.calibration.probability(logits[0])
        new = StreamState(values, after, past_k, past_v, state.sha256)
        return Step(risk, risk >= self._threshold, warnings, new)
