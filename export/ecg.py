"""ECGs: decisions tuned on validation, published figures, and the steps of a build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.check import (
    GateReport,
    ParityReport,
    ecg_inputs,
    gate_report,
    golden_cases,
    parity_report,
    write_cases,
)
from export.entries import PHYSIONET, About, DataSet, named_datasets
from export.evaluable import class_entries, evaluable_classes, held_out_ranking
from export.familiarity import features_of, separation
from export.graph import quantised
from export.scored import (
    BATCH_SIZE,
    CHALLENGE,
    NOBODY,
    Answers,
    DataPart,
    Decisions,
    Evidence,
    Judged,
    Point,
    calibration_figures,
    compared,
    decision_statistics,
    figures,
    number,
    predictions,
    prepared_part,
    reliability_bins,
)
from ibt_deploy.bundle import Bundle, Calibration
from ibt_deploy.calibration import (
    challenge_thresholds,
    clinical_thresholds,
    f_thresholds,
    fitted_calibration,
)
from ibt_deploy.decisions import combined
from ibt_deploy.decisions import decisions as decisions_of
from ibt_deploy.device import OpenGraph, open_session
from ibt_deploy.familiarity import UNFAMILIAR, Familiarity
from ibt_deploy.metrics import arrhythmia, bootstrap
from ibt_deploy.metrics.arrhythmia import challenge_metric
from ibt_deploy.metrics.ranking import auroc, per_class
from ibt_deploy.predictions import NOTICE
from ibt_deploy.predictor import Predictor
from ibt_deploy.preprocess.ecg import MASKED_VERSION, SAMPLING_RATE, VERSION
from ibt_deploy.records import Recording
from ibt_deploy.scorers.ecg import EcgScorer
from ibt_deploy.types import Bools, Float32s, Floats, Ints, Strings
from ibt_deploy.vocabulary import CLASSES, LEADS
from training.checkpoint import TrainedNetwork
from training.data.split import FEWEST_POSITIVES, PARTS, Part
from training.models import Encoder
from training.models.students import EcgTransformer
from training.models.teachers import HannunResNet
from training.tasks.base import Cohort
from training.tasks.ecg import MICROVOLTS, EcgCohort, window_logits

CALIBRATION_WINDOWS = 128
"""Fewest validation windows from which int8 takes its scales, if there are as many; fewer than twice this."""
SCORED = 32
"""Windows that int8 scores together."""
CHALLENGE_2021 = (
    "Reyna MA et al. Will Two Do? Varying Dimensions in Electrocardiography: The PhysioNet/Computing in "
    "Cardiology Challenge 2021. Computing in Cardiology 48, 2021. doi:10.23919/CinC53138.2021.9662687"
)

ABOUT = About(
    intended_use=(
        f"{NOTICE} For research on the classification of resting 12-lead ECGs of adults: it suggests which "
        "of the 26 scored diagnostic statements of the PhysioNet/CinC Challenge 2021 a reader would have "
        "made, with a calibrated probability each. Intended users are researchers and clinical engineers who "
        "validate it on their own recordings first (`ibt evaluate`)."
    ),
    not_intended=(
        "diagnosis, triage or treatment of patients, with or without a reader",
        "emergency decisions: ischaemia and infarction are not among the classes",
        "monitoring: telemetry, Holter, exercise and single-lead recordings",
        "absence of a finding as evidence of absence",
    ),
    not_evaluated_on=(
        "hospitals, countries and devices other than those of the sources named",
        "children",
        "paced rhythms as a group of their own",
        "recordings with misplaced or missing leads (both are accepted with a warning where they can be "
        "noticed)",
        "prospective use",
    ),
    limits=(
        "Labels are one set per recording, of mixed provenance (machine, one reader or several): agreement "
        "with them has a ceiling well below 1.",
        "Classes and sources are entangled, so that part of what looks like diagnosis may be recognition of "
        "the source. In the public sets Ningbo labels no AF but thousands of AFL; PTB-XL labels no PVC "
        "although over a thousand of its recordings carry the unscored 'ventricular ectopics'; PRWP occurs "
        "only in Ningbo, most LPR in PTB-XL, most Brady in CPSC-Extra; CPSC labels neither axis nor QAb nor "
        "LQRSV.",
        "A class that a source does not label counts as absent there, as in the official evaluation: absent "
        "is not negative. Read figures per source beside the pooled ones.",
        "Absolute voltage is unknown where a recording's amplitude is approximate; its LQRSV is left out of "
        "training and of every figure.",
        "Macro means are taken over the classes that are evaluable and have at least five positives in the "
        "set, so means over different sets are not comparable.",
        "Attention of the network is no explanation for a reader and none is shown.",
    ),
    golden_inputs=DataSet(
        "golden inputs: waveform_ecg.dcm of pydicom, converted",
        "MIT",
        "pydicom, Copyright (c) 2008-2020 Darcy Mason and pydicom contributors",
    ),
    citations=(CHALLENGE_2021, PHYSIONET),
    tensors={
        "signal": (
            "standard deviations of the training signal (preprocessing.scale, in mV)",
            ("window of 10 s", f"lead: {', '.join(LEADS)}", "sample at 200 Hz"),
        ),
        "logits": ("log odds before calibration", ("window of 10 s", "class, in the order of 'classes'")),
        "features": ("what the classifier reads", ("window of 10 s", "feature")),
    },
    title="classification of 12-lead ECGs",
    tags=("ecg", "electrocardiogram", "arrhythmia", "12-lead", "snomed-ct"),
    data_set="PhysioNet/CinC Challenge 2021, a subset",
    challenge="physionet-challenge-2021",
    example='predictor.predict("record.hea").findings',
)


@dataclass(frozen=True, eq=False)
class EcgPart:
    """Recordings of one part.

    Attributes
    ----------
    ids
        Record names.
    signals
        Int16 microvolts ``(12, samples)`` at 200 Hz.
    labels, known
        Shape ``(n, 26)``: positive, and whether that is known at all.
    patients
        Shape ``(n,)``: index of the patient, from 0.
    groups
        Subgroup of each recording, shape ``(n,)``, by kind (``source``, ``sex``, ``age``).
    """

    ids: list[str]
    signals: list[npt.NDArray[np.int16]]
    labels: Bools
    known: Bools
    patients: Ints
    groups: dict[str, Strings]

    def __len__(self) -> int:
        return len(self.ids)

    def items(self) -> Iterator[Recording]:
        """The recordings as input for scoring."""
        for name, signal in zip(self.ids, self.signals, strict=True):
            yield Recording(signal / MICROVOLTS, float(SAMPLING_RATE), LEADS, name, name, "cache")

    def select(self, chosen: Bools) -> EcgPart:
        """The recordings where ``chosen``, shape ``(n,)``, is true."""
        rows = np.flatnonzero(chosen).tolist()
        return EcgPart(
            [self.ids[i] for i in rows],
            [self.signals[i] for i in rows],
            self.labels[chosen],
            self.known[chosen],
            np.unique(self.patients[chosen], return_inverse=True)[1],
            {name: values[chosen] for name, values in self.groups.items()},
        )

    def entry(self) -> dict[str, Any]:
        """Counts for a bundle, overall and by subgroup."""
        labelled = self.labels & self.known
        sources = self.groups["source"]
        return {
            "recordings": len(self),
            "patients": len(np.unique(self.patients)),
            "groups": {
                name: {value: int((values == value).sum()) for value in sorted(set(values.tolist()))}
                for name, values in self.groups.items()
            },
            "positives_by_source": {
                source: {
                    c.abbreviation: int(n)
                    for c, n in zip(CLASSES, labelled[sources == source].sum(axis=0), strict=True)
                    if n
                }
                for source in sorted(set(sources.tolist()))
            },
        }


def ecg_answers(predictor: Predictor, part: EcgPart) -> Answers[EcgPart]:
    """Answers of the shipped model for recordings."""
    accepted, answers, refused = predictions(predictor, part)
    shape = (len(answers), part.labels.shape[1])
    return Answers(
        accepted,
        np.array([p.probabilities for p in answers]).reshape(shape),
        np.array([p.positive for p in answers], dtype=bool).reshape(shape),
        refused,
    )


def window_probabilities(logits: Float32s, counts: list[int], calibration: Calibration) -> Floats:
    """Calibrated probabilities ``(n, 26)`` of recordings, from the concatenated logits of their windows.

    Windows are combined as in scoring: :func:`ibt_deploy.decisions.combined`.
    """
    per_window = np.split(calibration.probability(logits), np.cumsum(counts)[:-1])
    return np.stack([combined(windows) for windows in per_window])


def middle_windows(n_windows: list[int]) -> Ints:
    """Index of each recording's middle window among all windows."""
    counts = np.array(n_windows)
    middle: Ints = np.cumsum(counts) - counts + counts // 2
    return middle


def class_positives(parts: Mapping[Part, DataPart]) -> dict[Part, Ints]:
    """Number of recordings with each class in each part, shape ``(26,)``."""
    counts: dict[Part, Ints] = {}
    for name in PARTS:
        part = parts[name]
        assert isinstance(part, EcgPart)
        counts[name] = (part.labels & part.known).sum(axis=0)
    return counts


def ecg_decisions(
    logits: Float32s,
    n_windows: list[int],
    validation: EcgPart,
    evaluable: Bools,
    others: Judged = NOBODY,
) -> Decisions:
    """Calibration and the operating points ``clinical``, ``challenge`` and ``f1``.

    Parameters
    ----------
    logits
        Logits of every window of every validation recording, shape ``(windows, 26)``.
    n_windows
        Number of windows of each recording.
    validation
        The recordings.
    evaluable
        Classes that may be reported, shape ``(26,)``.
    others
        The recordings of the training part, judged by networks that never saw them; thresholds are tuned on
        them as well.

    Notes
    -----
    Calibration uses the middle window of each recording, so that every recording counts once; thresholds are
    tuned on the combined probabilities of the windows, as scoring gives them.
    """
    fitted = fitted_calibration(logits[middle_windows(n_windows)], validation.labels, validation.known)
    judged = others.beside(
        validation.labels, validation.known, window_probabilities(logits, n_windows, fitted.calibration)
    )
    labels, known, probabilities = judged.labels, judged.known, judged.probabilities
    tuned = challenge_thresholds(labels, probabilities, known, evaluable)
    there = "validation and out-of-fold predictions for training" if len(others.labels) else "validation"
    return Decisions(
        fitted,
        {
            "clinical": Point(
                clinical_thresholds(labels, probabilities, known, evaluable),
                f"highest F measure of each class on {there}, shrunk towards the best common "
                "threshold for classes with few positives; of findings that exclude each other the stronger "
                "one, the others as alternatives; no finding where no class reaches its threshold",
                exclusive=True,
            ),
            CHALLENGE: Point(
                tuned.thresholds,
                f"highest challenge metric 2021 on {there} ({tuned.score:.3f} there); classes with fewer "
                "than 20 positives there drawn half-way to the best common threshold",
            ),
            "f1": Point(
                f_thresholds(labels, probabilities, known), f"highest F measure of each class on {there}"
            ),
        },
    )


FIXED = "0.5 for every class"
SMALLEST_GROUP = 20
"""Least number of recordings for which a subgroup gets figures."""


def ecg_evaluation(
    answers: Answers[EcgPart], decisions: Decisions, evaluable: Bools, draws: int
) -> dict[str, Any]:
    """All published figures of one set.

    Parameters
    ----------
    answers
        The model's answers.
    decisions
        Its operating points.
    evaluable
        Classes that may be reported, shape ``(26,)``.
    draws
        Number of bootstrap draws.
    """
    part, p = answers.part, answers.probabilities
    n_patients = len(np.unique(part.patients))
    outputs = {FIXED: decisions_of(p, np.full(len(CLASSES), 0.5), evaluable)}
    for name in decisions.points:
        outputs[name] = (
            answers.positive if name == decisions.default else decisions.outputs(name, p, evaluable)
        )
    official = outputs.get(CHALLENGE, answers.positive)
    counted = ranked_classes(part, evaluable)
    scored = part.known & evaluable
    return {
        "recordings": len(part),
        "patients": n_patients,
        "refused": answers.refused,
        "unknown_labels": int((~part.known).sum()),
        "thresholds": {
            name: _threshold_row(part, given, n_patients, draws) for name, given in outputs.items()
        },
        "threshold_free": figures(_ranking(part, p, counted), n_patients, draws)
        | {"n_classes": int(counted.sum())},
        "calibration": calibration_figures(part.labels[scored], p[scored])
        | {"bins": reliability_bins(part.labels[scored], p[scored])},
        "classes": _classes(answers, counted, n_patients, draws),
        "groups": {
            name: {
                value: _group(answers, official, values == value, evaluable, draws)
                for value in sorted(set(values.tolist()))
            }
            for name, values in part.groups.items()
        },
    }


def ranked_classes(part: EcgPart, evaluable: Bools) -> Bools:
    """Evaluable classes with at least five positives in this set, over which macro means are taken."""
    counted: Bools = evaluable & ((part.labels & part.known).sum(axis=0) >= FEWEST_POSITIVES)
    return counted


def macro_auroc(part: EcgPart, probabilities: Floats, evaluable: Bools) -> float:
    """Mean AUROC over :func:`ranked_classes`."""
    c = ranked_classes(part, evaluable)
    return per_class(auroc, part.labels[:, c], probabilities[:, c], part.known[:, c]).mean


def _ranking(part: EcgPart, p: Floats, counted: Bools) -> dict[str, bootstrap.Statistic]:
    labels, known = part.labels[:, counted], part.known[:, counted]
    if not counted.any():
        return {}
    return {
        "auroc": bootstrap.ranking("auroc", labels, p[:, counted], part.patients, known),
        "auprc": bootstrap.ranking("auprc", labels, p[:, counted], part.patients, known),
    }


def _threshold_row(part: EcgPart, given: Bools, n_patients: int, draws: int) -> dict[str, Any]:
    statistics = {
        "challenge_metric": bootstrap.challenge_metric(part.labels, given, part.patients, part.known),
        "f_measure": bootstrap.f_measure(part.labels, given, part.patients, part.known),
    }
    return figures(statistics, n_patients, draws) | {
        "n_f_classes": arrhythmia.f_measure(part.labels, given, part.known).n_classes,
        "accuracy": number(arrhythmia.accuracy(part.labels, given, part.known)),
    }


def _classes(
    answers: Answers[EcgPart], counted: Bools, n_patients: int, draws: int
) -> dict[str, dict[str, Any]]:
    part, found = answers.part, {}
    for c, entry in enumerate(CLASSES):
        known = part.known[:, c]
        labels, p, given = part.labels[known, c], answers.probabilities[known, c], answers.positive[known, c]
        patients = part.patients[known]
        table: dict[str, Any] = {"n": int(known.sum()), "positives": int(labels.sum())}
        if counted[c]:
            statistics = {
                "auroc": bootstrap.ranking("auroc", labels, p, patients),
                "auprc": bootstrap.ranking("auprc", labels, p, patients),
                "f_measure": bootstrap.f_measure(labels, given, patients),
                **decision_statistics(labels, given, patients),
            }
            table |= figures(statistics, n_patients, draws) | {"calibration": calibration_figures(labels, p)}
        found[entry.abbreviation] = table
    return found


def _group(
    answers: Answers[EcgPart], official: Bools, chosen: Bools, evaluable: Bools, draws: int
) -> dict[str, Any]:
    """Figures of the chosen recordings; ``official`` holds the decisions for the challenge metric."""
    part = answers.part.select(chosen)
    p, given = answers.probabilities[chosen], answers.positive[chosen]
    counted = ranked_classes(part, evaluable)
    n_patients = len(np.unique(part.patients))
    table: dict[str, Any] = {"recordings": len(part), "patients": n_patients, "n_classes": int(counted.sum())}
    if len(part) < SMALLEST_GROUP:
        return table
    statistics = {
        "challenge_metric": bootstrap.challenge_metric(
            part.labels, official[chosen], part.patients, part.known
        ),
        "f_measure": bootstrap.f_measure(part.labels, given, part.patients, part.known),
        **_ranking(part, p, counted),
    }
    known = part.known & evaluable
    calibration = calibration_figures(part.labels[known], p[known])
    return table | figures(statistics, n_patients, draws) | {"calibration": calibration}


def ecg_comparison(
    student: Answers[EcgPart],
    teacher: Answers[EcgPart],
    official: tuple[Bools, Bools],
    evaluable: Bools,
    draws: int,
) -> dict[str, Any]:
    """The teacher's figures on the same recordings, and student minus teacher on the same draws.

    ``official`` holds the outputs of each for the challenge metric.
    """
    part = student.part
    n_patients = len(np.unique(part.patients))
    counted = ranked_classes(part, evaluable)
    both = []
    for answers, outputs in zip((student, teacher), official, strict=True):
        given = answers.positive
        both.append(
            {
                "challenge_metric": bootstrap.challenge_metric(
                    part.labels, outputs, part.patients, part.known
                ),
                "f_measure": bootstrap.f_measure(part.labels, given, part.patients, part.known),
                **_ranking(part, answers.probabilities, counted),
            }
        )
    return compared(both[0], both[1], n_patients, draws)


HEADLINE = {
    "challenge_metric": "challenge metric 2021",
    "f_measure": "macro F",
    "auroc": "macro AUROC",
    "auprc": "macro AUPRC",
}


SHORT_SECONDS = (9.0, 8.0, 7.0, 6.0, 5.0)
"""Down to the shortest length that preprocessing accepts and training crops to."""
LEAST_AGREEMENT = 0.9


def shortest_seconds(curve: dict[str, list[float]]) -> float:
    """The shortest length from which agreement of findings stays at least 90 % up to ten seconds."""
    shortest = 10.0
    for seconds, agreement in zip(curve["seconds"], curve["agreement"], strict=True):
        if agreement < LEAST_AGREEMENT:
            break
        shortest = seconds
    return shortest


def _fp32_scorer(bundle: Bundle) -> EcgScorer:
    return EcgScorer(bundle, OpenGraph.of(bundle, device="cpu", variant="fp32", threads=None))


SHORTEST = "shortest_seconds"
"""Name of the constant that says how short a recording may be."""


class EcgBuild:
    """Decisions, checks and figures of one ECG network.

    Parameters
    ----------
    bundle
        A bundle with the network's graph; its calibration and thresholds are not used.
    network
        The network itself.
    parts
        Training, validation and test part.
    draws
        Number of bootstrap draws.
    evidence
        Evidence for the decisions besides the network's answers on the validation part.
    """

    about = ABOUT
    n_outputs = len(CLASSES)
    scores_unlabelled = False
    weighs_opinions = True
    golden_inputs = staticmethod(ecg_inputs)
    network_logits = staticmethod(window_logits)

    def __init__(
        self,
        bundle: Bundle,
        network: Encoder,
        parts: Mapping[Part, DataPart],
        draws: int,
        evidence: Evidence = Evidence(),  # noqa: B008
    ) -> None:
        self._bundle, self._network, self._parts, self._draws = bundle, network, parts, draws
        self._positives = class_positives(parts)
        self._scorer = _fp32_scorer(bundle)
        self._judge = self._scorer if evidence.chosen is None else _fp32_scorer(evidence.chosen)
        self._validation, self._windows, self._n_windows = self._prepared(parts["validation"])
        self._logits = self._scorer.logits(self._windows, BATCH_SIZE)
        judged = self._logits if evidence.chosen is None else self._judge.logits(self._windows, BATCH_SIZE)
        train = parts["train"]
        assert isinstance(train, EcgPart)
        self._others = (
            NOBODY if evidence.opinion is None else Judged.of(train.labels, train.known, evidence.opinion)
        )
        middle = judged[middle_windows(self._n_windows)]
        self._held_out = held_out_ranking(
            self._validation.labels, self._validation.known, middle, self._others
        )
        self._evaluable = evaluable_classes(self._positives, self._held_out)
        self.decisions = ecg_decisions(
            judged, self._n_windows, self._validation, self._evaluable, self._others
        )

    @staticmethod
    def part(cohort: Cohort, items: Ints) -> EcgPart:
        """Recordings of a cohort as the product sees them."""
        assert isinstance(cohort, EcgCohort)
        ids, truth, signals = [cohort.ids[i] for i in items], cohort.truth(items), cohort.signals(None)
        chosen = [signals[i] for i in items]
        return EcgPart(ids, chosen, truth.labels, truth.known, truth.patients, cohort.groups(items))

    @staticmethod
    def data_sets(parts: Mapping[Part, DataPart]) -> list[DataSet]:
        """The public data sets that the recordings come from."""
        return named_datasets(sorted({s for part in parts.values() for s in part.groups["source"].tolist()}))

    @staticmethod
    def preprocessing(trained: TrainedNetwork) -> dict[str, Any]:
        """The preprocessing of training; for a network that masks, with NaN in unrecorded parts.

        The shortest recording is one patch until agreement on validation determines the required length.
        """
        constants = dict(trained.preprocessing)
        if isinstance(trained.network, EcgTransformer):
            seconds = trained.network.patch / constants["sampling_rate"]
            constants |= {"version": MASKED_VERSION, SHORTEST: seconds}
        return constants

    @staticmethod
    def training_preprocessing(constants: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of :meth:`preprocessing`: what training keeps of a bundle's constants."""
        kept = {name: value for name, value in constants.items() if name != SHORTEST}
        return kept | {"version": VERSION}

    @staticmethod
    def neutral_entries(trained: TrainedNetwork) -> dict[str, Any]:
        """Entries that a contract needs before anything is tuned."""
        del trained
        nothing = np.zeros(len(CLASSES), dtype=np.int64)
        return {"classes": class_entries({"train": nothing}, np.ones(len(CLASSES), dtype=bool))}

    def _prepared(self, part: DataPart) -> tuple[EcgPart, np.ndarray[Any, Any], list[int]]:
        assert isinstance(part, EcgPart)
        found = prepared_part(self._bundle, part)
        return (
            found.part,
            np.concatenate([p.windows for p in found.prepared]),
            [p.size for p in found.prepared],
        )

    def entries(self) -> dict[str, Any]:
        """Task-specific entries of the contract."""
        classes = class_entries(self._positives, self._evaluable, self._held_out)
        entries: dict[str, Any] = {"classes": classes}
        if isinstance(self._network, EcgTransformer):
            curve = self._short_recordings()
            entries["short_recordings"] = curve
            entries["preprocessing"] = self._bundle.contract["preprocessing"] | {
                SHORTEST: shortest_seconds(curve)
            }
        return entries

    def _short_recordings(self) -> dict[str, list[float]]:
        """Agreement of findings when only the first seconds of ten-second validation recordings are scored.

        Shares by length in seconds: of recordings that keep all findings, of findings that agree (``2 n_both
        / (n_short + n_whole)``), and of unchanged decisions, including absent classes.
        """
        calibration = self.decisions.calibration.calibration
        whole = np.array(self._n_windows) == 1
        chosen = np.flatnonzero(np.repeat(whole, self._n_windows))
        full = np.isfinite(self._windows[chosen]).all(axis=(1, 2))
        windows = self._windows[chosen[full]]

        def found(signals: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
            p = calibration.probability(self._judge.logits(signals, BATCH_SIZE))
            return self.decisions.outputs(self.decisions.default, p, self._evaluable)

        reference = found(windows)
        rate = self._bundle.preprocessing.sampling_rate  # type: ignore[union-attr]
        curve: dict[str, list[float]] = {
            k: [] for k in ("seconds", "recordings_unchanged", "agreement", "decisions_unchanged")
        }
        for seconds in SHORT_SECONDS:
            cut = windows.copy()
            cut[..., round(seconds * rate) :] = np.nan
            given = found(cut)
            same = given == reference
            shared = 2 * (given & reference).sum() / max(int(given.sum() + reference.sum()), 1)
            curve["seconds"].append(seconds)
            curve["recordings_unchanged"].append(round(float(same.all(axis=1).mean()), 4))
            curve["agreement"].append(round(float(shared), 4))
            curve["decisions_unchanged"].append(round(float(same[:, self._evaluable].mean()), 4))
        return curve

    def write_familiarity(self, path: Path, externals: Mapping[str, DataPart]) -> dict[str, Any] | None:
        """Fit a Gaussian to the training part's features; return None for a network without features.

        Otherwise return the share of each set beyond the limit and, for ``externals`` and damaged test
        recordings, the AUROC that separates them from the test part.
        """
        if not isinstance(self._network, EcgTransformer):
            return None
        _, train, counts = self._prepared(self._parts["train"])
        learnt, unseen = (
            features_of(self._judge, windows, n)
            for windows, n in ((train, counts), (self._windows, self._n_windows))
        )
        judged = Familiarity.fitted(learnt, unseen)
        familiarity = judged
        if self._judge is not self._scorer:
            own = [(train, counts), (self._windows, self._n_windows)]
            learnt = np.concatenate([features_of(self._scorer, windows, n) for windows, n in own])
            familiarity = Familiarity.fitted(learnt, stretch=judged.stretch)
        familiarity.save(path)
        _, windows, n_windows = self._prepared(self._parts["test"])
        others = {name: self._prepared(part)[1:] for name, part in externals.items()}
        return {
            "limit": UNFAMILIAR,
            "recordings": len(learnt),
            "stretch": round(familiarity.stretch, 4),
            "validation_unfamiliar": round(float((judged.share_nearer(unseen) > UNFAMILIAR).mean()), 4),
            **separation(familiarity, self._scorer, (windows, n_windows), others),
        }

    def parity(self) -> ParityReport:
        """Compare the graph with the network on all validation recordings."""
        return parity_report(
            len(self._validation),
            window_logits(self._network, self._windows),
            self._logits,
            self._scorer.logits(self._windows, 1),
            self.decisions.calibration.calibration,
            self.decisions.thresholds,
        )

    def int8(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, GateReport] | None:
        """The int8 variant and its cost; None for a CNN, which it makes slower."""
        if isinstance(self._network, HannunResNet):
            return None
        whole = self._windows[~np.isnan(self._windows).any(axis=(1, 2))]
        chosen = whole[:: max(len(whole) // CALIBRATION_WINDOWS, 1)]
        smaller = quantised(
            model, [{"signal": chosen[i : i + SCORED]} for i in range(0, len(chosen), SCORED)]
        )
        content = smaller.SerializeToString()
        scorer = EcgScorer(self._bundle, OpenGraph(open_session(content, device="cpu")[0], "int8", "cpu"))
        calibration = self.decisions.calibration.calibration
        before, after = (
            window_probabilities(logits, self._n_windows, calibration)
            for logits in (self._logits, scorer.logits(self._windows, SCORED))
        )
        part, evaluable, decisions = self._validation, self._evaluable, self.decisions
        given = tuple(decisions.outputs(decisions.default, p, evaluable) for p in (before, after))
        official = tuple(decisions.outputs(CHALLENGE, p, evaluable) for p in (before, after))
        report = gate_report(
            len(part),
            (before, after),
            (given[0][:, evaluable], given[1][:, evaluable]),
            (macro_auroc(part, before, evaluable), macro_auroc(part, after, evaluable)),
            (
                challenge_metric(part.labels, official[0], mask=part.known),
                challenge_metric(part.labels, official[1], mask=part.known),
            ),
            (model.ByteSize(), smaller.ByteSize()),
        )
        return smaller, report

    def answers(self, predictor: Predictor, part: DataPart) -> Answers[EcgPart]:
        """Answers of the shipped model for a part."""
        assert isinstance(part, EcgPart)
        return ecg_answers(predictor, part)

    def evaluation(self, answers: Answers[EcgPart]) -> dict[str, Any]:
        """Figures of the answers."""
        return ecg_evaluation(answers, self.decisions, self._evaluable, self._draws)

    def headline(self, evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Headline figures by title, with the challenge metric at the point tuned for it."""
        tuned, free = evaluation["thresholds"][self.decisions.default], evaluation["threshold_free"]
        names = {
            "f_measure": f"macro F ({tuned['n_f_classes']} classes)",
            "auroc": f"macro AUROC ({free['n_classes']} classes)",
            "auprc": f"macro AUPRC ({free['n_classes']} classes)",
        }
        official = evaluation["thresholds"][CHALLENGE]
        found = {**tuned, "challenge_metric": official["challenge_metric"], **free}
        return {names.get(key, title): found[key] for key, title in HEADLINE.items() if key in found}

    def comparison(self, answers: Answers[EcgPart], teacher: Encoder) -> dict[str, Any]:
        """Compare with the teacher, calibrated and tuned like the student, on the same test recordings."""
        validation_logits = window_logits(teacher, self._windows)
        tuned = ecg_decisions(
            validation_logits, self._n_windows, self._validation, self._evaluable, self._others
        )
        part, windows, n_windows = self._prepared(answers.part)
        probabilities = window_probabilities(
            window_logits(teacher, windows), n_windows, tuned.calibration.calibration
        )
        positive = tuned.outputs(tuned.default, probabilities, self._evaluable)
        theirs = Answers(part, probabilities, positive, {})
        official = (
            self.decisions.outputs(CHALLENGE, answers.probabilities, self._evaluable),
            tuned.outputs(CHALLENGE, probabilities, self._evaluable),
        )
        return ecg_comparison(answers, theirs, official, self._evaluable, self._draws)

    def write_golden(self, path: Path, inputs: dict[str, Any]) -> None:
        """Write the golden inputs with their scoring results."""
        write_cases(path, golden_cases(self._scorer, inputs))
