"""A zero-phase Butterworth band-pass, applied in the frequency domain.

The response is that of a digital Butterworth filter run forwards and backwards (``sosfiltfilt``): with
``W = tan(pi f / fs)``, edges ``W1, W2`` and order ``N`` the squared magnitude of the bilinear band-pass is
``1 / (1 + ((W^2 - W1 W2) / (W (W2 - W1)))^(2 N))``, so it is applied once as it stands.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ibt_deploy.types import Floats

_SETTLING_PERIODS = 2.0
"""Extension at either end, in periods of the lower edge: the slowest part of the response has died down."""


def band_passed(signal: Floats, rate: int, band: tuple[float, float], order: int) -> Floats:
    """``signal`` between the edges of ``band``, without delay.

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
    n = signal.shape[1]
    wanted = int(np.ceil(_SETTLING_PERIODS * rate / band[0]))
    odd = min(wanted, n - 1)
    length = _fast_length(n + 2 * wanted)
    gain = _gain(length, rate, band, order)
    out = np.empty(signal.shape)
    rows = max(1, (1 << 17) // length)
    for start in range(0, signal.shape[0], rows):
        part = signal[start : start + rows]
        first, last = part[:, :1], part[:, -1:]
        extended = np.empty((len(part), length))
        extended[:, wanted : wanted + n] = part
        extended[:, wanted - odd : wanted] = 2 * first - part[:, odd:0:-1]
        extended[:, : wanted - odd] = extended[:, wanted - odd, None]
        end = wanted + n
        extended[:, end : end + odd] = 2 * last - part[:, -2 : -2 - odd : -1] if odd else last
        extended[:, end + odd :] = extended[:, end + odd - 1, None]
        filtered = np.fft.irfft(np.fft.rfft(extended, axis=1) * gain, n=length, axis=1)
        out[start : start + rows] = filtered[:, wanted:end]
    return out


@lru_cache(maxsize=8)
def _gain(length: int, rate: int, band: tuple[float, float], order: int) -> Floats:
    """Gain at each frequency of a real FFT of ``length``."""
    low, high = (np.tan(np.pi * edge / rate) for edge in band)
    gain = np.zeros(length // 2 + 1)
    bins = np.arange(1, length // 2 + 1)
    inner = bins[2 * bins < length]
    warped = np.tan(np.pi * inner / length)
    gain[inner] = 1.0 / (1.0 + ((warped**2 - low * high) / (warped * (high - low))) ** (2 * order))
    gain.flags.writeable = False
    return gain


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
