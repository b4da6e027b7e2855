"""Checkpoints: written whole or not at all, and everything an exact resume needs.

A trained network can also travel as ``.safetensors``: its weights, and the rest of ``best.pt`` as JSON in the
header of the file. Nothing in such a file can execute code, and other frameworks read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ibt_deploy.errors import DataError
from ibt_deploy.files import atomic_open, atomic_write
from training.models.encoder import Encoder
from training.networks import build_network
from training.recipe import Recipe, recipe_from_dict

SCHEMA = 1
SAFETENSORS = ".safetensors"
METADATA = "ibt"
"""Entry of a safetensors header that holds all of ``best.pt`` but the weights, as JSON."""


def save_atomically(content: dict[str, Any], path: Path) -> None:
    """Write ``content`` so that ``path`` holds either the old or the new checkpoint, never half of one."""
    with atomic_open(path) as file:
        torch.save(content, file)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Content of a checkpoint; DataError if it is missing or not ours."""
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
    """A network as its best epoch left it, with what is needed to feed it."""

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
    """Hashes of the teacher and of the ensemble's opinion, where there were any."""


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


def write_safetensors(checkpoint: Path, out: Path) -> None:
    """Write the network of a ``best.pt`` as safetensors; :func:`load_network` reads either.

    Parameters
    ----------
    checkpoint
        The ``best.pt`` of a run.
    out
        The file to write, ``.safetensors``; replaced whole or not at all.

    Raises
    ------
    DataError
        When the checkpoint is missing or damaged.
    """
    from safetensors.torch import save

    content = read_checkpoint(checkpoint)
    weights = {name: tensor.contiguous() for name, tensor in content.pop("network").items()}
    atomic_write(out, save(weights, metadata={"format": "pt", METADATA: json.dumps(content)}))


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
