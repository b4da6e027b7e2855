"""Rules of signal quality, fitted and measured: ``python -m benchmarks.quality [--fit | --axis] ECG_FOLDER``.

With ``--fit`` the relations between leads are fitted on the training part of the split
``training/splits/arrhythmia.csv`` and written to ``ibt_deploy/data/lead_relations.json``; the percentiles
behind the thresholds of :mod:`ibt_deploy.preprocess.quality` are printed. Then false alarms, sensitivity to
synthetic faults, and time are measured on the held-out parts and, separately, on LUDB, on which nothing is
tuned. With ``--axis`` the computed axis is only compared with the labels of axis deviation.
"""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from ibt_deploy.errors import InputError
from ibt_deploy.preprocess import quality
from ibt_deploy.preprocess.ecg import examined, standardise
from ibt_deploy.readers import read
from ibt_deploy.readers.wfdb.header import parse_header
from ibt_deploy.records import Recording
from ibt_deploy.vocabulary import DERIVED, LEADS
from training.data.ecg import corrected_gain

ROOT = Path(__file__).resolve().parents[1]
RELATIONS = ROOT / "ibt_deploy" / "data" / "lead_relations.json"
PERCENTILES = (0, 0.1, 0.2, 0.5, 1, 50, 99, 99.5, 99.8, 99.9, 100)
FAULTY = 60
MARGIN = 1.02
FAULTY_CHEST = ("HR00651", "HR06196", "HR07470", "HR18299", "HR19299")
"""Training records in which V5 or V6 loses contact or stops, so that scaling by it made the lead small."""

DEVIATION = {"LAD": "39732003", "RAD": "47665007", "LAnFB": "445118002"}
Signal = np.ndarray


def chest(signal: Signal, order: list[int]) -> Signal:
    return signal[[*range(6), *(6 + i for i in order)]]


def limb(signal: Signal, one: Signal, two: Signal) -> Signal:
    out = signal.copy()
    out[0], out[1] = one, two
    for lead, (a, b) in DERIVED.items():
        out[LEADS.index(lead)] = a * one + b * two
    return out


PLACED: dict[str, Callable[[Signal], Signal]] = {
    "arms": lambda x: limb(x, -x[0], x[1] - x[0]),
    "right_arm_leg": lambda x: limb(x, x[0] - x[1], -x[1]),
    "inverted": lambda x: -x,
    "v1_v6": lambda x: chest(x, [5, 1, 2, 3, 4, 0]),
    "chest_order": lambda x: chest(x, [5, 4, 3, 2, 1, 0]),
}


class Known(NamedTuple):
    """A recording, its part of the split, whether its voltage is that of the patient, and its classes."""

    part: str
    true_voltage: bool
    recording: Recording
    labels: frozenset[str]


def records(root: Path) -> list[Known]:
    """Read every recording, its gain corrected where the release is known to be wrong."""
    parts = {
        row["id"]: row["part"]
        for row in csv.DictReader((ROOT / "training/splits/arrhythmia.csv").open(encoding="utf-8"))
    }
    found = []
    for row in csv.DictReader((root / "index.csv").open(encoding="utf-8")):
        path = root / row["file"]
        recording = read(path)[0]
        assert isinstance(recording, Recording)
        header = parse_header(path.read_text(encoding="utf-8", errors="replace"))
        factor = corrected_gain(row["source"], header)
        if factor != 1.0:
            recording = replace(recording, signal=recording.signal * factor)
        part = "ludb" if row["source"] == "ludb" else parts.get(row["record"], "unlabelled")
        found.append(Known(part, row["amplitude"] == "mV", recording, frozenset(row["scored"].split())))
    return found


def fit(found: list[Known]) -> None:
    """Fit the relations on the training part, write them, and print the percentiles of every rule there."""
    from sklearn.linear_model import LogisticRegression

    known = [k for k in found if k.part == "train"]
    beats = [quality.beats_of(standardise(k.recording).signal) for k in known]
    complete = [b for b in beats if b.complete]
    true = [b for k, b in zip(known, beats, strict=True) if k.true_voltage and b.complete]
    independent = list(quality.INDEPENDENT)
    heights = np.log([b.height[independent] for b in true])
    rows = []
    for lead in range(8):
        given = np.c_[heights, np.ones(len(heights))]
        given[:, lead] = 0.0
        rows.append(np.linalg.lstsq(given, heights[:, lead], rcond=None)[0])
    weights = np.array(rows)
    sound = [
        b
        for k, b in zip(known, beats, strict=True)
        if b.complete and k.recording.record_id not in FAULTY_CHEST
    ]
    everything = np.log([b.height[independent] for b in sound])
    excess, true_excess = (x - x @ weights[:, :-1].T - weights[:, -1] for x in (everything, heights))
    usual = [
        (np.percentile(sign * excess, 99, axis=0) + np.percentile(sign * true_excess, 99, axis=0)) / 2
        for sign in (-1, 1)
    ]
    furthest = np.maximum(-excess / usual[0], excess / usual[1]).max()
    smallest, largest = (MARGIN * furthest * side for side in usual)
    shapes = np.concatenate([waveforms(b.average) for b in sound], axis=1)
    waveform = []
    for lead in range(8):
        given = shapes.copy()
        given[lead] = 0.0
        waveform.append(np.linalg.lstsq(given.T, shapes[lead], rcond=None)[0])
    averages = [b.average for b in complete]
    cases = [averages, *([make(a) for a in averages] for make in PLACED.values())]
    features = np.array(
        [quality.placement_features(quality.binned(average)) for case in cases for average in case]
    )
    own = features[: len(averages)]
    centre, scale = own.mean(axis=0), own.std(axis=0) + 0.05
    truth = np.repeat(np.arange(len(cases)), len(averages))
    model = LogisticRegression(C=0.1, max_iter=300).fit((features - centre) / scale, truth)
    relations = {
        "source": "benchmarks/quality.py --fit, training part of training/splits/arrhythmia.csv",
        "amplitude": {
            "leads": [LEADS[i] for i in quality.INDEPENDENT],
            "weights": np.round(weights, 5).tolist(),
            "smallest": np.round(smallest, 4).tolist(),
            "largest": np.round(largest, 4).tolist(),
            "waveform": np.round(waveform, 5).tolist(),
        },
        "placement": {
            "names": list(PLACED),
            "centre": np.round(centre, 5).tolist(),
            "scale": np.round(scale, 5).tolist(),
            "weights": np.round(model.coef_[1:] - model.coef_[0], 5).tolist(),
            "bias": np.round(model.intercept_[1:] - model.intercept_[0], 5).tolist(),
        },
    }
    text = json.dumps(relations, separators=(",", ":")).replace("],[", "],\n[")
    RELATIONS.write_text(text + "\n", encoding="utf-8")
    quality._fitted.cache_clear()
    judged = [b for b in beats if (b.height >= quality.LEAST_HEIGHT).any()]
    measures = {
        "likeness": [b.likeness for b in beats],
        "prominence": [b.prominence for b in beats],
        "agreement, worst lead": [b.agreement[b.height >= quality.LEAST_HEIGHT].min() for b in judged],
        "noise": [quality.noise_of(b) for b in judged],
        "QRS, mV": [quality.typical_height(b) for b in judged],
        "QRS, mV, true voltage": [quality.typical_height(b) for b in true],
        "disproportion, true voltage": [np.abs(quality.disproportion(b.height)).max() for b in true],
        "disproportion": [np.abs(quality.disproportion(b.height)).max() for b in complete],
        "placement": [max(quality.placement_odds(a).values()) for a in averages],
    }
    click.echo(f"percentiles of {len(beats)} training records: {PERCENTILES}")
    for name, values in measures.items():
        click.echo(f"  {name:28}" + " ".join(f"{v:8.3f}" for v in np.percentile(values, PERCENTILES)))


def waveforms(average: Signal) -> Signal:
    """The independent leads of an average beat relative to their median, with a common scale."""
    beat = average[list(quality.INDEPENDENT)]
    return (beat - np.median(beat, axis=1, keepdims=True)) / np.sqrt((beat**2).mean())


def outcome(recording: Recording, signal: Signal | None = None) -> tuple[str, ...]:
    """Codes of the warnings, or the code of the refusal in brackets."""
    given = recording if signal is None else replace(recording, signal=signal)
    try:
        return tuple(dict.fromkeys(warning.code for warning in examined(given).warnings))
    except InputError as error:
        return (f"({error.code})",)


def noisy(x: Signal, sd: float, rng: np.random.Generator) -> Signal:
    noise = rng.normal(0, sd, x.shape)
    return limb(noise, noise[0], noise[1])


def scaled_lead(x: Signal, lead: int, factor: float) -> Signal:
    out = x.copy()
    out[lead] *= factor
    return out


def spiked(x: Signal) -> Signal:
    out = x.copy()
    out[7, x.shape[1] // 3] = 30.0
    return out


def clipped(x: Signal) -> Signal:
    limit = 0.6 * np.abs(x).max(axis=1, keepdims=True)
    return np.clip(x, -limit, limit)


def ends(x: Signal) -> Signal:
    out = x.copy()
    out[:, x.shape[1] // 2 :] = 0.0
    return out


Fault = Callable[[Signal, np.random.Generator], Signal]
FAULTS: dict[str, Fault] = {
    **{f"noise alone, {sd} mV": lambda x, rng, sd=sd: noisy(x, sd, rng) for sd in (0.05, 0.1, 0.3)},
    "asystole: 10 uV of noise and wander": lambda x, rng: (
        noisy(x, 0.01, rng) + 0.15 * np.sin(np.arange(x.shape[1]) * 2e-3)
    ),
    **{f"noise of {sd} mV added": lambda x, rng, sd=sd: x + noisy(x, sd, rng) for sd in (0.05, 0.1, 0.3)},
    "LA and RA exchanged": lambda x, _: PLACED["arms"](x),
    "RA and LL exchanged": lambda x, _: PLACED["right_arm_leg"](x),
    "all leads inverted": lambda x, _: -x,
    "V1 and V6 exchanged": lambda x, _: PLACED["v1_v6"](x),
    "V1 to V6 in reverse": lambda x, _: PLACED["chest_order"](x),
    **{
        f"{lead} ten times too {size}": lambda x, _, i=i, factor=factor: scaled_lead(x, i, factor)
        for i, lead in enumerate(LEADS)
        for size, factor in (("large", 10.0), ("small", 0.1))
    },
    "all leads three times too large": lambda x, _: 3 * x,
    "all leads three times too small": lambda x, _: x / 3,
    "all leads ten times too large": lambda x, _: 10 * x,
    "all leads ten times too small": lambda x, _: x / 10,
    "a spike of 30 mV": lambda x, _: spiked(x),
    "clipped at 60 %": lambda x, _: clipped(x),
    "zero in the second half": lambda x, _: ends(x),
}


def report(found: list[Known]) -> None:
    """Print false alarms, sensitivity and time."""
    rng = np.random.default_rng(0)
    for name, parts in (("held out", ("validation", "test")), ("LUDB", ("ludb",))):
        chosen = [k.recording for k in found if k.part in parts]
        seen = [outcome(recording) for recording in chosen]
        counts = Counter(code for codes in seen for code in codes)
        click.echo(f"{name}: {len(chosen)} records, {sum(bool(c) for c in seen)} with any; {dict(counts)}")
        click.echo("   " + ", ".join(r.record_id for r, c in zip(chosen, seen, strict=True) if c)[:1500])
    for name, parts in (("held out", ("validation", "test")), ("LUDB", ("ludb",))):
        clean = [k.recording for k in found if k.part in parts and not outcome(k.recording)]
        chosen = [clean[i] for i in rng.choice(len(clean), FAULTY, replace=False)]
        for fault, make in FAULTS.items():
            seen = [outcome(r, make(r.signal, rng)) for r in chosen]
            counts = Counter(code for codes in seen for code in codes)
            refused = sum(c[:1] != () and c[0].startswith("(") for c in seen)
            noticed = sum(bool(c) for c in seen)
            click.echo(f"{name}; {fault}: {noticed - refused} warned, {refused} refused; {dict(counts)}")
    click.echo(f"time: {seconds_of(found) * 1000:.2f} ms of one core for 10 s of 12 leads")


def seconds_of(found: list[Known]) -> float:
    """CPU time of the quality rules on a 10 s recording: mean over up to 200, each the best of 20."""
    best = []
    for known in found:
        signal = standardise(known.recording).signal
        if signal.shape[1] == 2000 and len(best) < 200:
            taken = []
            for _ in range(20):
                start = time.process_time()
                quality.signal_quality(signal)
                taken.append(time.process_time() - start)
            best.append(min(taken))
    return float(np.mean(best))


def compare_axes(found: list[Known]) -> None:
    """Print how the computed axis ranks recordings with a label of axis deviation against those without."""
    for name, chosen in (
        ("all but LUDB", [k for k in found if k.part != "ludb"]),
        ("LUDB", [k for k in found if k.part == "ludb"]),
    ):
        axes, reasons = [], Counter[str]()
        for known in chosen:
            try:
                axis = examined(known.recording).axis
            except InputError:
                continue
            assert axis is not None
            if axis.degrees is None:
                reasons[str(axis.reason)] += 1
            else:
                axes.append((axis.degrees, known.labels))
        click.echo(f"{name}: {len(axes)} with an axis; without: {dict(reasons)}")
        neither = np.array([degrees for degrees, labels in axes if not labels & set(DEVIATION.values())])
        for label, sign, limit in (("LAD", -1, -30), ("RAD", 1, 90)):
            those = np.array([degrees for degrees, labels in axes if DEVIATION[label] in labels])
            auroc = np.mean(sign * those[:, None] > sign * neither) + np.mean(those[:, None] == neither) / 2
            beyond = [np.mean(sign * x > sign * limit) for x in (those, neither)]
            click.echo(
                f"  {label}: {len(those)} against {len(neither)}, AUROC {auroc:.3f}, median "
                f"{np.median(those):.0f} against {np.median(neither):.0f}, beyond {limit} degrees "
                f"{beyond[0]:.0%} against {beyond[1]:.0%}"
            )


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--fit", "fitting", is_flag=True, help="Fit the relations first; report afterwards.")
@click.option("--axis", "axis_alone", is_flag=True, help="Compare the computed axis with the labels, alone.")
def main(folder: Path, fitting: bool, axis_alone: bool) -> None:
    """Measure the rules of signal quality on the recordings of FOLDER (with index.csv)."""
    found = records(folder)
    if axis_alone:
        return compare_axes(found)
    if fitting:
        fit(found)
    return report(found)


if __name__ == "__main__":
    main()
