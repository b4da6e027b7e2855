"""Build a bundle directory from a trained student, atomically.

1. the graph, in a bundle whose calibration and thresholds are neutral;
2. that bundle scores the validation part: calibration, then thresholds;
3. check that the graph matches the network; the int8 variant, if it passes its gate;
4. the final bundle scores the test part and the external sets: the published figures;
5. golden inputs, curves, model card; everything is hashed, reloaded and recomputed.

The test part chooses nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.card import write_card
from export.check import require_parity
from export.ecg import SHORTEST, EcgBuild
from export.entries import Candidates, DataSet, named_datasets, seal, tensor_entries
from export.graph import OPSET, graph_of
from export.scored import DataPart, Evidence, number
from export.stay import StayBuild
from ibt_deploy import __version__
from ibt_deploy.bundle import CONTRACT, Bundle, load_bundle
from ibt_deploy.errors import DataError, ExportError
from ibt_deploy.familiarity import FAMILIARITY
from ibt_deploy.files import file_sha256
from ibt_deploy.golden import GOLDEN, recomputed
from ibt_deploy.metrics.bootstrap import DRAWS, LEVEL
from ibt_deploy.predictor import load
from ibt_deploy.types import NOUNS, Float32s
from training import tasks
from training.checkpoint import (
    METRICS,
    TrainedNetwork,
    load_network,
    read_checkpoint,
    read_curve,
    refuse_pretrained,
)
from training.data.cache import Cache, open_cache, replaced_folder
from training.data.split import PARTS, Part
from training.fit import LAST
from training.recipe import recipe_from_dict
from training.run import read_opinion
from training.tasks.base import Cohort

SOFTWARE = ("ibt", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network and the folder it comes from.

    Attributes
    ----------
    path
        Path of its ``best.pt``.
    trained
        The network at its best epoch.
    """

    path: Path
    trained: TrainedNetwork

    @classmethod
    def of(cls, checkpoint: Path) -> Run:
        """The run of a ``best.pt``; DataError where it is missing or damaged."""
        return cls(checkpoint, load_network(checkpoint))

    @property
    def sha256(self) -> str:
        """Hash of the checkpoint."""
        return file_sha256(self.path)

    @property
    def teacher_sha256(self) -> str | None:
        """Hash of the teacher that the run was distilled from; None if neither file nor folder says."""
        if known := self.trained.learnt_from.get("teacher_sha256"):
            return known
        last = self.path.parent / LAST
        if not last.is_file():
            return None
        found = read_checkpoint(last).get("identity", {}).get("teacher_sha256")
        return None if found is None else str(found)

    @property
    def curve(self) -> list[dict[str, Any]]:
        """Loss terms and validation scores of every epoch; empty if the run's folder has none."""
        if not (self.path.parent / METRICS).is_file():
            return []
        return [_epoch(record) for record in read_curve(self.path.parent).epochs]

    def to_dict(self) -> dict[str, Any]:
        """Entries about the run in a bundle."""
        trained, curve = self.trained, self.curve
        if trained.recipe.data.refit:  # data that a network has learnt from cannot validate it
            curve = [epoch | {"validation": {}} for epoch in curve]
        return {
            "method": trained.recipe.method,
            "seed": trained.recipe.seed,
            "recipe": trained.recipe.to_dict(),
            "recipe_sha256": trained.recipe.sha256,
            "checkpoint_sha256": self.sha256,
            "learnt_from": dict(trained.learnt_from),
            "parameters": sum(p.numel() for p in trained.network.parameters()),
            "epochs": len(curve) or None,
            "best_epoch": trained.epoch + 1,
            "validation_at_best_epoch": {}
            if trained.recipe.data.refit
            else {name: number(value) for name, value in trained.scores.items()},
            "seconds": round(sum(record["seconds"] for record in curve), 1) if curve else None,
            "curve": curve,
        }


def _epoch(record: Mapping[str, Any]) -> dict[str, Any]:
    terms = ("loss", "task", "matching", "distillation")
    return {
        "epoch": record["epoch"] + 1,
        "train": {k: number(v) for k, v in record["train"].items() if k in terms},
        "validation": {k: number(v) for k, v in record["validation"].items()},
        "seconds": record["seconds"],
    }


def require_student(run: Run, task: str, cache_sha256: str, split_sha256: str) -> None:
    """DataError unless the network was trained for this task on this data under this split.

    With another split, some test patients would be training patients.
    """
    trained = run.trained
    refuse_pretrained(run.path, trained)
    if trained.recipe.task != task:
        raise DataError(f"{run.path}: is for {trained.recipe.task}, the cache holds {task} data")
    if trained.cache_sha256 != cache_sha256:
        raise DataError(f"{run.path}: was trained on another cache ({trained.cache_sha256[:12]}...)")
    if trained.split_sha256 != split_sha256:
        raise DataError(
            f"{run.path}: was trained under another split ({trained.split_sha256[:12]}...); its test "
            "patients may be training patients of this one: name the right file with --split"
        )


def require_teacher(teacher: Run, student: Run) -> None:
    """DataError unless the teacher is the student's: same data, split, preprocessing and file."""
    theirs, ours = teacher.trained, student.trained
    require_student(teacher, ours.recipe.task, ours.cache_sha256, ours.split_sha256)
    if theirs.recipe.method != "teacher":
        raise DataError(f"{teacher.path}: holds a {theirs.recipe.method}, not a teacher")
    if theirs.recipe.data.refit:
        raise DataError(
            f"{teacher.path}: learnt from the validation part, on which the teacher is calibrated"
        )
    if theirs.n_inputs != ours.n_inputs or theirs.samples != ours.samples:
        raise DataError(f"{teacher.path}: reads other inputs than the student")
    if theirs.preprocessing != ours.preprocessing:
        raise DataError(f"{teacher.path}: the teacher was trained with other preprocessing than the student")
    known = student.teacher_sha256
    if known is not None and known != teacher.sha256:
        raise DataError(f"{teacher.path}: is not the teacher that {student.path} was distilled from")


def require_chosen(chosen: Bundle | None, student: Run, data: Data) -> None:
    """DataError unless a student that learnt from validation comes with the bundle for its decisions.

    That bundle's network has the student's recipe, data, split and teacher, but learnt from the training part
    alone.
    """
    recipe, learnt_from = student.trained.recipe, student.trained.learnt_from
    if not recipe.data.refit:
        if chosen is not None:
            raise DataError(f"{student.path}: learnt from the training part alone and decides for itself")
        return
    if chosen is None:
        raise DataError(
            f"{student.path}: learnt from the validation part too; give --chosen, the bundle of the same "
            "recipe without data.refit, for calibration and thresholds"
        )
    training = chosen.contract["training"]
    if (training["data"]["cache_sha256"], training["data"]["split_sha256"]) != (
        data.cache_sha256,
        data.split_sha256,
    ):
        raise DataError(f"{chosen.path}: was made from other data or another split than the student")
    theirs = recipe_from_dict(training["student"]["recipe"])
    as_chosen = replace(
        recipe,
        data=replace(recipe.data, refit=False),
        fit=replace(recipe.fit, select=theirs.fit.select, epochs=theirs.fit.epochs),
    )
    if theirs != as_chosen:
        raise DataError(
            f"{chosen.path}: its recipe differs in more than data.refit, fit.select and fit.epochs"
        )
    theirs_from = training["student"].get("learnt_from", {})
    if theirs_from.get("teacher_sha256") != learnt_from.get("teacher_sha256"):
        raise DataError(f"{chosen.path}: its network learnt from another teacher than the student")
    if theirs_from.get("initial_sha256") != learnt_from.get("initial_sha256"):
        raise DataError(f"{chosen.path}: its network started from other weights than the student")
    ours = BUILDS[data.task].preprocessing(student.trained)
    # how short a recording may be is measured for each bundle
    if chosen.contract["preprocessing"] | {SHORTEST: None} != ours | {SHORTEST: None}:
        raise DataError(f"{chosen.path}: prepares its inputs in another way than the student")


def require_unseen(external: External, run: Run) -> None:
    """DataError if a network, or what it started or learnt from, has learnt from an external test set.

    The set is recognised by the hash of its cache, so not after it was prepared in another way.
    """
    if external.cache_sha256 in run.trained.also_learnt_from:
        raise DataError(f"{external.name}: {run.path} has learnt from it, so it is not an external test")


def open_opinion(path: Path, folder: Path, data: Data) -> Float32s:
    """Read an ensemble's probabilities for the training part of ``data``, the cache ``folder``.

    Raises
    ------
    DataError
        The file is damaged, was made on other data, another split or a share of the data, or holds
        predictions for data that a member learnt from.
    """
    found = read_opinion(path)
    ids = open_cache(folder).ids
    asked = [ids[i] for i in found.items] if found.cache_sha256 == data.cache_sha256 else []
    if found.split_sha256 != data.split_sha256 or asked != data.parts["train"].ids:
        raise DataError(f"{path}: made on other data, another split or another share of it")
    if not found.out_of_fold:
        raise DataError(
            f"{path}: some of its members learnt from what they were asked about, or it does not say; make "
            "one with `ibt train ensemble --cross-fit` alone"
        )
    return found.train


def software() -> dict[str, str]:
    """Versions of the software that made the bundle."""
    found = {}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


MODEL, INT8 = "model.onnx", "model.int8.onnx"
BUILDS: Mapping[str, type[EcgBuild | StayBuild]] = {"arrhythmia": EcgBuild, "sepsis": StayBuild}
_BESIDE = Path(__file__).resolve().parents[1]
EXAMPLES = next(
    (folder for folder in (_BESIDE / "examples", _BESIDE / "serving" / "examples") if folder.is_dir()),
    _BESIDE / "examples",
)
"""A wheel has only the service's copies."""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, eq=False)
class Data:
    """A data set with its split.

    Attributes
    ----------
    task
        ``arrhythmia`` or ``sepsis``.
    cohort
        The whole data set.
    parts
        Training, validation and test part.
    cache_sha256, split_sha256
        Hashes of the files that it comes from.
    counts
        Counts and refusals of preparation.
    """

    task: str
    cohort: Cohort
    parts: Mapping[Part, DataPart]
    cache_sha256: str
    split_sha256: str
    counts: dict[str, Any]


def open_data(folder: Path, split: Path | None = None) -> Data:
    """The data set of a cache, divided by ``split`` or by default by its own split.

    Raises
    ------
    DataError
        When cache or split are missing, altered, or do not belong together.
    """
    cohort = tasks.open_cohort(folder, split)
    assert cohort.split_sha256 is not None
    part_of = BUILDS[cohort.cache.task].part
    return Data(
        task=cohort.cache.task,
        cohort=cohort,
        parts={part: part_of(cohort, cohort.items(part)) for part in PARTS},
        cache_sha256=cohort.cache.sha256,
        split_sha256=cohort.split_sha256,
        counts=_counts(cohort.cache),
    )


@dataclass(frozen=True, eq=False)
class External:
    """A whole data set that nothing was trained or tuned on.

    Attributes
    ----------
    name
        Its name in figures and card.
    part
        The whole set.
    cache_sha256, counts
        As for :class:`Data`.
    """

    name: str
    part: DataPart
    cache_sha256: str
    counts: dict[str, Any]


def open_external(name: str, folder: Path, data: Data) -> External:
    """Open an external test set; labels may be missing only if answers alone are informative, as alarms are.

    Raises
    ------
    DataError
        As :func:`training.tasks.open_external` says, or when labels are needed and missing.
    """
    cohort = tasks.open_external(name, folder, data.cohort)
    cache, build = cohort.cache, BUILDS[data.task]
    if not (cache.labelled or build.scores_unlabelled):
        raise DataError(f"{folder}: was prepared without labels; figures on {NOUNS[data.task]} need them")
    return External(name, build.part(cohort, np.arange(len(cohort))), cache.sha256, _counts(cache))


def _counts(cache: Cache) -> dict[str, Any]:
    refused = Counter(entry["code"] for entry in cache.manifest["refused"])
    return {"records": cache.manifest["records"], **cache.manifest["counts"], "refused": dict(refused)}


def identity_contract(
    trained: TrainedNetwork, model: onnx.ModelProto, name: str, version: str, created: str
) -> dict[str, Any]:
    """The parts of a contract that are known before anything is tuned, with neutral decisions.

    It is complete, so that scoring can load it to compute the logits on which everything else is tuned.
    """
    build = BUILDS[trained.recipe.task]
    about, n = build.about, build.n_outputs
    return {
        "schema": 1,
        "task": trained.recipe.task,
        "name": name,
        "version": version,
        "created": created,
        **about.statements(),
        "inputs": tensor_entries(model.graph.input, about.tensors),
        "outputs": tensor_entries(model.graph.output, about.tensors),
        "preprocessing": build.preprocessing(trained),
        "calibration": {"kind": "platt", "slope": [1.0] * n, "intercept": [0.0] * n},
        "operating_points": {"neutral": {"thresholds": [0.5] * n, "description": "not tuned"}},
        "default_operating_point": "neutral",
        "variants": {"fp32": MODEL},
        "default_variant": "fp32",
        **build.neutral_entries(trained),
    }


@dataclass(frozen=True)
class Settings:
    """Name, version and options of a bundle.

    Attributes
    ----------
    name
        Name of the bundle; by default method and task, e.g. ``bbm-sepsis``.
    version
        Semantic version of the bundle.
    created
        Creation time, UTC.
    command
        Command that reproduces the bundle, as the card shows it.
    draws
        Number of bootstrap draws of patients.
    opset
        Operator set of the graph.
    examples
        Folder with the example recording and stay.
    candidates
        Models among which the student was chosen, for the card.
    say
        Receives a line for each step.
    """

    name: str | None = None
    version: str = __version__
    created: str = field(default_factory=_now)
    command: str = ""
    draws: int = DRAWS
    opset: int = OPSET
    examples: Path = EXAMPLES
    candidates: Candidates | None = None
    say: Callable[[str], None] = lambda _: None


def build_bundle(
    student: Run,
    data: Data,
    out: Path,
    settings: Settings | None = None,
    *,
    teacher: Run | None = None,
    externals: Sequence[External] = (),
    evidence: Evidence = Evidence(),  # noqa: B008
) -> dict[str, Any]:
    """Build the bundle ``out``; return its contract.

    Parameters
    ----------
    student
        Network to ship.
    data
        The data set and split that it was trained on.
    out
        Directory; an existing bundle is replaced.
    settings
        Name, version and the rest.
    teacher
        The student's teacher, for comparison.
    externals
        Sets that nothing was trained or tuned on.
    evidence
        Evidence for the decisions besides the student's answers on the validation part.

    Raises
    ------
    DataError
        When student, teacher, data, examples or evidence do not belong together.
    ExportError
        When the graph cannot be made or does not match the network.
    """
    settings = settings or Settings()
    require_student(student, data.task, data.cache_sha256, data.split_sha256)
    if teacher is not None:
        require_teacher(teacher, student)
    require_chosen(evidence.chosen, student, data)
    for external in externals:
        for run in (student, teacher) if teacher is not None else (student,):
            require_unseen(external, run)
    if evidence.opinion is not None and not BUILDS[data.task].weighs_opinions:
        raise DataError(
            f"an opinion is not used for {NOUNS[data.task]}: their single threshold is tuned on validation"
        )
    with replaced_folder(out, CONTRACT, "bundle") as folder:
        return _Making(folder, student, data, settings).bundle(teacher, externals, evidence)


class _Making:
    """One build in a folder."""

    def __init__(self, folder: Path, student: Run, data: Data, settings: Settings) -> None:
        self.folder, self.student, self.data, self.settings = folder, student, data, settings
        self.say = settings.say

    def bundle(
        self, teacher: Run | None, externals: Sequence[External], evidence: Evidence
    ) -> dict[str, Any]:
        """Run all steps; return the contract."""
        kind = BUILDS[self.data.task]
        golden: dict[str, Any] = {**kind.golden_inputs(self.settings.examples)}
        model, contract = self._neutral()
        self.say(f"scoring the validation part ({len(self.data.parts['validation']):,})")
        build = kind(
            load_bundle(self.folder),
            self.student.trained.network,
            self.data.parts,
            self.settings.draws,
            evidence,
        )
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
        sets = kind.data_sets(self.data.parts)
        contract["training"] = self._training(teacher, sets, evidence)
        traces = [*sets, *(s for e in externals for s in named_datasets([e.name])), kind.about.golden_inputs]
        contract["licences"] = [f"{entry.name}: {entry.licence}. {entry.citation}" for entry in traces]
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
            about = {"cache_sha256": external.cache_sha256, "data": external.part.entry()}
            figures["external"][external.name] = about | evaluation
            where = f"{external.name} (external)"
            headline += _headline(where, len(outside.part), build.headline(evaluation))
        if teacher is not None:
            self.say("scoring the teacher for comparison")
            figures["comparison"] = build.comparison(answers, teacher.trained.network)
        return {"headline": headline, **figures}

    def _training(self, teacher: Run | None, sets: Sequence[DataSet], evidence: Evidence) -> dict[str, Any]:
        """Entry about runs, data sets and software."""
        data, candidates = self.data, self.settings.candidates
        return {
            "student": self.student.to_dict(),
            "teacher": None if teacher is None else teacher.to_dict(),
            "evidence": evidence.to_dict(),
            "candidates": None if candidates is None else candidates.to_dict(),
            "data": {
                "cache_sha256": data.cache_sha256,
                "split_sha256": data.split_sha256,
                "preparation": data.counts,
                "parts": {name: part.entry() for name, part in data.parts.items()},
                "sets": [entry.to_dict() for entry in sets],
                "cite_also": list(BUILDS[data.task].about.citations),
            },
            "software": software(),
            "command": self.settings.command,
        }

    def _proven(self) -> dict[str, Any]:
        """Return the contract of the finished bundle after it loads and reproduces its golden inputs."""
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
