"""The steps of a build that are particular to ECGs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.contract import class_entries
from export.data import AnyPart, Data, EcgPart
from export.decide import CHALLENGE, class_positives, ecg_decisions, evaluable_classes
from export.evaluate_ecg import ecg_comparison, ecg_evaluation, macro_auroc
from export.golden import ecg_cases, write_cases
from export.parity import ParityReport, parity_report
from export.quantise import GateReport, gate_report, quantised
from export.scored import (
    BATCH_SIZE,
    Answers,
    ecg_answers,
    network_ecg_logits,
    prepared_ecgs,
    window_probabilities,
)
from ibt_deploy.bundle import Bundle
from ibt_deploy.device import open_session
from ibt_deploy.metrics.arrhythmia import challenge_metric
from ibt_deploy.predictor import Predictor
from ibt_deploy.scorers.ecg import EcgScorer
from ibt_deploy.scorers.session import OpenGraph
from training.models.encoder import Encoder
from training.models.resnet import HannunResNet

HEADLINE = {
    "challenge_metric": "challenge metric 2021",
    "f_measure": "macro F",
    "auroc": "macro AUROC",
    "auprc": "macro AUPRC",
}


class EcgBuild:
    """Decisions, proofs and figures of one ECG network.

    Parameters
    ----------
    bundle
        A bundle with the network's graph; its calibration and thresholds are not used.
    network
        The network itself.
    data
        The data set.
    draws
        Of the bootstrap.
    """

    def __init__(self, bundle: Bundle, network: Encoder, data: Data, draws: int) -> None:
        self._bundle, self._network, self._data, self._draws = bundle, network, data, draws
        self._positives = class_positives(data)
        self._evaluable = evaluable_classes(self._positives)
        self._scorer = EcgScorer(bundle, OpenGraph.of(bundle, device="cpu", variant="fp32", threads=None))
        self._validation, self._windows, self._n_windows = self._prepared(data.parts["validation"])
        self._logits = self._scorer.logits(self._windows, BATCH_SIZE)
        self.decisions = ecg_decisions(self._logits, self._n_windows, self._validation, self._evaluable)

    def _prepared(self, part: AnyPart) -> tuple[EcgPart, np.ndarray[Any, Any], list[int]]:
        assert isinstance(part, EcgPart)
        found = prepared_ecgs(self._scorer, part)
        return (
            found.part,
            np.concatenate([p.windows for p in found.prepared]),
            [p.size for p in found.prepared],
        )

    def entries(self) -> dict[str, Any]:
        """What the contract says beyond that of every task."""
        return {"classes": class_entries(self._positives, self._evaluable)}

    def parity(self) -> ParityReport:
        """The graph against the network on every validation recording."""
        return parity_report(
            len(self._validation),
            network_ecg_logits(self._network, self._windows),
            self._logits,
            self._scorer.logits(self._windows, 1),
            self.decisions.calibration.calibration,
            self.decisions.thresholds,
        )

    def int8(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, GateReport] | None:
        """The int8 variant and what it costs; None for a CNN, which it makes slower."""
        if isinstance(self._network, HannunResNet):
            return None
        smaller = quantised(model)
        content = smaller.SerializeToString()
        scorer = EcgScorer(self._bundle, OpenGraph(open_session(content, device="cpu")[0], "int8", "cpu"))
        calibration = self.decisions.calibration.calibration
        before, after = (
            window_probabilities(logits, self._n_windows, calibration)
            for logits in (self._logits, scorer.logits(self._windows, 1))
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

    def answers(self, predictor: Predictor, part: AnyPart) -> Answers[EcgPart]:
        """What the shipped model says about a part."""
        assert isinstance(part, EcgPart)
        return ecg_answers(predictor, part)

    def evaluation(self, answers: Answers[EcgPart]) -> dict[str, Any]:
        """Figures of the answers."""
        return ecg_evaluation(answers, self.decisions, self._evaluable, self._draws)

    def headline(self, evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Title and figure of what is named first: the challenge metric at the point tuned for it."""
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
        """The teacher, calibrated and tuned on validation like the student, on the same test recordings."""
        validation_logits = network_ecg_logits(teacher, self._windows)
        tuned = ecg_decisions(validation_logits, self._n_windows, self._validation, self._evaluable)
        part, windows, n_windows = self._prepared(answers.part)
        probabilities = window_probabilities(
            network_ecg_logits(teacher, windows), n_windows, tuned.calibration.calibration
        )
        positive = tuned.outputs(tuned.default, probabilities, self._evaluable)
        theirs = Answers(part, probabilities, positive, {})
        official = (
            self.decisions.outputs(CHALLENGE, answers.probabilities, self._evaluable),
            tuned.outputs(CHALLENGE, probabilities, self._evaluable),
        )
        return ecg_comparison(answers, theirs, official, self._evaluable, self._draws)

    def write_golden(self, path: Path, inputs: dict[str, Any]) -> None:
        """Write the golden inputs with what scoring makes of them."""
        write_cases(path, ecg_cases(self._scorer, inputs))
