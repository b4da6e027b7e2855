"""Starting points of the tests of ``export``: untrained students, and a cache resealed after a change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from export.build import Settings
from helpers.tiny import tiny_recipe
from ibt_deploy.files import file_sha256
from training.checkpoint import network_checkpoint, save_atomically
from training.models import Encoder
from training.tasks import build_network, open_source

STUDENT = {"depth": 2}
SETTINGS = Settings(version="9.9.9", created="2030-01-01T00:00:00Z", draws=20, command="ibt export ...")


def untrained(
    task: str, method: str, cache: Path, folder: Path, seed: int = 0, **sections: Mapping[str, Any]
) -> Path:
    """A ``best.pt`` as training leaves it, of a network that was never trained, with a record of epochs."""
    recipe = tiny_recipe(task, method, student=STUDENT if task == "arrhythmia" else {}, **sections)
    source = open_source(recipe, cache)
    torch.manual_seed(seed)
    network = build_network(recipe, source.n_inputs, source.samples)
    about = {
        "preprocessing": source.preprocessing(),
        "cache_sha256": source.cache.sha256,
        "split_sha256": source.split_sha256,
        "n_inputs": source.n_inputs,
        "samples": source.samples,
    }
    folder.mkdir(parents=True)
    content = network_checkpoint(network, recipe, epoch=1, scores={"selection": 0.25}, source=about)
    save_atomically(content, folder / "best.pt")
    epochs = [
        {
            "epoch": e,
            "lr": 1e-3,
            "train": {"loss": 1.0 / (e + 1), "rms_f1": 1.0},
            "validation": {"selection": 0.2 + 0.05 * (e % 2), "auroc": 0.6},
            "improved": e < 2,
            "seconds": 30.0,
        }
        for e in range(3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in epochs))
    return folder / "best.pt"


def shaken(network: Encoder) -> Encoder:
    """The network with every parameter and statistic moved, so that none is a special value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.02 * torch.randn(tensor.shape, generator=generator).abs()
    return network.eval()


def reseal(folder: Path) -> None:
    """Bring the hashes of a cache up to date, as preparation would have written them."""
    path = folder / "cache.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        entry["sha256"] = file_sha256(folder / name)
    path.write_text(json.dumps(manifest))
