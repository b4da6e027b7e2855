"""RandAugment for ECG (Cubuk et al. 2020) with the six operations the paper names.

Every operation takes a normalised signal ``(leads, samples)`` at 200 Hz (unit: the global standard deviation,
about 0.2 mV), a strength ``m`` in [0, 1] and a generator, and returns a new signal of the same shape. The
magnitudes are ours; the sources they draw on are listed in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float32]
Operation = Callable[[Signal, float, np.random.Generator], Signal]

SAMPLING_RATE = 200
MAX_MASKED_LEADS = 6
HIGHEST_WANDER = 0.5
"""Hz."""
LIMB_LEADS = 6
"""I, II, III, aVR, aVL and aVF come first."""


def gaussian_smoothing(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Gaussian kernel of standard deviation ``2 m`` samples, truncated at 4 deviations, edges replicated."""
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


def time_resampling(signal: Signal, m: float, rng: np.random.Generator, shortest: int = 1) -> Signal:
    """Stretch by a factor log-uniform in ``[1 / (1 + 0.1 m), 1 + 0.1 m]``, ``shortest`` samples or more.

    At most 10 %: the factor changes heart rate, PR and QT, which are labels.
    """
    limit = np.log1p(0.1 * m)
    length = signal.shape[1]
    stretched = max(round(length * float(np.exp(rng.uniform(-limit, limit)))), shortest)
    if stretched == length:
        return signal
    position = np.linspace(0, length - 1, stretched)
    low = np.minimum(position.astype(np.int64), length - 2)
    weight = (position - low).astype(np.float32)
    resampled: Signal = signal[:, low] * (1 - weight) + signal[:, low + 1] * weight
    return resampled


def gaussian_noise(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Independent noise of standard deviation uniform in ``[0, 0.2 m]``."""
    deviation = np.float32(rng.uniform(0, 0.2 * m))
    noisy: Signal = signal + deviation * rng.standard_normal(signal.shape, dtype=np.float32)
    return noisy


def baseline_wander(signal: Signal, m: float, rng: np.random.Generator) -> Signal:
    """Three sinusoids of 0.05 to 0.5 Hz, in phase across leads like respiration, with a gain per lead."""
    t = np.arange(signal.shape[1], dtype=np.float32) / SAMPLING_RATE
    wander = np.zeros_like(t)
    for _ in range(3):
        frequency, phase = rng.uniform(0.05, HIGHEST_WANDER), rng.uniform(0, 2 * np.pi)
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
    """Each lead set to zero with probability ``0.3 m``, never more than six.

    At least two of the six limb leads stay: any two of them fix the electrical axis, which is a label.
    """
    chosen = np.flatnonzero(rng.random(signal.shape[0]) < 0.3 * m)
    limb = chosen[chosen < LIMB_LEADS]
    if signal.shape[0] > LIMB_LEADS and len(limb) > LIMB_LEADS - 2:
        spared = rng.choice(limb, len(limb) - (LIMB_LEADS - 2), replace=False)
        chosen = np.setdiff1d(chosen, spared)
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


def operations_under(band: tuple[float, ...]) -> tuple[Operation, ...]:
    """The operations that make sense on signals filtered to ``band`` (Hz, empty for unfiltered ones).

    A high-pass at or above the frequencies of wander removes it in scoring, so none is added in training.
    """
    removes_wander = bool(band) and band[0] >= HIGHEST_WANDER
    return tuple(o for o in OPERATIONS if not (removes_wander and o is baseline_wander))


def rand_augment(
    signal: Signal,
    n_ops: int,
    magnitude: float,
    rng: np.random.Generator,
    *,
    length: int | None = None,
    operations: tuple[Operation, ...] = OPERATIONS,
) -> Signal:
    """``n_ops`` operations drawn with replacement, all of ``magnitude`` (0 to 10), applied in drawn order.

    The result is cut at random to ``length`` samples (by default those of ``signal``, which may be longer so
    that resampling has room). With magnitude 0 it is only cut.
    """
    length = signal.shape[1] if length is None else length
    if magnitude:
        for choice in rng.integers(0, len(operations), n_ops):
            if operations[choice] is time_resampling:
                signal = time_resampling(signal, magnitude / 10, rng, length)
            else:
                signal = operations[choice](signal, magnitude / 10, rng)
    start = int(rng.integers(0, signal.shape[1] - length + 1))
    return np.ascontiguousarray(signal[:, start : start + length])
