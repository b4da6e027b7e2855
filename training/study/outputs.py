"""Logits of every finished run on everything it is judged on, computed once."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from ibt_deploy.errors import DataError
from training.checkpoint import load_network
from training.models.encoder import Encoder
from training.study.cohort import Float32s
from training.study.plan import Run
from training.study.store import kept
from training.study.study import Study, Subject

OUTPUTS = "outputs"
VERSION = 1


def run_outputs(study: Study, run: Run, device: torch.device) -> dict[str, Float32s]:
    """Logits by the name of the set: ``(recordings, 26)``, or of all hours of the stays end to end.

    Raises
    ------
    DataError
        When the run was trained under another split.
    """
    subjects = study.subjects(run)

    def make() -> dict[str, Float32s]:
        trained = load_network(study.checkpoint(run))
        if trained.split_sha256 != study.cohort.split_sha256:
            raise DataError(f"{run.name}: was trained under another split of the same data")
        network = trained.network.to(device)
        return {
            name: network_logits(network, subject, trained.preprocessing, device)
            for name, subject in subjects.items()
        }

    key = {
        "version": VERSION,
        "network": study.trained[run.name]["network_sha256"],
        "sets": {name: subject_sha256(subject) for name, subject in subjects.items()},
    }
    return kept(study.out / OUTPUTS / f"{run.name}.npz", key, make)


@torch.no_grad()
def network_logits(
    network: Encoder, subject: Subject, preprocessing: dict[str, Any], device: torch.device
) -> Float32s:
    """Logits in float32, whatever the network was trained in."""
    network.eval()
    cohort, items = subject
    batches = cohort.batches(items, preprocessing)
    return cohort.joined(items, [(chosen, network(x.to(device)).cpu().numpy()) for chosen, x in batches])


def subject_sha256(subject: Subject) -> str:
    """Hash of the data and of which items are taken."""
    digest = hashlib.sha256(subject.cohort.cache.sha256.encode())
    digest.update(subject.items.astype("<i8").tobytes())
    return digest.hexdigest()
