"""ICU stays: decisions tuned on validation, published figures, and the steps of a build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from export.check import (
    GateReport,
    ParityReport,
    StayGraph,
    batch_change,
    earlier_change,
    gate_report,
    golden_cases,
    parity_report,
    stay_inputs,
    streaming_difference,
    write_cases,
)
from export.entries import CC_BY, PHYSIONET, About, DataSet
from export.graph import quantised
from export.scored import (
    BATCH_SIZE,
    Answers,
    DataPart,
    Decisions,
    Evidence,
    Point,
    calibration_figures,
    compared,
    figures,
    number,
    predictions,
    prepared_part,
    reliability_bins,
)
from ibt_deploy.bundle import Bundle
from ibt_deploy.calibration import (
    FLAT,
    alarm_rate_threshold,
    fitted_calibration,
    sensitivity_threshold,
    utility_threshold,
)
from ibt_deploy.device import OpenGraph, open_session
from ibt_deploy.metrics import bootstrap
from ibt_deploy.metrics.ranking import auroc
from ibt_deploy.metrics.sepsis import AlarmPolicy, alarm_statistics, policy_alarms, stay_of_row, utility
from ibt_deploy.predictions import NOTICE
from ibt_deploy.predictor import Predictor
from ibt_deploy.preprocess.stay import StayPreprocessing
from ibt_deploy.records import Stay
from ibt_deploy.scorers.stay import StayScorer
from ibt_deploy.types import Bools, Float32s, Floats, Ints, Strings
from training.checkpoint import TrainedNetwork
from training.data.split import Part
from training.models import Encoder
from training.tasks.base import Cohort
from training.tasks.stay import StayCohort

SENSITIVITY = 0.80
ALARMS_PER_PATIENT_DAY = 0.1
_CACHE_AXES = ("block", "stay", "head", "row so far", "width of a head")
CHALLENGE_2019 = DataSet(
    "PhysioNet/Computing in Cardiology Challenge 2019, training sets A and B",
    CC_BY,
    "Reyna MA et al. Early Prediction of Sepsis From Clinical Data: The PhysioNet/Computing in Cardiology "
    "Challenge 2019. Crit Care Med 48(2):210-217, 2020. doi:10.1097/CCM.0000000000004145; data: "
    "doi:10.13026/v64v-d857",
)
ABOUT = About(
    intended_use=(
        f"{NOTICE} For research on early warning: for every hour of a stay in intensive care it estimates, "
        "from that hour and earlier ones alone, the probability that the hour lies later than six hours "
        "before the onset of sepsis as the PhysioNet/CinC Challenge 2019 defines it. Intended users are "
        "researchers and clinical engineers who validate it on their own patients first (`ibt evaluate`)."
    ),
    not_intended=(
        "diagnosis, triage or treatment of patients, or withholding any of these",
        "wards, emergency departments and operating theatres",
        "onset of sepsis within 4 h of admission and stays shorter than 8 h, which the data leave out",
        "hours after the 336th of a stay, which are left out",
    ),
    not_evaluated_on=(
        "hospitals other than the two (A and B, both in the USA) of the public training sets",
        "children",
        "years, case mix and measuring habits other than theirs",
        "prospective use, and any effect on patients",
    ),
    limits=(
        "Whether and when something is measured is an input and informative: an order for lactate is a "
        "suspicion. Such habits belong to a hospital. Challenge entries that scored 0.43 on hospitals A and "
        "B fell to about -0.1 on a third one.",
        "Length of stay (ICULOS), time before admission and the unit are inputs and strong shortcuts.",
        "SepsisLabel turns 1 six hours before onset by definition. Stays that are positive from their first "
        "hour (their number is above) leave nothing to warn of, and their true onset may have been earlier.",
        "Most alarms are false; the table of alarms has the share that is right at each operating point.",
        "Published external validations of a widely used commercial model found AUROC 0.63 (Wong et al. "
        "2021). Internal figures such as those above are no promise for another hospital.",
        "Units in the public files are partly wrong in their documentation; the contract states the units "
        "used here.",
    ),
    golden_inputs=DataSet("golden inputs: a synthetic stay of this project", "Apache-2.0", "none needed"),
    citations=(PHYSIONET,),
    tensors={
        "rows": (
            "features as made by the preprocessing",
            ("stay", "hour, padded at the end", "feature, in the order of 'feature_names'"),
        ),
        "position": ("rows since the first row of the stay, from 0", ("stay", "hour")),
        "past_k": ("keys of earlier rows; none at the start of a stay", _CACHE_AXES),
        "past_v": ("values of earlier rows; none at the start of a stay", _CACHE_AXES),
        "logit": ("log odds before calibration", ("stay", "hour")),
        "present_k": ("keys of all rows so far", _CACHE_AXES),
        "present_v": ("values of all rows so far", _CACHE_AXES),
    },
    title="hourly sepsis risk in intensive care",
    tags=("icu", "sepsis", "early-warning", "electronic-health-record"),
    data_set="PhysioNet/CinC Challenge 2019, training sets A and B",
    challenge="physionet-challenge-2019",
    example='predictor.predict("stay.psv").risk',
)


@dataclass(frozen=True, eq=False)
class StayPart:
    """Stays of one part, one per patient.

    Attributes
    ----------
    ids
        Patient identifiers.
    values
        Raw rows of each stay, ``(hours, 40)`` float32.
    labels
        ``SepsisLabel`` of all rows end to end.
    groups
        Subgroup of each stay, shape ``(n,)`` (``hospital``, ``sex``, ``age``, ``unit``).
    """

    ids: list[str]
    values: list[npt.NDArray[np.float32]]
    labels: npt.NDArray[np.int8]
    groups: dict[str, Strings]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def offsets(self) -> Ints:
        """Stay ``i`` is the rows ``offsets[i]:offsets[i + 1]`` of ``labels``; shape ``(n + 1,)``."""
        return np.concatenate(([0], np.cumsum([len(v) for v in self.values]))).astype(np.int64)

    @property
    def septic(self) -> Bools:
        """Whether each stay has a positive row, shape ``(n,)``."""
        return np.array([(self.labels[a:b] > 0).any() for a, b in pairwise(self.offsets)], bool)

    @property
    def labelled(self) -> bool:
        """Whether the labels are known; a data set prepared without labels has -1 everywhere."""
        return bool((self.labels >= 0).all())

    def items(self) -> Iterator[Stay]:
        """The stays as input for scoring."""
        for name, values in zip(self.ids, self.values, strict=True):
            yield Stay(values.astype(np.float64), name, name, "cache")

    def select(self, chosen: Bools) -> StayPart:
        """The stays where ``chosen``, shape ``(n,)``, is true."""
        rows = np.flatnonzero(chosen).tolist()
        return StayPart(
            [self.ids[i] for i in rows],
            [self.values[i] for i in rows],
            self.labels[np.repeat(chosen, np.diff(self.offsets))],
            {name: values[chosen] for name, values in self.groups.items()},
        )

    def entry(self) -> dict[str, Any]:
        """Counts for a bundle, overall and by subgroup."""
        septic = self.septic
        return {
            "stays": len(self),
            "septic": int(septic.sum()),
            "hours": len(self.labels),
            "positive_hours": int((self.labels > 0).sum()),
            "septic_from_first_hour": int((self.labels[self.offsets[:-1]] > 0).sum()),
            "groups": {
                name: {
                    value: {
                        "stays": int((values == value).sum()),
                        "septic": int(septic[values == value].sum()),
                    }
                    for value in sorted(set(values.tolist()))
                }
                for name, values in self.groups.items()
            },
        }


def stay_answers(predictor: Predictor, part: StayPart) -> Answers[StayPart]:
    """Answers of the shipped model for every hour of stays."""
    accepted, answers, refused = predictions(predictor, part)
    empty = np.empty(0)
    return Answers(
        accepted,
        np.concatenate([empty, *(p.risk for p in answers)]),
        np.concatenate([empty, *(p.alarms for p in answers)]).astype(bool),
        refused,
    )


@torch.no_grad()
def network_stay_logits(network: Encoder, stays: list[Float32s]) -> list[Float32s]:
    """Logits ``(hours,)`` of every stay's features ``(hours, F)`` straight from a torch network."""
    network.eval()
    found: list[Float32s] = [np.empty(0, dtype=np.float32)] * len(stays)
    by_length = sorted(range(len(stays)), key=lambda i: len(stays[i]))
    for start in range(0, len(by_length), BATCH_SIZE):
        chosen = by_length[start : start + BATCH_SIZE]
        hours = len(stays[chosen[-1]])
        rows = torch.zeros(len(chosen), hours, stays[chosen[0]].shape[1])
        for k, i in enumerate(chosen):
            rows[k, : len(stays[i])] = torch.from_numpy(stays[i])
        logits = network(rows).numpy()
        for k, i in enumerate(chosen):
            found[i] = logits[k, : len(stays[i])].copy()
    return found


def stay_decisions(logits: Float32s, validation: StayPart) -> Decisions:
    """Calibration and the operating points ``utility``, ``sensitivity80`` and ``alarms_per_10_patient_days``.

    Parameters
    ----------
    logits
        Logits of every row of the validation stays end to end.
    validation
        The stays.
    """
    labels, offsets = validation.labels, validation.offsets
    fitted = fitted_calibration(logits, labels)
    risk = fitted.calibration.probability(logits)
    utility = utility_threshold(labels, risk, offsets, within=FLAT)
    sensitive = sensitivity_threshold(labels, risk, offsets, SENSITIVITY)
    sparing = alarm_rate_threshold(labels, risk, offsets, ALARMS_PER_PATIENT_DAY)
    return Decisions(
        fitted,
        {
            "utility": Point(
                np.array([utility.threshold]),
                f"fewest alarms within {FLAT} of the highest utility 2019 on validation "
                f"({utility.reached:.3f} there)",
            ),
            "sensitivity80": Point(
                np.array([sensitive.threshold]),
                "highest threshold that alarms in time (from 12 h before to 3 h after onset) in 80 % of "
                f"septic validation stays ({sensitive.reached:.1%} there)",
            ),
            "alarms_per_10_patient_days": Point(
                np.array([sparing.threshold]),
                "lowest threshold with at most 1 alarm in 10 patient-days on validation "
                f"({10 * sparing.reached:.2f} there; 6 h of silence after an alarm)",
            ),
        },
    )


FIXED = "0.5"
SMALLEST_GROUP = 20
"""Least number of septic stays for which a subgroup gets figures."""


def stay_evaluation(answers: Answers[StayPart], decisions: Decisions, draws: int) -> dict[str, Any]:
    """All published figures of one set.

    Parameters
    ----------
    answers
        The model's answers.
    decisions
        Its operating points.
    draws
        Number of bootstrap draws.
    """
    part, risk = answers.part, answers.probabilities
    labels = part.labels
    if not part.labelled:
        return {
            "stays": len(part),
            "hours": len(labels),
            "refused": answers.refused,
            "burden": _burden(answers, decisions, draws),
        }
    thresholds = {FIXED: 0.5} | {name: float(p.thresholds[0]) for name, p in decisions.points.items()}
    alarms = {
        name: answers.positive if name == decisions.default else risk >= threshold
        for name, threshold in thresholds.items()
    }
    return {
        "stays": len(part),
        "septic": int(part.septic.sum()),
        "hours": len(labels),
        "positive_hours": int(labels.sum()),
        "refused": answers.refused,
        "burden": _burden(answers, decisions, draws),
        "thresholds": {
            name: {"threshold": number(thresholds[name])}
            | figures(_threshold_statistics(part, given), len(part), draws)
            for name, given in alarms.items()
        },
        "threshold_free": figures(_ranking(part, risk), len(part), draws),
        "alarms": {
            name: _alarms(part, risk, thresholds[name], draws) for name in thresholds if name != FIXED
        },
        "calibration": calibration_figures(labels, risk) | {"bins": reliability_bins(labels, risk)},
        "groups": {
            name: {value: _group(answers, values == value, draws) for value in sorted(set(values.tolist()))}
            for name, values in part.groups.items()
        },
    }


def _burden(answers: Answers[StayPart], decisions: Decisions, draws: int) -> dict[str, Any]:
    """Figures that need no labels: the mean risk, and the share of hours at or above each operating point."""
    part, risk = answers.part, answers.probabilities
    stay = stay_of_row(part.offsets, len(risk))
    above = {
        name: answers.positive if name == decisions.default else risk >= float(point.thresholds[0])
        for name, point in decisions.points.items()
    }
    once = np.ones(len(risk))
    statistics = {"mean_risk": bootstrap.ratio(risk, once, stay)} | {
        name: bootstrap.ratio(alarm * 1.0, once, stay) for name, alarm in above.items()
    }
    return figures(statistics, len(part), draws)


def _threshold_statistics(part: StayPart, alarms: Bools) -> dict[str, bootstrap.Statistic]:
    stay = stay_of_row(part.offsets, len(part.labels))
    return {
        "utility": bootstrap.utility(part.labels, alarms, part.offsets),
        "f_measure": bootstrap.f_measure(part.labels, alarms, stay),
    }


def _ranking(part: StayPart, risk: Floats) -> dict[str, bootstrap.Statistic]:
    statistics = bootstrap.sepsis_statistics(part.labels, risk, risk >= 0.5, part.offsets)
    return {name: statistics[name] for name in ("auroc", "auprc")}


def _alarms(part: StayPart, risk: Floats, threshold: float, draws: int) -> dict[str, Any]:
    policy = AlarmPolicy()
    given = policy_alarms(risk, part.offsets, threshold, policy)
    found = alarm_statistics(part.labels, given, part.offsets)
    return figures(bootstrap.alarm_rates(part.labels, given, part.offsets), len(part), draws) | {
        "alarms": found.n_alarms,
        "patient_days": number(found.patient_days),
        "number_needed_to_evaluate": number(found.number_needed_to_evaluate),
        "lead_time_hours": [number(hours) for hours in found.lead_time],
        "only_after_onset": number(found.only_after_onset),
        "silence_hours": policy.silence,
    }


def _group(answers: Answers[StayPart], chosen: Bools, draws: int) -> dict[str, Any]:
    part = answers.part.select(chosen)
    rows = np.repeat(chosen, np.diff(answers.part.offsets))
    risk, alarms = answers.probabilities[rows], answers.positive[rows]
    table: dict[str, Any] = {"stays": len(part), "septic": int(part.septic.sum())}
    if table["septic"] < SMALLEST_GROUP:
        return table
    statistics = {"utility": bootstrap.utility(part.labels, alarms, part.offsets), **_ranking(part, risk)}
    calibration = calibration_figures(part.labels, risk)
    return table | figures(statistics, len(part), draws) | {"calibration": calibration}


def stay_comparison(student: Answers[StayPart], teacher: Answers[StayPart], draws: int) -> dict[str, Any]:
    """The teacher's figures on the same stays, and student minus teacher on the same draws."""
    part = student.part
    both = [
        bootstrap.sepsis_statistics(part.labels, a.probabilities, a.positive, part.offsets)
        for a in (student, teacher)
    ]
    return compared(both[0], both[1], len(part), draws)


STREAMED, CHANGED = 24, 100
"""Numbers of validation stays to stream, and to change in later hours; spread over all lengths."""
CALIBRATION_STAYS = 256
"""Most validation stays from which int8 takes its scales."""
HEADLINE = {
    "utility": "utility 2019",
    "auroc": "AUROC (hours)",
    "auprc": "AUPRC (hours)",
    "f_measure": "F (hours)",
}


def _fp32_graph(bundle: Bundle) -> OpenGraph:
    return OpenGraph.of(bundle, device="cpu", variant="fp32", threads=None)


class StayBuild:
    """Decisions, checks and figures of one stay network; parameters as for EcgBuild."""

    about = ABOUT
    n_outputs = 1
    scores_unlabelled = True
    weighs_opinions = False
    golden_inputs = staticmethod(stay_inputs)

    def __init__(
        self,
        bundle: Bundle,
        network: Encoder,
        parts: Mapping[Part, DataPart],
        draws: int,
        evidence: Evidence = Evidence(),  # noqa: B008
    ) -> None:
        self._bundle, self._network, self._draws = bundle, network, draws
        self._graph = _fp32_graph(bundle)
        self._scorer = StayScorer(bundle, self._graph)
        self._validation, self._features = self._prepared(parts["validation"])
        self._logits = self._scored(self._scorer, BATCH_SIZE)
        chosen = evidence.chosen
        judged = (
            self._logits
            if chosen is None
            else self._scored(StayScorer(chosen, _fp32_graph(chosen)), BATCH_SIZE)
        )
        self.decisions = stay_decisions(judged, self._validation)

    @staticmethod
    def part(cohort: Cohort, items: Ints) -> StayPart:
        """Stays of a cohort as the product sees them."""
        assert isinstance(cohort, StayCohort)
        ids = [cohort.ids[i] for i in items]
        values = [cohort.values[cohort.offsets[i] : cohort.offsets[i + 1]] for i in items]
        groups = cohort.groups(items) | {"unit": cohort.units(items)}
        return StayPart(ids, values, cohort.truth(items).labels, groups)

    @staticmethod
    def network_logits(network: Encoder, features: Float32s) -> Float32s:
        """Logits ``(hours,)`` of one stay's features ``(hours, F)``, from the network."""
        return network_stay_logits(network, [features])[0]

    @staticmethod
    def data_sets(parts: Mapping[Part, DataPart]) -> list[DataSet]:
        """The public data set that the stays come from."""
        del parts
        return [CHALLENGE_2019]

    @staticmethod
    def preprocessing(trained: TrainedNetwork) -> dict[str, Any]:
        """The preprocessing of training."""
        return dict(trained.preprocessing)

    @staticmethod
    def training_preprocessing(constants: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of :meth:`preprocessing`."""
        return dict(constants)

    @staticmethod
    def neutral_entries(trained: TrainedNetwork) -> dict[str, Any]:
        """Entries that a contract needs before anything is tuned."""
        return {"feature_names": list(StayPreprocessing.from_dict(trained.preprocessing).feature_names)}

    def _prepared(self, part: DataPart) -> tuple[StayPart, list[Float32s]]:
        assert isinstance(part, StayPart)
        found = prepared_part(self._bundle, part)
        return found.part, self._scorer.features(found.prepared)

    def _scored(self, scorer: StayScorer, batch_size: int) -> Float32s:
        return np.concatenate(scorer.logits(self._features, batch_size))

    def _spread(self, n: int) -> list[Float32s]:
        """Features of at most ``n`` validation stays spread over all lengths, including the longest."""
        by_length = sorted(self._features, key=len)
        chosen = np.unique(np.linspace(0, len(by_length) - 1, min(n, len(by_length))).astype(int))
        return [by_length[i] for i in chosen]

    def write_familiarity(self, path: Path, externals: Mapping[str, DataPart]) -> None:
        """Do nothing: there is no familiarity model for stays."""
        del path, externals

    def entries(self) -> dict[str, Any]:
        """Task-specific entries of the contract."""
        return {}

    def parity(self) -> ParityReport:
        """Compare the graph with the network on all validation stays."""
        graph = StayGraph(self._graph)
        return parity_report(
            len(self._validation),
            np.concatenate(network_stay_logits(self._network, self._features)),
            self._logits,
            self._scored(self._scorer, 1),
            self.decisions.calibration.calibration,
            self.decisions.thresholds,
            streaming=streaming_difference(graph, self._spread(STREAMED)),
            earlier=earlier_change(graph, self._spread(CHANGED)),
        )

    def int8(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, GateReport]:
        """The int8 variant, with scales from validation stays of all lengths, and its cost."""
        calibrating = self._spread(CALIBRATION_STAYS)
        cache = dict(zip(("past_k", "past_v"), self._graph.empty_cache(1), strict=True))
        smaller = quantised(
            model,
            [{"rows": rows[None], "position": np.arange(len(rows))[None], **cache} for rows in calibrating],
        )
        opened = OpenGraph(open_session(smaller.SerializeToString(), device="cpu")[0], "int8", "cpu")
        graph = StayGraph(opened)
        calibration = self.decisions.calibration.calibration
        part = self._validation
        after_logits = self._scored(StayScorer(self._bundle, opened), 1)
        before, after = (calibration.probability(z) for z in (self._logits, after_logits))
        threshold = float(self.decisions.points[self.decisions.default].thresholds[0])
        report = gate_report(
            len(part),
            (before, after),
            (before >= threshold, after >= threshold),
            (auroc(part.labels, before), auroc(part.labels, after)),
            (
                utility(part.labels, before >= threshold, part.offsets),
                utility(part.labels, after >= threshold, part.offsets),
            ),
            (model.ByteSize(), smaller.ByteSize()),
            stays=(
                earlier_change(graph, self._spread(CHANGED)),
                batch_change(graph, self._spread(CHANGED)),
                streaming_difference(graph, self._spread(STREAMED)),
            ),
        )
        return smaller, report

    def answers(self, predictor: Predictor, part: DataPart) -> Answers[StayPart]:
        """Answers of the shipped model for a part."""
        assert isinstance(part, StayPart)
        return stay_answers(predictor, part)

    def evaluation(self, answers: Answers[StayPart]) -> dict[str, Any]:
        """Figures of the answers."""
        return stay_evaluation(answers, self.decisions, self._draws)

    def headline(self, evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Headline figures by title; empty for a set without labels."""
        if "thresholds" not in evaluation:
            return {}
        found = {**evaluation["thresholds"][self.decisions.default], **evaluation["threshold_free"]}
        return {title: found[key] for key, title in HEADLINE.items()}

    def comparison(self, answers: Answers[StayPart], teacher: Encoder) -> dict[str, Any]:
        """Compare with the teacher, calibrated and tuned like the student, on the same test stays."""
        tuned = stay_decisions(np.concatenate(network_stay_logits(teacher, self._features)), self._validation)
        part, features = self._prepared(answers.part)
        logits = np.concatenate(network_stay_logits(teacher, features))
        risk = tuned.calibration.calibration.probability(logits)
        alarms = risk >= tuned.points[tuned.default].thresholds[0]
        return stay_comparison(answers, Answers(part, risk, alarms, {}), self._draws)

    def write_golden(self, path: Path, inputs: dict[str, Any]) -> None:
        """Write the golden inputs with their scoring results."""
        write_cases(path, golden_cases(self._scorer, inputs))
