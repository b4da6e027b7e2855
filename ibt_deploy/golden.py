"""Golden inputs: raw inputs with the features and logits that they must give on any machine.

``golden.npz`` is a plain numpy archive (no pickle) with, for every case:

=========================  ========================================================================
``<case>/signal``          raw signal ``(leads, samples)``: float in mV (NaN = invalid), or int16 in
                           microvolts (-32768 = invalid)
``<case>/sampling_rate``   Hz, one number
``<case>/leads``           lead names, unicode ``(leads,)``
``<case>/values``          of a stay instead of these three: raw rows ``(hours, 40)``, NaN = not measured
``<case>/features``        what the graph reads: ``(windows, 12, 2000)`` or ``(hours, F)``, float32
``<case>/logits``          what the float32 graph gives: ``(windows, 26)`` or ``(hours,)``, float32
=========================  ========================================================================

The exporter writes it with :func:`write_golden`; ``ibt verify`` recomputes it with :func:`recomputed`, and
scores stays hour by hour and with the bundle's other variants as well.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ibt_deploy.bundle import Bundle
from ibt_deploy.device import Device, OpenGraph
from ibt_deploy.errors import BundleError
from ibt_deploy.records import Recording, Stay
from ibt_deploy.scorers import scorer_of
from ibt_deploy.scorers.stay import streamed_logits
from ibt_deploy.types import Array, Float32s

GOLDEN = "golden.npz"
FEATURE_TOLERANCE = 1e-6
LOGIT_TOLERANCE = 1e-4
VARIANT_TOLERANCE = 0.5
"""Most that a logit of another variant may differ: int8 moves it by less, a broken graph by more."""
_INVALID = np.iinfo(np.int16).min


@dataclass(frozen=True, eq=False)
class GoldenCase:
    """A raw input with its expected features and logits."""

    name: str
    given: Recording | Stay
    features: Float32s
    logits: Float32s


@dataclass(frozen=True)
class Check:
    """One recomputation: the largest difference found, and the largest allowed.

    Differences are relative where the expected number is larger than 1 and absolute where it is smaller.
    """

    case: str
    what: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed (NaN is not)."""
        return self.difference <= self.tolerance


def golden_arrays(cases: Mapping[str, GoldenCase]) -> dict[str, Array]:
    """The arrays of a ``golden.npz`` for some cases, as described in the module docstring."""
    arrays: dict[str, Array] = {}
    for name, case in cases.items():
        if isinstance(case.given, Recording):
            arrays[f"{name}/signal"] = case.given.signal
            arrays[f"{name}/sampling_rate"] = np.array(case.given.sampling_rate)
            arrays[f"{name}/leads"] = np.array(case.given.leads, dtype=np.str_)
        else:
            arrays[f"{name}/values"] = case.given.values
        arrays[f"{name}/features"] = case.features.astype(np.float32)
        arrays[f"{name}/logits"] = case.logits.astype(np.float32)
    return arrays


def write_golden(path: Path, cases: Mapping[str, GoldenCase]) -> None:
    """Write a ``golden.npz``."""
    np.savez_compressed(path, allow_pickle=False, **golden_arrays(cases))


def golden_cases(path: Path) -> Iterator[GoldenCase]:
    """The cases of a ``golden.npz``, in the order of the file.

    Raises
    ------
    BundleError
        When the file is not as described in the module docstring.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = dict.fromkeys(key.rpartition("/")[0] for key in archive.files)
            for name in names:
                given = _given(
                    {k.rpartition("/")[2]: archive[k] for k in archive.files if k.startswith(f"{name}/")}
                )
                yield GoldenCase(name, given, archive[f"{name}/features"], archive[f"{name}/logits"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: not a file of golden inputs ({error})") from error


def recomputed(bundle: Bundle, *, device: Device = "cpu") -> Iterator[Check]:
    """Preprocess and score the golden inputs of a bundle on this machine.

    Yields
    ------
    The checks of each case: features within 1e-6; logits of the float32 graph within 1e-4, for stays also in
    steps with cached keys and values; logits of every other variant within 0.5.

    Raises
    ------
    BundleError
        When the bundle holds no golden inputs or cannot be loaded.
    DeviceError
        When the device is not available.
    """
    if GOLDEN not in bundle.files:
        raise BundleError(f"{bundle.path}: no {GOLDEN} in it, so nothing can be recomputed")
    variants = ["fp32", *sorted(set(bundle.variants) - {"fp32"})]
    graphs = {v: OpenGraph.of(bundle, device=device, variant=v, threads=None) for v in variants}
    for case in golden_cases(bundle.path / GOLDEN):
        for variant, graph in graphs.items():
            features, logits = _features_and_logits(bundle, graph, case.given)
            if variant == "fp32":
                yield _check(case.name, "features", features, case.features, FEATURE_TOLERANCE)
                yield _check(case.name, "logits", logits, case.logits, LOGIT_TOLERANCE)
                if isinstance(case.given, Stay):
                    hours = len(case.features)
                    steps = (1, hours - 2, 1) if hours > 2 else (1,) * hours
                    logits = streamed_logits(graph, case.features, steps)
                    yield _check(case.name, "logits in steps", logits, case.logits, LOGIT_TOLERANCE)
            else:
                yield _check(case.name, f"logits, {variant}", logits, case.logits, VARIANT_TOLERANCE)


def _features_and_logits(
    bundle: Bundle, graph: OpenGraph, given: Recording | Stay
) -> tuple[Float32s, Float32s]:
    scorer = scorer_of(bundle.task)
    if isinstance(given, scorer.item):
        return scorer(bundle, graph, None).features_and_logits(given)
    raise BundleError(f"{bundle.path / GOLDEN}: holds inputs of another task")


def _given(arrays: dict[str, Array]) -> Recording | Stay:
    if "values" in arrays:
        return Stay(arrays["values"].astype(np.float64), patient_id="golden", source=GOLDEN, format="golden")
    signal = arrays["signal"]
    if signal.dtype == np.int16:
        signal = np.where(signal == _INVALID, np.nan, signal / 1000.0)
    return Recording(
        signal=signal.astype(np.float64),
        sampling_rate=float(arrays["sampling_rate"]),
        leads=tuple(str(lead) for lead in arrays["leads"]),
        record_id="golden",
        source=GOLDEN,
        format="golden",
    )


def _check(case: str, what: str, found: Float32s, expected: Float32s, tolerance: float) -> Check:
    if found.shape != expected.shape:
        return Check(case, f"{what} of shape {expected.shape}, found {found.shape},", float("inf"), tolerance)
    # NaN stands for samples that were not recorded, and must be in the same places
    absent = np.isnan(expected)
    if not np.array_equal(absent, np.isnan(found)):
        return Check(case, what, float("inf"), tolerance)
    expected, found = expected[~absent].astype(np.float64), found[~absent].astype(np.float64)
    difference = np.abs(found - expected) / np.maximum(np.abs(expected), 1.0)
    return Check(case, what, float(difference.max(initial=0.0)), tolerance)
