"""The folder of a run: checkpoints, written atomically, and the record of its epochs.

A trained network can also be shared as ``.safetensors``: its weights, and the rest of ``best.pt`` as JSON in
the header of the file. Nothing in such a file can execute code, and other frameworks can read it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from ibt_deploy.errors import DataError, require
from ibt_deploy.files import atomic_open, atomic_write
from training.models import Encoder
from training.recipe import Recipe, recipe_from_dict
from training.tasks import build_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = 1
SAFETENSORS = ".safetensors"
METADATA = "ibt"
"""Entry of a safetensors header that holds everything in ``best.pt`` but the weights, as JSON."""


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """Write ``content`` so that ``path`` holds either the old or the new checkpoint, never half of one."""
    with atomic_open(path) as file:
        torch.save(content, file)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Content of a checkpoint; DataError if it is missing or invalid."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such checkpoint") from error
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path}: not a checkpoint of this version")
    return content


@dataclass(frozen=True)
class TrainedNetwork:
    """A network at its best epoch, with what is needed to run it."""

    network: Encoder
    recipe: Recipe
    preprocessing: dict[str, Any]
    epoch: int
    scores: dict[str, float]
    cache_sha256: str
    split_sha256: str
    n_inputs: int
    samples: int
    learnt_from: Mapping[str, str | None] = field(default_factory=dict)
    """Hashes, where there were any, of the teacher, of the ensemble's opinion, of the initial weights and,
    separated by spaces, of further caches that it, its teacher or its initial weights learnt from."""

    @property
    def also_learnt_from(self) -> list[str]:
        """Hashes of the further caches."""
        return (self.learnt_from.get("also_sha256") or "").split()


def refuse_pretrained(path: Path, trained: TrainedNetwork) -> None:
    """DataError for a network that was pretrained without labels: its head is untrained."""
    if trained.recipe.method == "masked":
        raise DataError(
            f"{path}: was trained without labels; start a run from it (`ibt train run --initial`)"
        )


def require_validated(
    path: Path, trained: TrainedNetwork, cache_sha256: str, split_sha256: str | None, use: str
) -> None:
    """DataError unless a network was trained on this cache and split, and validated on the validation part.

    ``use`` completes the sentence "the validation part, on which ...".
    """
    refuse_pretrained(path, trained)
    if trained.cache_sha256 != cache_sha256:
        raise DataError(f"{path}: was trained on another cache")
    if trained.split_sha256 != split_sha256:
        raise DataError(f"{path}: was trained under another split; give that split with --split")
    if trained.recipe.data.refit:
        raise DataError(f"{path}: learnt from the validation part, on which {use}")


def network_checkpoint(
    network: Encoder, recipe: Recipe, *, epoch: int, scores: dict[str, float], source: dict[str, Any]
) -> dict[str, Any]:
    """Content of ``best.pt``: the network alone, without maps, teacher or optimiser."""
    return {
        "schema": SCHEMA,
        "recipe": recipe.to_dict(),
        "epoch": epoch,
        "scores": scores,
        "network": network.state_dict(),
        **source,
    }


def write_safetensors(content: Mapping[str, Any], out: Path) -> None:
    """Write the content of a checkpoint as safetensors; :func:`load_network` reads it like a ``best.pt``.

    Parameters
    ----------
    content
        As :func:`read_checkpoint` returns it.
    out
        The file to write, ``.safetensors``; replaced whole or not at all.
    """
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in content["network"].items()}
    rest = json.dumps({key: value for key, value in content.items() if key != "network"})
    atomic_write(out, save(weights, metadata={"format": "pt", METADATA: rest}))


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get(METADATA, "null"))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such checkpoint") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{path}: not a readable checkpoint ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(f"{path}: not a checkpoint of this version")
    return {**content, "network": weights}


def load_network(path: Path) -> TrainedNetwork:
    """The network in a ``best.pt`` or ``.safetensors``, in evaluation mode on the CPU.

    Raises
    ------
    DataError
        When the file is missing, damaged or not one of this project.
    """
    content = _read_safetensors(path) if path.suffix == SAFETENSORS else read_checkpoint(path)
    recipe = recipe_from_dict(content["recipe"])
    network = build_network(recipe, content["n_inputs"], content["samples"])
    network.load_state_dict(content["network"])
    network.eval()
    return TrainedNetwork(
        network,
        recipe,
        content["preprocessing"],
        content["epoch"],
        content["scores"],
        content["cache_sha256"],
        content["split_sha256"],
        content["n_inputs"],
        content["samples"],
        content.get("learnt_from", {}),
    )


METRICS = "metrics.jsonl"
OFFICIAL = ("challenge", "utility")
"""Names under which validation logs the metric of the task's Challenge."""
HIDDEN = ("rms_", "norm_", "L1_", "L2_", "L3_")
"""Terms that the table leaves out; they are in the file."""


@dataclass(frozen=True)
class Curve:
    """One run: its name and a record for every epoch."""

    name: str
    epochs: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        """The epoch that ``best.pt`` holds."""
        return [e for e in self.epochs if e["improved"]][-1]

    @property
    def official(self) -> str | None:
        """Name under which the task's own metric was logged; None where none was."""
        return next((name for name in OFFICIAL if name in self.best["validation"]), None)

    def series(self, part: str, name: str) -> tuple[list[int], list[float]]:
        """Epochs, from 1, and the finite values of a quantity of ``train`` or ``validation``."""
        found = [(e["epoch"] + 1, e[part][name]) for e in self.epochs if name in e[part]]
        finite = [(epoch, value) for epoch, value in found if math.isfinite(value)]
        return [epoch for epoch, _ in finite], [value for _, value in finite]


def read_curve(folder: Path) -> Curve:
    """The run in ``folder``; DataError where there is none."""
    path = folder / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {METRICS} here; it is written after the first epoch") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        epochs = [json.loads(line) for line in lines]
        curve = Curve(folder.resolve().name, epochs)
        if not epochs or not isinstance(curve.best["validation"], dict):
            raise DataError(f"{path}: holds no epoch")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: is not the record of a training run ({error})") from error
    return curve


def table_lines(curve: Curve) -> list[str]:
    """One line per epoch; a star marks the best one, which ``best.pt`` holds."""
    terms = [name for name in curve.epochs[0]["train"] if not name.startswith(HIDDEN)]
    scores = [name for name in curve.epochs[0]["validation"] if name != "selection"]
    head = ["epoch", "lr", *terms, *scores, "seconds"]
    rows = [
        [
            str(e["epoch"] + 1),
            f"{e['lr']:.2e}",
            *(_number(e["train"].get(name)) for name in terms),
            *(_number(e["validation"].get(name)) for name in scores),
            f"{e['seconds']:.1f}",
        ]
        for e in curve.epochs
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    best = curve.best["epoch"]
    lines = [curve.name, "  ".join(f"{text:>{w}s}" for text, w in zip(head, widths, strict=True))]
    for e, row in zip(curve.epochs, rows, strict=True):
        star = " *" if e["epoch"] == best else ""
        lines.append("  ".join(f"{text:>{w}s}" for text, w in zip(row, widths, strict=True)) + star)
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Plot the training loss of every run, and the validation metric of those that have one.

    Raises
    ------
    MissingExtra
        Matplotlib is not installed.
    DataError
        The picture cannot be written.
    """
    require("--plot", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    names = sorted({c.official for c in curves if c.official is not None})
    loss, metric = figure.subplots(1, 2)
    metric.set_visible(bool(names))
    for curve in curves:
        (line,) = loss.plot(*curve.series("train", "loss"), label=curve.name)
        if curve.official is not None:
            metric.plot(*curve.series("validation", curve.official), color=line.get_color())
            metric.plot(curve.best["epoch"] + 1, curve.best["validation"][curve.official], "k*")
    loss.set(xlabel="epoch", ylabel="training loss")
    metric.set(xlabel="epoch", ylabel=f"validation: {', '.join(names)}")
    for axes in (loss, metric):
        axes.grid(visible=True, alpha=0.3)
    loss.legend()
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a Matplotlib figure; DataError if the folder or the kind of file does not allow it."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
