"""Band-pass filter and resampling, in plain numpy.

The band-pass is a zero-phase Butterworth filter, applied in the frequency domain. Its response is that of a
digital filter run forwards and backwards (``sosfiltfilt``): with ``W = tan(pi f / fs)``, edges ``W1, W2`` and
order ``N`` the squared magnitude of the bilinear band-pass is
``1 / (1 + ((W^2 - W1 W2) / (W (W2 - W1)))^(2 N))``, so it is applied once as it stands.

Resampling by a rational factor uses the polyphase FIR filter of ``scipy.signal.resample_poly`` with its
defaults: ``20 max(up, down) + 1`` taps, a sinc of cut-off ``1 / max(up, down)`` under a Kaiser window (beta
5), gain 1 at 0 Hz, zeros beyond both ends. The filter's response repeats every ``up`` outputs, that is every
``down`` inputs. A block of outputs is therefore one matrix product of a stretch of the input with a fixed
band matrix.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np

from ibt_deploy.types import Floats

_SETTLING_PERIODS = 2.0
"""Extension at either end, in periods of the lower edge, after which the slowest response has decayed."""


def band_passed(signal: Floats, rate: int, band: tuple[float, float], order: int) -> Floats:
    """``signal`` filtered to ``band``, without delay.

    The ends are extended oddly (as filtfilt does) by two periods of the lower edge.

    Parameters
    ----------
    signal
        Shape ``(leads, n)``, sampled at ``rate`` Hz.
    band
        Lower and upper edge in Hz: the gain is 1/2 there, as after two passes.
    order
        Order of the low-pass prototype, as in ``scipy.signal.butter``.
    """
    wanted = int(np.ceil(_SETTLING_PERIODS * rate / band[0]))
    length = _fast_length(signal.shape[1] + 2 * wanted)
    gain = _gain(length, rate, band, order)
    rows = max(1, (1 << 17) // length)
    if len(signal) <= rows:
        return _extended_and_filtered(signal, wanted, gain, length)
    out = np.empty(signal.shape)
    for start in range(0, len(signal), rows):
        part = slice(start, start + rows)
        out[part] = _extended_and_filtered(signal[part], wanted, gain, length)
    return out


def _extended_and_filtered(signal: Floats, wanted: int, gain: Floats, length: int) -> Floats:
    """``signal``, extended by ``wanted`` samples before it and to ``length`` in all, times ``gain``."""
    leads, n = signal.shape
    odd = min(wanted, n - 1)
    first, last = signal[:, :1], signal[:, -1:]
    end = wanted + n
    extended = np.empty((leads, length))
    extended[:, wanted:end] = signal
    extended[:, wanted - odd : wanted] = 2 * first - signal[:, odd:0:-1]
    extended[:, : wanted - odd] = extended[:, wanted - odd, None]
    extended[:, end : end + odd] = 2 * last - signal[:, -2 : -2 - odd : -1] if odd else last
    extended[:, end + odd :] = extended[:, end + odd - 1, None]
    spectrum = np.fft.rfft(extended, axis=1)
    parts = spectrum.view(np.float64)
    parts *= gain
    return np.fft.irfft(spectrum, n=length, axis=1, out=extended)[:, wanted:end]


@lru_cache(maxsize=8)
def _gain(length: int, rate: int, band: tuple[float, float], order: int) -> Floats:
    """Gain of the real and of the imaginary part at each frequency of a real FFT of ``length``."""
    low, high = (np.tan(np.pi * edge / rate) for edge in band)
    gain = np.zeros(length // 2 + 1)
    bins = np.arange(1, length // 2 + 1)
    inner = bins[2 * bins < length]
    warped = np.tan(np.pi * inner / length)
    gain[inner] = 1.0 / (1.0 + ((warped**2 - low * high) / (warped * (high - low))) ** (2 * order))
    gain = np.repeat(gain, 2)
    gain.flags.writeable = False
    return gain


@lru_cache(maxsize=64)
def _fast_length(least: int) -> int:
    """Smallest number of at least ``least`` with no prime factor above 5."""
    best = 1 << (least - 1).bit_length()
    power5 = 1
    while power5 < best:
        power35 = power5
        while power35 < best:
            size = power35 << max(0, (-(-least // power35) - 1).bit_length())
            best = min(best, size) if size >= least else best
            power35 *= 3
        power5 *= 5
    return best


KAISER_BETA = 5.0
HALF_LENGTH = 10
"""Half the filter's length, in samples of the lower of the two rates."""

_MIN_BLOCK = 32
_CHUNK_VALUES = 1 << 20


def medians(rows: Floats) -> Floats:
    """``np.median(rows, axis=-1)`` of rows without NaN, in a sixth of the time."""
    n = rows.shape[-1]
    half = n // 2
    parted = np.partition(rows, half, axis=-1)
    middle: Floats = parted[..., half]
    return middle if n % 2 else (parted[..., :half].max(axis=-1) + middle) / 2


def resample(signal: Floats, rate: int, target: int) -> Floats:
    """Resample ``signal`` from ``rate`` Hz to ``target`` Hz.

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
