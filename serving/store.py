"""Put the bundles into BentoML's model store, so that a bento lists its models: ``python -m serving.store``.

``IBT_SERVE_ARRHYTHMIA=store:ibt-arrhythmia:TAG`` serves a bundle from there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ibt_deploy.bundle import load_bundle
from ibt_deploy.types import TASKS

PREFIX = "store:"
TAG_DIGITS = 16
FOLDER = "bundle"


def store(name_or_directory: str | Path) -> str:
    """Copy a bundle into the model store, unless it is there; returns its tag ``ibt-TASK:SHA256``."""
    import bentoml
    from bentoml.exceptions import NotFound

    bundle = load_bundle(name_or_directory)
    tag = f"ibt-{bundle.task}:{bundle.sha256[:TAG_DIGITS]}"
    try:
        bentoml.models.get(tag)
    except NotFound:
        labels = {"task": bundle.task, "version": bundle.version, "medical-device": "no"}
        metadata = {"name": bundle.name, "sha256": bundle.sha256, "created": bundle.created}
        with bentoml.models.create(tag, labels=labels, metadata=metadata) as model:
            # not beside model.yaml: a bundle holds only what it lists
            shutil.copytree(bundle.path, Path(model.path) / FOLDER)
    return tag


def stored(tag: str) -> Path:
    """The directory of a stored bundle; raises ``bentoml.exceptions.NotFound``."""
    import bentoml

    return Path(bentoml.models.get(tag).path) / FOLDER


if __name__ == "__main__":
    for task in TASKS:
        print(store(task))
