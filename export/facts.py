"""How a network was trained, as its run's folder tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from export.figures import number
from ibt_deploy.errors import DataError
from ibt_deploy.files import file_sha256
from training.checkpoint import TrainedNetwork, load_network, read_checkpoint
from training.checkpoint import METRICS, read_curve
from training.fit import LAST

SOFTWARE = ("ibt", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network and the folder it comes from.

    Attributes
    ----------
    path
        Of its ``best.pt``.
    trained
        The network as its best epoch left it.
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
        """Hash of the teacher that the run was distilled from; None where the run's folder does not tell."""
        last = self.path.parent / LAST
        if not last.is_file():
            return None
        found = read_checkpoint(last).get("identity", {}).get("teacher_sha256")
        return None if found is None else str(found)

    @property
    def curve(self) -> list[dict[str, Any]]:
        """Loss terms and validation scores of every epoch; empty where the run's folder has none."""
        if not (self.path.parent / METRICS).is_file():
            return []
        return [_epoch(record) for record in read_curve(self.path.parent).epochs]

    def to_dict(self) -> dict[str, Any]:
        """Everything about the run that a bundle keeps."""
        trained, curve = self.trained, self.curve
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
            "validation_at_best_epoch": {name: number(value) for name, value in trained.scores.items()},
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

    Under another split some test patients would be training patients.
    """
    trained = run.trained
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
    if theirs.n_inputs != ours.n_inputs or theirs.samples != ours.samples:
        raise DataError(f"{teacher.path}: reads other inputs than the student")
    if theirs.preprocessing != ours.preprocessing:
        raise DataError(f"{teacher.path}: the teacher was trained with other preprocessing than the student")
    known = student.teacher_sha256
    if known is not None and known != teacher.sha256:
        raise DataError(f"{teacher.path}: is not the teacher that {student.path} was distilled from")


def software() -> dict[str, str]:
    """Versions of what made the bundle."""
    found = {}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found
