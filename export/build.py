"""From a trained student to a bundle directory, which appears whole or not at all.

1. the graph, in a bundle whose calibration and thresholds are neutral;
2. that bundle scores the validation part: calibration, then thresholds;
3. proof that the graph is the network; the int8 variant, if it passes its gate;
4. the bundle as it will be scores the test part and the external sets: the published figures;
5. golden inputs, curves, model card; everything is hashed, loaded again and recomputed.

The test part chooses nothing but which classes can be evaluated at all, by the number of their positives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx

from export.card import write_card
from export.contract import data_entry, data_sets, identity_contract, licence_lines, part_entry, seal
from export.data import Data, External
from export.datasets import ecg_datasets
from export.ecg_build import EcgBuild
from export.facts import Run, require_student, require_teacher, software
from export.golden import ecg_inputs, stay_inputs
from export.graph import OPSET, graph_of
from export.parity import require_parity
from export.stay_build import StayBuild
from ibt_deploy import __version__
from ibt_deploy.bundle import CONTRACT, load_bundle
from ibt_deploy.errors import ExportError
from ibt_deploy.familiarity import FAMILIARITY
from ibt_deploy.golden import GOLDEN, recomputed
from ibt_deploy.metrics.bootstrap import DRAWS, LEVEL
from ibt_deploy.predictor import load
from training.data.cache import replaced_folder

MODEL, INT8 = "model.onnx", "model.int8.onnx"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def _silent(_line: str) -> None:
    """Say nothing."""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Settings:
    """How a bundle is to be called and made.

    Attributes
    ----------
    name
        Of the bundle; method and task where left out, e.g. ``bbm-sepsis``.
    version
        Semantic version of the bundle.
    created
        Time, UTC.
    command
        The command that makes the bundle again, as the card shows it.
    draws
        Of the bootstrap over patients.
    opset
        Of the graph.
    examples
        Folder with the example recording and stay.
    say
        Told what is being done, one line each.
    """

    name: str | None = None
    version: str = __version__
    created: str = field(default_factory=_now)
    command: str = ""
    draws: int = DRAWS
    opset: int = OPSET
    examples: Path = EXAMPLES
    say: Callable[[str], None] = _silent


def build_bundle(
    student: Run,
    data: Data,
    out: Path,
    settings: Settings | None = None,
    *,
    teacher: Run | None = None,
    externals: Sequence[External] = (),
) -> dict[str, Any]:
    """Make the bundle ``out``; returns its contract.

    Parameters
    ----------
    student
        What to ship.
    data
        The data set and split that it was trained on.
    out
        Directory; a bundle that is already there is replaced.
    settings
        Name, version and the rest.
    teacher
        The student's teacher, for comparison.
    externals
        Sets that nothing was trained or tuned on.

    Raises
    ------
    DataError
        When student, teacher, data or examples do not belong together.
    ExportError
        When the graph cannot be made or is not the network.
    """
    settings = settings or Settings()
    require_student(student, data.task, data.cache_sha256, data.split_sha256)
    if teacher is not None:
        require_teacher(teacher, student)
    with replaced_folder(out, CONTRACT, "bundle") as folder:
        return _Making(folder, student, data, settings).bundle(teacher, externals)


class _Making:
    """One build in a folder."""

    def __init__(self, folder: Path, student: Run, data: Data, settings: Settings) -> None:
        self.folder, self.student, self.data, self.settings = folder, student, data, settings
        self.say = settings.say

    def bundle(self, teacher: Run | None, externals: Sequence[External]) -> dict[str, Any]:
        """All steps."""
        golden_inputs = ecg_inputs if self.data.task == "arrhythmia" else stay_inputs
        golden: dict[str, Any] = {**golden_inputs(self.settings.examples)}
        model, contract = self._neutral()
        self.say(f"scoring the validation part ({len(self.data.parts['validation']):,})")
        build = self._task_build()
        contract |= build.entries() | build.decisions.to_dict()
        familiarity = build.write_familiarity(self.folder / FAMILIARITY, {e.name: e.part for e in externals})
        self.say("proving the graph")
        parity = require_parity(build.parity())
        metrics: dict[str, Any] = {
            "bootstrap": {"draws": self.settings.draws, "level": LEVEL, "drawn": "patients"},
            "parity": parity.to_dict(),
        }
        self.say("trying int8")
        if familiarity is not None:
            metrics["familiarity"] = familiarity
        found = build.int8(model)
        if found is not None:
            smaller, report = found
            metrics["int8"] = report.to_dict()
            if report.shipped:
                onnx.save(smaller, self.folder / INT8)
                contract["variants"]["int8"] = INT8
        seal(self.folder, contract)
        contract["metrics"] = metrics | self._figures(build, teacher, externals)
        contract["training"] = self._training(teacher)
        sets = data_sets(self.data) + [s for e in externals for s in ecg_datasets([e.name])]
        contract["licences"] = licence_lines(sets, self.data.task)
        self.say("writing golden inputs and card")
        build.write_golden(self.folder / GOLDEN, golden)
        seal(self.folder, contract)
        write_card(self.folder)
        return self._proven()

    def _neutral(self) -> tuple[onnx.ModelProto, dict[str, Any]]:
        trained, settings = self.student.trained, self.settings
        self.say(f"exporting the graph (opset {settings.opset})")
        preprocessing = trained.preprocessing
        metadata = {
            "task": self.data.task,
            "recipe_sha256": trained.recipe.sha256,
            "preprocessing": f"{preprocessing['name']} {preprocessing['version']}",
            "checkpoint_sha256": self.student.sha256,
        }
        model = graph_of(trained.network, trained.n_inputs, trained.samples, metadata, settings.opset)
        onnx.save(model, self.folder / MODEL)
        name = settings.name or f"{trained.recipe.method}-{self.data.task}"
        contract = identity_contract(trained, model, name, settings.version, settings.created)
        seal(self.folder, contract)
        return model, contract

    def _task_build(self) -> EcgBuild | StayBuild:
        kind = EcgBuild if self.data.task == "arrhythmia" else StayBuild
        return kind(load_bundle(self.folder), self.student.trained.network, self.data, self.settings.draws)

    def _figures(self, build: Any, teacher: Run | None, externals: Sequence[External]) -> dict[str, Any]:
        predictor = load(self.folder, device="cpu", variant="fp32")
        test = self.data.parts["test"]
        self.say(f"scoring the test part ({len(test):,})")
        answers = build.answers(predictor, test)
        self.say(f"computing figures ({self.settings.draws:,} draws)")
        figures: dict[str, Any] = {"test": build.evaluation(answers), "external": {}}
        headline = _headline("test", len(answers.part), build.headline(figures["test"]))
        for external in externals:
            self.say(f"scoring the external set {external.name} ({len(external.part):,})")
            outside = build.answers(predictor, external.part)
            evaluation = build.evaluation(outside)
            about = {"cache_sha256": external.cache_sha256, "data": part_entry(external.part)}
            figures["external"][external.name] = about | evaluation
            where = f"{external.name} (external)"
            headline += _headline(where, len(outside.part), build.headline(evaluation))
        if teacher is not None:
            self.say("scoring the teacher for comparison")
            figures["comparison"] = build.comparison(answers, teacher.trained.network)
        return {"headline": headline, **figures}

    def _training(self, teacher: Run | None) -> dict[str, Any]:
        return {
            "student": self.student.to_dict(),
            "teacher": None if teacher is None else teacher.to_dict(),
            "data": data_entry(self.data),
            "software": software(),
            "command": self.settings.command,
        }

    def _proven(self) -> dict[str, Any]:
        """The contract of the finished bundle, once it loads and its golden inputs come out alike."""
        bundle = load_bundle(self.folder)
        failed = [check for check in recomputed(bundle) if not check.passed]
        if failed:
            worst = max(failed, key=lambda check: check.difference)
            raise ExportError(
                f"golden input '{worst.case}': {worst.what} differ by {worst.difference:.2e} when recomputed"
            )
        return bundle.contract


def _headline(where: str, n: int, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": title, "set": where, "n": n, **figure}
        for title, figure in found.items()
        if figure["value"] is not None and figure["interval"] is not None
    ]
