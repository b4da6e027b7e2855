"""From what was read to what is scored, for many inputs at once.

Batches are made of the inputs of one part in their order and never depend on time, so that a part comes out
the same whoever scores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ibt_deploy.bundle import Bundle
from ibt_deploy.errors import InputError, UnsupportedFormat
from ibt_deploy.inputs import refusal
from ibt_deploy.predictions import Refusal
from ibt_deploy.preprocess.ecg import EcgPreprocessing, StandardEcg, examined, windows
from ibt_deploy.preprocess.stay import StayPreprocessing
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.records import Recording, Stay
from ibt_deploy.scorers.ecg import PreparedEcg
from ibt_deploy.scorers.stay import CheckedStay, PreparedStay, features_of

Prepared: TypeAlias = PreparedEcg | PreparedStay | Refusal
Pool: TypeAlias = list[Prepared]
POOL_WINDOWS = 128
POOL_STAYS, POOL_HOURS = 512, 32_768
"""What goes to the scorer at once: the more, the less a batch of stays is padding."""


def pools(items: Iterable[Recording | Stay | Refusal], bundle: Bundle) -> Iterator[Pool]:
    """The inputs ready to be scored, in order, so many at a time as are worth a call.

    Parameters
    ----------
    items
        Of one part.
    bundle
        The model.
    """
    constants = bundle.preprocessing
    if isinstance(constants, EcgPreprocessing):
        return _recordings(items, bundle, constants)
    return _stays(items, bundle, constants)


def _recordings(
    items: Iterable[Recording | Stay | Refusal], bundle: Bundle, constants: EcgPreprocessing
) -> Iterator[Pool]:
    pool: Pool = []
    work = 0
    for item in items:
        prepared: Prepared
        if isinstance(item, Recording):
            try:
                standard = examined(item)
                prepared = _without_signals(item, standard, windows(standard, constants))
                work += prepared.size
            except InputError as error:
                prepared = refusal(item.source, error.at(item.source))
        else:
            prepared = item if isinstance(item, Refusal) else _wrong_task(item, bundle)
        pool.append(prepared)
        if work >= POOL_WINDOWS or len(pool) >= 2 * POOL_WINDOWS:
            yield pool
            pool, work = [], 0
    if pool:
        yield pool


def _stays(
    items: Iterable[Recording | Stay | Refusal], bundle: Bundle, constants: StayPreprocessing
) -> Iterator[Pool]:
    gathered: list[CheckedStay | Refusal] = []
    hours = 0
    for item in items:
        if isinstance(item, Stay):
            try:
                checked = CheckedStay(item, *checked_stay(item))
                gathered.append(checked)
                hours += len(checked.values)
            except InputError as error:
                gathered.append(refusal(item.source, error))
        else:
            gathered.append(item if isinstance(item, Refusal) else _wrong_task(item, bundle))
        if hours >= POOL_HOURS or len(gathered) >= POOL_STAYS:
            yield _featurised(gathered, constants)
            gathered, hours = [], 0
    if gathered:
        yield _featurised(gathered, constants)


def _featurised(gathered: Sequence[CheckedStay | Refusal], constants: StayPreprocessing) -> Pool:
    features = iter(features_of([entry for entry in gathered if isinstance(entry, CheckedStay)], constants))
    return [
        entry
        if isinstance(entry, Refusal)
        else PreparedStay(entry.stay, entry.values, entry.warnings, next(features))
        for entry in gathered
    ]


def _without_signals(
    recording: Recording, standard: StandardEcg, ready: npt.NDArray[np.float32]
) -> PreparedEcg:
    """A prepared recording whose signals have kept their shape alone; they weigh seven times its windows."""
    return PreparedEcg(
        replace(recording, signal=np.broadcast_to(0.0, recording.signal.shape)),
        replace(standard, signal=np.broadcast_to(0.0, standard.signal.shape)),
        ready,
    )


def _wrong_task(item: Recording | Stay, bundle: Bundle) -> Refusal:
    found = "an ECG" if isinstance(item, Recording) else "an ICU stay"
    message = f"this is {found}, and the model {bundle.name} is for {bundle.task}"
    return refusal(item.source, UnsupportedFormat(message, where=item.source, code="wrong_task"))
