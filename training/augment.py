"""RandAugment for ECG (Cubuk et al. 2020) with the six operations the paper names.

Every operation takes a normalised signal ``(leads, samples)`` at 200 Hz (unit: the global
deviation, about 0.2 mV), a strength ``m`` in [0, 1] and a generator, and returns a new signal of the same
shape. The magnitudes are ours; the sources they lean on are listed in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float32]
Operation = Callable[[Signal, float, np.random.Generator], Signal]

SAMPLING_RATE = 200
MAX_MASKED_LEADS = 6


def gaussian_smoothing(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Kernel deviation ``2 m`` samples, truncated at 4 deviations, edges replicated."""
    del rng
    deviation = 2.0 * m
    radius = int(np.ceil(4 * deviation))
    if radius == 0:
        return signal
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    padded = np.pad(signal, ((0, 0), (radius, radius)), mode="edge")
    length = signal.shape[1]
    smoothed: Signal = kernel[0] * padded[:, :length]
    for i in range(1, len(kernel)):
        smoothed += kernel[i] * padded[:, i : i + length]
    return smoothed


def time_resampling(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Stretch by a factor log-uniform in ``[1 / (1 + 0.1 m), 1 + 0.1 m]``; cut at random or append zeros.

    At most 10 %: the factor changes heart rate, PR and QT, which are labels.
    """
    limit = np.log1p(0.1 * m)
    factor = float(np.exp(rng.uniform(-limit, limit)))
    length = signal.shape[1]
    stretched = round(length * factor)
    if stretched == length:
        return signal
    position = np.linspace(0, length - 1, stretched)
    low = np.minimum(position.astype(np.int64), length - 2)
    weight = (position - low).astype(np.float32)
    resampled = signal[:, low] * (1 - weight) + signal[:, low + 1] * weight
    if stretched > length:
        start = int(rng.integers(0, stretched - length + 1))
        return np.ascontiguousarray(resampled[:, start : start + length])
    result = np.zeros_like(signal)
    result[:, :stretched] = resampled
    return result


def gaussian_noise(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Independent noise of deviation uniform in ``[0, 0.2 m]``."""
    deviation = np.float32(rng.uniform(0, 0.2 * m))
    noisy: Signal = signal + deviation * rng.standard_normal(signal.shape, dtype=np.float32)
    return noisy


def baseline_wander(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Three sinusoids of 0.05 to 0.5 Hz, in phase over the leads as respiration is, each lead with a gain."""
    t = np.arange(signal.shape[1], dtype=np.float32) / SAMPLING_RATE
    wander = np.zeros_like(t)
    for _ in range(3):
        frequency, phase = rng.uniform(0.05, 0.5), rng.uniform(0, 2 * np.pi)
        wander += np.float32(rng.uniform(0, 0.8 * m)) * np.sin(2 * np.pi * frequency * t + phase).astype(
            np.float32
        )
    leads = signal.shape[0]
    gain = rng.uniform(0.5, 1.5, leads) * rng.choice([-1.0, 1.0], leads)
    wandering: Signal = signal + gain.astype(np.float32)[:, None] * wander
    return wandering


def time_mask(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """One window of up to ``0.2 m`` of the record set to zero in all leads."""
    length = signal.shape[1]
    width = round(rng.uniform(0, 0.2 * m) * length)
    if width == 0:
        return signal
    start = int(rng.integers(0, length - width + 1))
    masked = signal.copy()
    masked[:, start : start + width] = 0
    return masked


def channel_mask(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Each lead set to zero with probability ``0.3 m``, never more than six."""
    chosen = np.flatnonzero(rng.random(signal.shape[0]) < 0.3 * m)
    if len(chosen) > MAX_MASKED_LEADS:
        chosen = rng.choice(chosen, MAX_MASKED_LEADS, replace=False)
    if not len(chosen):
        return signal
    masked = signal.copy()
    masked[chosen] = 0
    return masked


def identity(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Leave the signal alone."""
    del m, rng
    return signal


OPERATIONS: tuple[Operation, ...] = (
    gaussian_smoothing,
    time_resampling,
    gaussian_noise,
    baseline_wander,
    time_mask,
    channel_mask,
    identity,
)


def rand_augment(signal: Signal, n_ops: int, magnitude: float, rng: np.random.Generator) -> Signal:
    """``n_ops`` operations drawn with replacement, all of ``magnitude`` (0 to 10), applied in drawn order.

    Magnitude 0 is exactly the identity.
    """
    if magnitude == 0:
        return signal
    for choice in rng.integers(0, len(OPERATIONS), n_ops):
        signal = OPERATIONS[choice](signal, magnitude / 10, rng)
    return signal
