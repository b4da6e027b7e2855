"""Damaged and odd inputs, each with the outcome it must have: ``python -m tests.helpers.faults`` prints them.

Every input is made from ``examples/recording`` or ``examples/stay``. An outcome is ``refused`` or ``warned``,
with a code where one is due; ``noticed`` if either will do; ``same`` if it is odd but right, and the answer
is that of the undamaged example; ``harmless`` for ``noticed`` or ``same``; or ``stated`` if no rule can
detect it, and the report states the unit in which it read the variable, with its median and range.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ibt_deploy.predictions import ArrhythmiaPrediction, Prediction, Refusal, SepsisPrediction
from ibt_deploy.predictor import Predictor, load
from ibt_deploy.readers import read
from ibt_deploy.records import Recording
from ibt_deploy.render.prediction import units_summary
from ibt_deploy.vocabulary import LEADS
from tests.helpers.wfdb_records import write_record

ROOT = Path(__file__).resolve().parents[2]
Signal = np.ndarray
Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Fault:
    """One input: what is wrong with it, how it is written to a folder, and what must come of it."""

    task: str
    name: str
    make: Make
    due: str


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    fault: Fault
    refused: str | None
    warned: tuple[str, ...]
    same: bool
    units: str = ""

    @property
    def right(self) -> bool:
        """Whether that is what was due."""
        what, _, code = self.fault.due.partition(":")
        if what == "same":
            return self.same
        if what == "harmless":
            return bool(self.refused or self.warned) or self.same
        if what == "stated":
            return (
                bool(self.refused or self.warned)
                or f"read as {code} " in self.units
                or f", {code} " in self.units
            )
        if what == "noticed":
            return bool(self.refused or self.warned)
        if what == "refused":
            return self.refused == code if code else self.refused is not None
        return code in self.warned if code else bool(self.warned)

    @property
    def row(self) -> str:
        """A line of the table."""
        came = f"refused ({self.refused})" if self.refused else ""
        came = came or (f"warned ({', '.join(self.warned)})" if self.warned else "")
        what, _, variable = self.fault.due.partition(":")
        if what == "stated" and not came:
            parts = self.units.partition("read as ")[2].split(", ")
            came = next(f"scored, read as {part}" for part in parts if part.startswith(f"{variable} "))
        came = came or ("scored, the same" if self.same else "scored, another answer")
        right = "yes" if self.right else "NO"
        return f"| {self.fault.task} | {self.fault.name} | {came} | {right} |"


def example_recording() -> Signal:
    """The 12 leads in microvolts, at 500 Hz, shape ``(12, 5000)``."""
    recording = read(ROOT / "examples" / "recording.hea")[0]
    assert isinstance(recording, Recording)
    return np.asarray(recording.signal[:, ::2] * 1000)


def noise(sd: float, seed: int = 0, samples: int = 5000) -> Signal:
    """Noise in microvolts that obeys Einthoven's law."""
    return limb_law(np.random.default_rng(seed).normal(0, sd, (12, samples)))


def limb_law(x: Signal) -> Signal:
    """``x`` with its other limb leads made from I and II."""
    out = x.copy()
    one, two = x[0], x[1]
    out[2:6] = [two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return out


def electrodes(x: Signal, one: Signal, two: Signal) -> Signal:
    """``x`` with these leads I and II."""
    return limb_law(np.concatenate([[one, two], x[2:]]))


def lead_changed(lead: str, change: Callable[[Signal], Signal]) -> Callable[[Signal], Signal]:
    def changed(x: Signal) -> Signal:
        out = x.copy()
        out[LEADS.index(lead)] = change(x[LEADS.index(lead)])
        return out

    return changed


def put(x: Signal, leads: slice | Sequence[int], samples: slice, value: float) -> Signal:
    out = x.copy()
    out[leads, samples] = value
    return out


INVALID = -32768.0
TIME = np.arange(5000) / 500
SPREAD = np.linspace(500, 1000, 12)[:, None]

SIGNALS: dict[str, tuple[Callable[[Signal], Signal], str]] = {
    "undamaged": (lambda x: x, "same"),
    **{
        f"noise of {sd} uV alone": (lambda x, sd=sd: noise(sd), "refused:no_heartbeat")
        for sd in (50, 100, 300)
    },
    "noise of 10 uV alone": (lambda x: noise(10), "refused"),
    "noise of 1 mV, not by Einthoven": (
        lambda x: np.random.default_rng(1).normal(0, 1000, x.shape),
        "refused:no_heartbeat",
    ),
    "brown noise": (lambda x: np.cumsum(noise(20), axis=1), "refused:no_heartbeat"),
    "asystole with a moving baseline": (
        lambda x: SPREAD * np.sin(2 * np.pi * 0.3 * TIME) + noise(20),
        "refused:no_heartbeat",
    ),
    "mains hum alone": (lambda x: SPREAD * np.sin(2 * np.pi * 50 * TIME), "refused:no_heartbeat"),
    "tremor alone": (lambda x: SPREAD * np.sin(2 * np.pi * 8 * TIME), "refused:no_heartbeat"),
    "one beat in 10 s": (
        lambda x: SPREAD * np.exp(-((TIME - 4) ** 2) / 2e-4) + noise(20),
        "refused:no_heartbeat",
    ),
    "all zero": (lambda x: 0 * x, "refused:all_leads_flat"),
    "noise of 100 uV added": (lambda x: x + noise(100), "warned:noisy_recording"),
    "noise of 300 uV added": (lambda x: x + noise(300), "noticed"),
    "RA and LA exchanged": (lambda x: electrodes(x, -x[0], x[1] - x[0]), "warned:electrodes_exchanged"),
    "RA and LL exchanged": (lambda x: electrodes(x, x[0] - x[1], -x[1]), "warned:electrodes_exchanged"),
    "all leads inverted": (lambda x: -x, "warned:leads_inverted"),
    "V1 and V6 exchanged": (lambda x: x[[*range(6), 11, 7, 8, 9, 10, 6]], "warned:electrodes_exchanged"),
    "V1 to V6 in reverse": (lambda x: x[[*range(6), 11, 10, 9, 8, 7, 6]], "warned:electrodes_exchanged"),
    "I and III exchanged": (lambda x: x[[2, 1, 0, *range(3, 12)]], "warned"),
    **{f"{lead} ten times too large": (lead_changed(lead, lambda r: r * 10), "noticed") for lead in LEADS},
    **{
        f"{lead} ten times too small": (
            lead_changed(lead, lambda r: r / 10),
            "warned:limb_leads_contradict" if lead in LEADS[:6] else "warned:lead_amplitude",
        )
        for lead in LEADS
    },
    **{f"{lead} inverted": (lead_changed(lead, lambda r: -r), "noticed") for lead in LEADS[:6]},
    **{f"{lead} flat": (lead_changed(lead, lambda r: 0 * r), "warned:flat_leads") for lead in LEADS},
    **{
        f"{lead} without a valid sample": (
            lead_changed(lead, lambda r: 0 * r + INVALID),
            "warned:missing_leads" if lead in LEADS[6:] else "same",
        )
        for lead in LEADS
    },
    **{
        f"{lead} is noise": (lead_changed(lead, lambda r: noise(800)[0]), "warned")
        for lead in ("I", "V1", "V3", "V6")
    },
    **{
        f"all leads times {f:g}": (lambda x, f=f: x * f, "warned:unusual_amplitude")
        for f in (3, 4, 5, 10, 1 / 3, 0.2, 0.1)
    },
    "a spike of 30 mV in V2": (lambda x: put(x, [7], slice(1000, 1001), 30000), "warned:spikes"),
    "spikes of 30 mV in all leads": (
        lambda x: put(x, slice(None), slice(1000, 1003), 30000),
        "warned:spikes",
    ),
    "electrode offset of 15 mV": (lead_changed("V3", lambda r: r + 15000), "same"),
    "electrode offset of 25 mV": (lead_changed("V3", lambda r: r + 25000), "same"),
    "clipped at 40 %": (
        lambda x: np.clip(x, -(m := 0.4 * np.abs(x).max(axis=1, keepdims=True)), m),
        "warned:clipped_leads",
    ),
    "zero in the last 1.5 s": (lambda x: put(x, slice(None), slice(4250, None), 0), "warned:flat_stretch"),
    "zero in the last 3 s": (lambda x: put(x, slice(None), slice(3500, None), 0), "refused:flat_stretch"),
    "zero in the last 5 s": (lambda x: put(x, slice(None), slice(2500, None), 0), "refused:flat_stretch"),
    "zero in the first 4 s": (lambda x: put(x, slice(None), slice(0, 2000), 0), "refused:flat_stretch"),
    "V4 hangs for 5 s": (lambda x: put(x, [9], slice(2500, None), 100), "warned:flat_stretch"),
    "V4 invalid for 2 s": (lambda x: put(x, [9], slice(2000, 3000), INVALID), "warned:gaps"),
    "all leads invalid for 1.5 s": (lambda x: put(x, slice(None), slice(2000, 2750), INVALID), "warned:gaps"),
    "all leads invalid for 3 s": (
        lambda x: put(x, slice(None), slice(2000, 3500), INVALID),
        "refused:invalid_samples",
    ),
    "V1 to V6 flat": (lambda x: put(x, slice(6, 12), slice(None), 0), "warned:flat_leads"),
    "twice as long": (lambda x: np.tile(x, 2), "same"),
    **{f"cut to {s} s": (lambda x, s=s: x[:, : s * 500], "noticed") for s in (3, 4, 5, 6, 7, 8, 9)},
}

HEADERS: dict[str, tuple[Sequence[tuple[str, str]], str]] = {
    "gain of 1 per mV": ([(" 1000(0)/mV", " 1(0)/mV")], "refused:implausible_amplitude"),
    "millivolts for microvolts": ([("/mV", "/uV")], "refused:implausible_amplitude"),
    "volts for millivolts": ([("/mV", "/V")], "refused:implausible_amplitude"),
    "no gain": ([(" 1000(0)/mV", "")], "refused:missing_gain"),
    "gain of 0": ([(" 1000(0)/mV", " 0(0)/mV")], "refused:missing_gain"),
    "a unit of kilograms": ([("/mV", "/kg")], "refused:unknown_unit"),
    "no sampling rate": ([(" 12 500 5000", " 12")], "refused:missing_rate"),
    "sampling rate of 0": ([(" 12 500 5000", " 12 0 5000")], "refused"),
    "sampling rate of 500.5 Hz": ([(" 12 500 5000", " 12 500.5 5000")], "refused:non_integer_rate"),
    "sampling rate of 20 Hz": ([(" 12 500 5000", " 12 20 5000")], "refused:rate_out_of_range"),
    "more samples than there are": ([(" 5000\n", " 9000\n")], "refused"),
    "a file outside its folder": ([("r1.dat", "../r1.dat")], "refused:unsafe_path"),
    "an absolute file": ([("r1.dat", "/etc/hostname")], "refused:unsafe_path"),
    "storage format 212 for 16": ([("dat 16 ", "dat 212 ")], "noticed"),
    "storage format 80 for 16": ([("dat 16 ", "dat 80 ")], "noticed"),
    "storage format 61 for 16": ([("dat 16 ", "dat 61 ")], "noticed"),
    "an unknown storage format": ([("dat 16 ", "dat 999 ")], "refused"),
    "segments that are not there": ([("r1 12", "r1/2 12")], "refused"),
    "a lead that occurs twice": ([("0 V6\n", "0 V5\n")], "refused:doubled_lead"),
    "lead names that mean nothing": (
        [(f" 0 {lead}\n", f" 0 x{i}\n") for i, lead in enumerate(LEADS)],
        "refused",
    ),
    "no chest lead": ([(f" 0 {lead}\n", f" 0 x{lead}\n") for lead in LEADS[6:]], "refused:no_chest_lead"),
    "lead names in lower case": ([(f" 0 {lead}\n", f" 0 {lead.lower()}\n") for lead in LEADS], "same"),
    "lead II under another name": ([(" 0 II\n", " 0 MLII\n")], "same"),
    "lead I under another name": ([(" 0 I\n", " 0 other\n")], "same"),
    "V3 under another name": ([(" 0 V3\n", " 0 other\n")], "warned:missing_leads"),
}

AGES = {"3": "not_adult", "0.25": "not_adult", "17": "not_adult", "-5": "harmless", "300": "", "121": ""}


def signal_case(change: Callable[[Signal], Signal]) -> Make:
    def make(folder: Path) -> Path:
        raw = np.clip(np.rint(change(example_recording())), -32768, 32767).astype(np.int16)
        return write_record(folder, raw)

    return make


def header_case(replace: Sequence[tuple[str, str]]) -> Make:
    def make(folder: Path) -> Path:
        return write_record(folder, np.rint(example_recording()).astype(np.int16), replace=replace)

    return make


def gain_case(lead: str, gain: int) -> Make:
    """The header states ``gain`` for one lead, and 1000 per mV for the others."""

    def make(folder: Path) -> Path:
        path = write_record(folder, np.rint(example_recording()).astype(np.int16))
        lines = path.read_text(encoding="utf-8").splitlines()
        stated = [
            line.replace("1000(0)/mV", f"{gain}(0)/mV") if line.endswith(f" {lead}") else line
            for line in lines
        ]
        path.write_text("\n".join(stated) + "\n", encoding="utf-8")
        return path

    return make


def aged(age: str) -> Make:
    def make(folder: Path) -> Path:
        return write_record(folder, np.rint(example_recording()).astype(np.int16), comments=[f"#Age: {age}"])

    return make


def text_recording(preamble: str, *, step: float | None = None, unit: str = "mV", decimal: str = ".") -> Make:
    def make(folder: Path) -> Path:
        x = example_recording() / (1000 if unit == "mV" else 1)
        names = [f"{lead} ({unit})" for lead in LEADS]
        columns = x.T
        if step is not None:
            columns = np.c_[np.arange(len(columns)) * step, columns]
            names = ["time_ms", *names]
        text = preamble + ",".join(names) + "\n"
        text += "\n".join(",".join(f"{value:.4f}" for value in row) for row in columns) + "\n"
        path = folder / "r1.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def bytes_case(name: str, content: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return make


def damaged_signal(damage: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path) -> Path:
        path = write_record(folder, np.rint(example_recording()).astype(np.int16))
        data = folder / "r1.dat"
        data.write_bytes(damage(data.read_bytes()))
        return path

    return make


def recordings() -> Iterator[Fault]:
    """Faults of recordings."""
    for name, (change, due) in SIGNALS.items():
        yield Fault("ECG", name, signal_case(change), due)
    for name, (replace, due) in HEADERS.items():
        yield Fault("ECG", f"header: {name}", header_case(replace), due)
    for lead in LEADS:
        for gain, what in ((10_000, "large"), (100, "small")):
            yield Fault("ECG", f"header: gain of {lead} ten times too {what}", gain_case(lead, gain),
                        "noticed" if lead in LEADS[:6] else "warned:lead_amplitude")  # fmt: skip
    for age, code in AGES.items():
        due = code if code == "harmless" else f"warned:{code}" if code else "warned"
        yield Fault("ECG", f"age {age}", aged(age), due)
    yield Fault("ECG", "text: rates in preamble and time column differ",
                text_recording("# Sampling rate: 1000 Hz\n", step=2.0), "refused")  # fmt: skip
    yield Fault("ECG", "text: units in preamble and names differ",
                text_recording("# Sampling rate: 500 Hz\n# unit: mV\n", unit="uV"), "refused")  # fmt: skip
    yield Fault("ECG", "text: two rates",
                text_recording("# Sampling rate: 500 Hz\n# Sampling rate: 250 Hz\n"), "refused")  # fmt: skip
    yield Fault("ECG", "text: no rate", text_recording(""), "refused")
    yield Fault("ECG", "text: as it should be", text_recording("# Sampling rate: 500 Hz\n"), "same")
    yield Fault("ECG", "text: time column alone", text_recording("", step=2.0), "same")
    yield Fault("ECG", "signal file cut in half", damaged_signal(lambda b: b[: len(b) // 2]), "refused")
    yield Fault("ECG", "signal file empty", damaged_signal(lambda b: b""), "refused")
    yield Fault("ECG", "signal file one byte late", damaged_signal(lambda b: b"\0" + b[:-1]), "noticed")
    yield Fault("ECG", "signal file one sample late", damaged_signal(lambda b: b"\0\0" + b[:-2]), "noticed")
    yield Fault("ECG", "signal file with bytes exchanged",
                damaged_signal(lambda b: np.frombuffer(b, ">i2").astype("<i2").tobytes()),
                "noticed")  # fmt: skip
    yield Fault("ECG", "header empty", bytes_case("r1.hea", b""), "refused:empty_file")
    yield Fault("ECG", "header of random bytes",
                bytes_case("r1.hea", np.random.default_rng(0).bytes(500)), "refused")  # fmt: skip


def stay_case(change: Callable[[list[str], np.ndarray], object]) -> Make:
    """A stay whose values, shape ``(hours, 40)``, ``change`` alters in place or returns."""

    def make(folder: Path) -> Path:
        lines = (ROOT / "examples" / "stay.psv").read_text(encoding="utf-8").splitlines()
        names = lines[0].split("|")
        values = np.array([[float(cell) for cell in line.split("|")] for line in lines[1:]])
        changed = change(names, values)
        values = changed if isinstance(changed, np.ndarray) else values
        body = ["|".join("NaN" if np.isnan(v) else f"{v:.10g}" for v in row) for row in values]
        path = folder / "stay.psv"
        path.write_text("\n".join([lines[0], *body]) + "\n", encoding="utf-8")
        return path

    return make


def column(name: str, change: Callable[[np.ndarray], object]) -> Make:
    def altered(names: list[str], values: np.ndarray) -> None:
        values[:, names.index(name)] = change(values[:, names.index(name)])

    return stay_case(altered)


def exchanged(first: str, second: str) -> Make:
    def altered(names: list[str], values: np.ndarray) -> None:
        a, b = names.index(first), names.index(second)
        values[:, [a, b]] = values[:, [b, a]]

    return stay_case(altered)


def filled(name: str, value: float) -> Make:
    """A variable measured in every second hour, with small differences."""
    return column(
        name,
        lambda c: np.where(np.arange(len(c)) % 2, np.nan, value * (1 + 0.01 * (np.arange(len(c)) % 5))),
    )


def text_stay(change: Callable[[str], str | bytes]) -> Make:
    def make(folder: Path) -> Path:
        changed = change((ROOT / "examples" / "stay.psv").read_text(encoding="utf-8"))
        path = folder / "stay.psv"
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        return path

    return make


def filled_twice(name: str, first: float, second: float, hours: int) -> Make:
    """The same with another value from some hour."""

    def changed(c: np.ndarray) -> np.ndarray:
        value = np.where(np.arange(len(c)) < hours, first, second) * (1 + 0.01 * (np.arange(len(c)) % 5))
        return np.where(np.arange(len(c)) % 2, np.nan, value)

    return column(name, changed)


MIXED_UNITS = {
    "Glucose in mmol/L": ("Glucose", 120.0, 6.7), "Creatinine in umol/L": ("Creatinine", 1.0, 90.0),
    "BUN in mmol/L": ("BUN", 17.0, 6.0), "Lactate in mg/dL": ("Lactate", 2.0, 18.0),
    "bilirubin in umol/L": ("Bilirubin_total", 1.0, 17.0),
    "direct bilirubin in umol/L": ("Bilirubin_direct", 0.3, 5.1),
    "Magnesium in mmol/L": ("Magnesium", 2.0, 0.82), "Phosphate in mmol/L": ("Phosphate", 3.4, 1.1),
    "Calcium in mmol/L": ("Calcium", 8.4, 2.1), "Hgb in mmol/L": ("Hgb", 10.0, 6.2),
    "PaCO2 in kPa": ("PaCO2", 40.0, 5.3), "TroponinI in ng/L": ("TroponinI", 0.3, 300.0),
    "urea for BUN": ("BUN", 17.0, 36.4),
}  # fmt: skip

OTHER_UNITS = {
    "urea for BUN": ("BUN", 36.4), "direct bilirubin in umol/L": ("Bilirubin_direct", 5.1),
    "Hgb in mmol/L": ("Hgb", 6.2), "AST in ukat/L": ("AST", 0.7),
    "Glucose in mmol/L": ("Glucose", 6.7), "Creatinine in umol/L": ("Creatinine", 90.0),
    "BUN in mmol/L": ("BUN", 6.0), "Calcium in mmol/L": ("Calcium", 2.3),
    "Lactate in mg/dL": ("Lactate", 18.0),
    "PaCO2 in kPa": ("PaCO2", 5.3), "bilirubin in umol/L": ("Bilirubin_total", 17.0),
    "Magnesium in mmol/L": ("Magnesium", 0.8), "Hgb in g/L": ("Hgb", 120.0), "Hct as a share": ("Hct", 0.36),
    "TroponinI in ng/L": ("TroponinI", 400.0), "Phosphate in mmol/L": ("Phosphate", 1.1),
    "temperature in F": ("Temp", 98.6), "O2Sat as a share": ("O2Sat", 0.97), "SBP in kPa": ("SBP", 16.0),
    "MAP in kPa": ("MAP", 11.0), "HR in Hz": ("HR", 1.3), "WBC in cells/uL": ("WBC", 9000.0),
    "Platelets in cells/uL": ("Platelets", 200000.0), "FiO2 in percent": ("FiO2", 40.0),
}  # fmt: skip


UNTOLD = {
    **dict.fromkeys(("BUN in mmol/L", "BUN in mmol/L until hour 4"), "stated:BUN"),
    **dict.fromkeys(("urea for BUN", "urea for BUN from hour 10", "urea for BUN until hour 4"), "stated:BUN"),
    "bilirubin in umol/L": "stated:Bilirubin_total",
    **dict.fromkeys(
        ("Phosphate in mmol/L from hour 10", "Phosphate in mmol/L until hour 4"), "stated:Phosphate"
    ),
    **dict.fromkeys(("Calcium in mmol/L from hour 10", "Calcium in mmol/L until hour 4"), "stated:Calcium"),
}
"""What no rule can tell from the values of one stay, and why (docs/quality.md): they are usual in both units,
or change as much in real stays. A whole column is judged by ``ibt batch``."""


def stays() -> Iterator[Fault]:
    """Faults of stays."""
    yield Fault("stay", "undamaged", text_stay(lambda t: t), "same")
    for name, (variable, value) in OTHER_UNITS.items():
        yield Fault("stay", name, filled(variable, value), UNTOLD.get(name, "noticed"))
    for name, (variable, usual, other) in MIXED_UNITS.items():
        for when, first, second, hours in (
            ("from hour 10", usual, other, 9), ("until hour 4", other, usual, 4)
        ):  # fmt: skip
            due = UNTOLD.get(f"{name} {when}", "noticed")
            yield Fault("stay", f"{name} {when}", filled_twice(variable, first, second, hours), due)
    yield Fault("stay", "HR and SBP exchanged", exchanged("HR", "SBP"), "noticed")
    yield Fault("stay", "SBP and DBP exchanged", exchanged("SBP", "DBP"), "noticed")
    yield Fault("stay", "an age that grows", column("Age", lambda c: 40 + np.arange(len(c))), "refused")
    yield Fault("stay", "a gender that changes", column("Gender", lambda c: np.arange(len(c)) % 2), "noticed")
    for age in (3, 15, -2, 300):
        yield Fault("stay", f"age {age}", column("Age", lambda c, age=age: 0 * c + age), "noticed")
    yield Fault("stay", "Age 17", column("Age", lambda c: 0 * c + 17), "warned:not_adult")
    yield Fault("stay", "both units are 1", column("Unit2", lambda c: 0 * c + 1), "warned:unit_contradiction")
    yield Fault("stay", "no age", column("Age", lambda c: c * np.nan), "warned:demographics_missing")
    yield Fault(
        "stay", "HR never measured", column("HR", lambda c: c * np.nan), "warned:vitals_never_measured"
    )
    yield Fault(
        "stay", "nothing measured", stay_case(lambda n, v: v.__setitem__(np.s_[:, :34], np.nan)), "noticed"
    )
    yield Fault("stay", "one hour", stay_case(lambda n, v: v[:1]), "warned:single_row")
    yield Fault(
        "stay", "an hour missing", stay_case(lambda n, v: np.delete(v, 5, axis=0)), "warned:hours_inserted"
    )
    yield Fault("stay", "an hour twice", stay_case(lambda n, v: v[[*range(6), *range(5, len(v))]]), "refused")
    yield Fault("stay", "hours in reverse", stay_case(lambda n, v: v[::-1].copy()), "noticed")
    yield Fault("stay", "hours from 0", column("ICULOS", lambda c: c - 1), "refused")
    yield Fault("stay", "half hours", column("ICULOS", lambda c: c / 2), "refused")
    yield Fault("stay", "hours beyond two weeks", column("ICULOS", lambda c: c + 330), "warned:rows_left_out")
    yield Fault(
        "stay",
        "values a thousand times too large",
        stay_case(lambda n, v: v.__imul__(np.r_[np.full(34, 1e3), np.ones(6)])),
        "refused",
    )
    yield Fault("stay", "HR of 999", column("HR", lambda c: 0 * c + 999), "noticed")
    yield Fault("stay", "infinite values", text_stay(lambda t: t.replace("85|96", "inf|96", 1)), "refused")
    yield Fault("stay", "words for numbers", text_stay(lambda t: t.replace("85|96", "high|96", 1)), "refused")
    yield Fault(
        "stay", "a ragged row", text_stay(lambda t: t.rstrip("\n").rpartition("|")[0] + "\n"), "refused"
    )
    yield Fault("stay", "a column twice", text_stay(lambda t: t.replace("HR|O2Sat", "HR|HR", 1)), "refused")
    yield Fault("stay", "a misspelt column", text_stay(lambda t: t.replace("HR|", "Hr_|", 1)), "noticed")
    yield Fault("stay", "no ICULOS", text_stay(lambda t: t.replace("ICULOS", "other", 1)), "refused")
    yield Fault("stay", "the header alone", text_stay(lambda t: t.split("\n")[0] + "\n"), "refused")
    yield Fault("stay", "an empty file", text_stay(lambda t: ""), "refused")
    yield Fault("stay", "random bytes", text_stay(lambda t: np.random.default_rng(0).bytes(2000)), "refused")
    yield Fault("stay", "with NUL bytes", text_stay(lambda t: t.replace("85|", "8\0|", 1)), "refused")
    yield Fault("stay", "with a byte order mark", text_stay(lambda t: "\ufeff" + t), "same")
    yield Fault("stay", "with CR LF", text_stay(lambda t: t.replace("\n", "\r\n")), "same")
    yield Fault("stay", "with empty cells for NaN", text_stay(lambda t: t.replace("NaN", "")), "same")
    yield Fault("stay", "with decimal commas", text_stay(lambda t: t.replace(".", ",")), "refused")


FAULTS: tuple[Fault, ...] = (*recordings(), *stays())


def outcomes() -> Iterator[Outcome]:
    """What the packaged models make of every fault."""
    predictors = {"ECG": load("arrhythmia"), "stay": load("sepsis")}
    clean: dict[str, Prediction] = {}
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            answer = _answer(predictors[fault.task], fault.make(Path(folder)))
        if fault.name == "undamaged":
            assert not isinstance(answer, Refusal), answer
            clean[fault.task] = answer
        if isinstance(answer, Refusal):
            yield Outcome(fault, answer.code, (), False)
        else:
            before = {w.code for w in clean[fault.task].warnings}
            codes = dict.fromkeys(w.code for w in answer.warnings if w.code not in before)
            units = units_summary(answer) if isinstance(answer, SepsisPrediction) else ""
            yield Outcome(fault, None, tuple(codes), _same(answer, clean[fault.task]), units)


def _answer(predictor: Predictor, path: Path) -> Prediction | Refusal:
    answers = list(predictor.predict_many([str(path)]))
    assert len(answers) == 1
    return answers[0]


def _same(answer: Prediction, clean: Prediction) -> bool:
    if isinstance(answer, ArrhythmiaPrediction):
        assert isinstance(clean, ArrhythmiaPrediction)
        return bool(np.abs(answer.probabilities - clean.probabilities).max() < 0.05)
    assert not isinstance(clean, ArrhythmiaPrediction)
    return answer.risk.shape == clean.risk.shape and bool(np.allclose(answer.risk, clean.risk, atol=1e-6))


def main() -> None:
    """Print the table; status 1 where an outcome is not what is due."""
    print("| input | fault | outcome | right |\n| --- | --- | --- | --- |")
    found = []
    for outcome in outcomes():
        found.append(outcome)
        print(outcome.row, flush=True)
    wrong = [o for o in found if not o.right]
    refused = sum(outcome.refused is not None for outcome in found)
    warned = sum(bool(outcome.warned) for outcome in found)
    stated = sum(o.fault.due.startswith("stated") and not (o.refused or o.warned) for o in found)
    same = sum(o.same and not o.warned for o in found)
    silent = len(found) - refused - warned - stated - same
    print(
        f"\n{len(found)} inputs: {refused} refused, {warned} warned, {stated} with the unit stated, "
        f"{same} the same, {silent} wrong in silence; {len(wrong)} not as due"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
