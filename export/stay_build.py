"""The steps of a build that are particular to stays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.data import AnyPart, Data, StayPart
from export.decide import stay_decisions
from export.evaluate_stay import stay_comparison, stay_evaluation
from export.golden import stay_cases, write_cases
from export.parity import ParityReport, parity_report
from export.quantise import GateReport, gate_report, quantised
from export.scored import BATCH_SIZE, Answers, Float32s, network_stay_logits, prepared_stays, stay_answers
from export.stay_checks import StayGraph, batch_change, earlier_change, streaming_difference
from ibt_deploy.bundle import Bundle
from ibt_deploy.device import open_session
from ibt_deploy.metrics.ranking import auroc
from ibt_deploy.metrics.sepsis import utility
from ibt_deploy.predictor import Predictor
from ibt_deploy.scorers.session import OpenGraph
from ibt_deploy.scorers.stay import StayScorer
from training.models import Encoder

STREAMED, CHANGED = 24, 100
"""Validation stays that are streamed, and whose later hours are changed; spread over all lengths."""
HEADLINE = {
    "utility": "utility 2019",
    "auroc": "AUROC (hours)",
    "auprc": "AUPRC (hours)",
    "f_measure": "F (hours)",
}


class StayBuild:
    """Decisions, proofs and figures of one stay network; parameters as for EcgBuild."""

    def __init__(self, bundle: Bundle, network: Encoder, data: Data, draws: int) -> None:
        self._bundle, self._network, self._draws = bundle, network, draws
        self._graph = OpenGraph.of(bundle, device="cpu", variant="fp32", threads=None)
        self._scorer = StayScorer(bundle, self._graph)
        self._validation, self._features = self._prepared(data.parts["validation"])
        self._logits = self._scored(self._scorer, BATCH_SIZE)
        self.decisions = stay_decisions(self._logits, self._validation)

    def _prepared(self, part: AnyPart) -> tuple[StayPart, list[Float32s]]:
        assert isinstance(part, StayPart)
        found = prepared_stays(self._scorer, part)
        return found.part, self._scorer.features(found.prepared)

    def _scored(self, scorer: StayScorer, batch_size: int) -> Float32s:
        return np.concatenate(scorer.logits(self._features, batch_size))

    def _spread(self, n: int) -> list[Float32s]:
        """Features of at most ``n`` validation stays over all lengths, the longest among them."""
        by_length = sorted(self._features, key=len)
        chosen = np.unique(np.linspace(0, len(by_length) - 1, min(n, len(by_length))).astype(int))
        return [by_length[i] for i in chosen]

    def write_familiarity(self, path: Path, externals: Mapping[str, AnyPart]) -> None:
        """Stays have no description of familiar features."""
        del path, externals

    def entries(self) -> dict[str, Any]:
        """What the contract says beyond that of every task."""
        return {}

    def parity(self) -> ParityReport:
        """The graph against the network on every validation stay."""
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
        """The int8 variant and why it cannot be shipped."""
        smaller = quantised(model)
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
            earlier=earlier_change(graph, self._spread(CHANGED)),
            batch=batch_change(graph, self._spread(CHANGED)),
        )
        return smaller, report

    def answers(self, predictor: Predictor, part: AnyPart) -> Answers[StayPart]:
        """What the shipped model says about a part."""
        assert isinstance(part, StayPart)
        return stay_answers(predictor, part)

    def evaluation(self, answers: Answers[StayPart]) -> dict[str, Any]:
        """Figures of the answers."""
        return stay_evaluation(answers, self.decisions, self._draws)

    def headline(self, evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Title and figure of what is named first."""
        found = {**evaluation["thresholds"][self.decisions.default], **evaluation["threshold_free"]}
        return {title: found[key] for key, title in HEADLINE.items()}

    def comparison(self, answers: Answers[StayPart], teacher: Encoder) -> dict[str, Any]:
        """The teacher, calibrated and tuned on validation like the student, on the same test stays."""
        tuned = stay_decisions(np.concatenate(network_stay_logits(teacher, self._features)), self._validation)
        part, features = self._prepared(answers.part)
        logits = np.concatenate(network_stay_logits(teacher, features))
        risk = tuned.calibration.calibration.probability(logits)
        alarms = risk >= tuned.points[tuned.default].thresholds[0]
        return stay_comparison(answers, Answers(part, risk, alarms, {}), self._draws)

    def write_golden(self, path: Path, inputs: dict[str, Any]) -> None:
        """Write the golden inputs with what scoring makes of them."""
        write_cases(path, stay_cases(self._scorer, inputs))
