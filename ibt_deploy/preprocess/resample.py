"""Resampling by a rational factor with a polyphase FIR filter, in numpy alone.

The filter is that of ``scipy.signal.resample_poly`` with its defaults: ``20 max(up, down) + 1`` taps, a sinc
of cut-off ``1 / max(up, down)`` under a Kaiser window (beta 5), gain 1 at 0 Hz, zeros beyond both ends.

The filter's response repeats every ``up`` outputs, that is every ``down`` inputs. A block of outputs is
therefore one matrix product of a stretch of the input with a fixed band matrix.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np

from ibt_deploy.types import Floats

KAISER_BETA = 5.0
HALF_LENGTH = 10
"""Half the filter's length, in samples of the lower of the two rates."""

_MIN_BLOCK = 32
_CHUNK_VALUES = 1 << 20


def resample(signal: Floats, rate: int, target: int) -> Floats:
    """``signal``, sampled at ``rate`` Hz, at ``target`` Hz.

    Parameters
    ----------
    signal
        Shape ``(leads, n)``, without NaN.

    Returns
    -------
    Floats
        Shape ``(leads, ceil(n * target / rate))``; sample 0 stays in place.
    """
    common = gcd(rate, target)
    up, down = target // common, rate // common
    if up == down:
        return np.asarray(signal, dtype=np.float64)
    matrix, step_in, step_out, before = _block_matrix(up, down)
    leads, n = signal.shape
    n_out = -(-n * up // down)
    blocks = -(-n_out // step_out)
    width = matrix.shape[0]
    padded = np.zeros((leads, (blocks - 1) * step_in + width))
    kept = min(n, padded.shape[1] - before)
    padded[:, before : before + kept] = signal[:, :kept]
    stride = padded.strides[1]
    stretches = np.lib.stride_tricks.as_strided(
        padded, (leads, blocks, width), (padded.strides[0], stride * step_in, stride), writeable=False
    )
    out = np.empty((leads, blocks, step_out))
    chunk = max(1, _CHUNK_VALUES // (leads * width))
    for start in range(0, blocks, chunk):
        part = stretches[:, start : start + chunk]
        out[:, start : start + chunk] = (part.reshape(-1, width) @ matrix).reshape(leads, -1, step_out)
    return out.reshape(leads, -1)[:, :n_out]


@lru_cache(maxsize=16)
def filter_taps(up: int, down: int) -> Floats:
    """Taps of the low-pass filter at ``up`` times the input rate, gain ``up``; read-only."""
    longer = max(up, down)
    half = HALF_LENGTH * longer
    position = np.arange(-half, half + 1) / longer
    taps = np.sinc(position) * np.kaiser(2 * half + 1, KAISER_BETA)
    taps *= up / taps.sum()
    taps.flags.writeable = False
    return np.asarray(taps)


@lru_cache(maxsize=16)
def _block_matrix(up: int, down: int) -> tuple[Floats, int, int, int]:
    """Band matrix ``(inputs, outputs)`` of one block, inputs and outputs per block, inputs before the block.

    Output ``m`` is the sum over ``k`` of ``taps[m down - k up + half] x[k]``.
    """
    taps = filter_taps(up, down)
    half = (len(taps) - 1) // 2
    periods = max(1, -(-_MIN_BLOCK // up))
    step_in, step_out = periods * down, periods * up
    before = half // up
    last = ((step_out - 1) * down + half) // up
    k = np.arange(-before, last + 1)[:, None]
    tap = np.arange(step_out)[None, :] * down - k * up + half
    inside = (tap >= 0) & (tap < len(taps))
    matrix = np.where(inside, taps[np.clip(tap, 0, len(taps) - 1)], 0.0)
    matrix.flags.writeable = False
    return matrix, step_in, step_out, before
