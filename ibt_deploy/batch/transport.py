"""Prepared inputs on their way to another process: an array without content must not travel as zeros."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ibt_deploy.batch.prepare import Pool, Prepared
from ibt_deploy.scorers.ecg import PreparedEcg

_NOTHING = np.zeros((0, 0))
Packed = tuple[Prepared, tuple[int, int] | None, tuple[int, int] | None]


def packed(pools: Sequence[Pool]) -> list[list[Packed]]:
    """The pools; of recordings only the shapes of their signals are kept, besides the windows."""
    return [[_packed(prepared) for prepared in pool] for pool in pools]


def unpacked(pools: Sequence[Sequence[Packed]]) -> Iterator[Pool]:
    """What :func:`packed` was given, with signals of the same shape and no content."""
    for pool in pools:
        yield [_unpacked(entry) for entry in pool]


def _packed(prepared: Prepared) -> Packed:
    if not isinstance(prepared, PreparedEcg):
        return prepared, None, None
    recording, standard = prepared.recording, prepared.standard
    empty = replace(
        prepared,
        recording=replace(recording, signal=np.zeros((len(recording.leads), 0))),
        standard=replace(standard, signal=_NOTHING),
    )
    return empty, _shape(recording.signal), _shape(standard.signal)


def _unpacked(entry: Packed) -> Prepared:
    prepared, raw, standard = entry
    if isinstance(prepared, PreparedEcg) and raw is not None and standard is not None:
        return replace(
            prepared,
            recording=replace(prepared.recording, signal=np.broadcast_to(0.0, raw)),
            standard=replace(prepared.standard, signal=np.broadcast_to(0.0, standard)),
        )
    return prepared


def _shape(signal: npt.NDArray[np.float64]) -> tuple[int, int]:
    return signal.shape[0], signal.shape[1]
