"""A bundle as a repository of a model hub: Hugging Face's layout, which MLflow loads as well.

::

    DIR/
    ├── README.md            model card; its YAML head holds licence, tags and the measured figures
    ├── bundle/              the bundle, unchanged
    ├── model.safetensors    weights to start training from, where the graph holds them one by one
    ├── MLmodel              the same folder as a model of MLflow's ``python_function`` flavor
    ├── requirements.txt
    └── .gitattributes       large files go to Git LFS

The keys of the YAML head are those of huggingface.co/docs/hub/model-cards. Nothing is uploaded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from export.build import BUILDS
from export.entries import About
from export.weights import bundle_checkpoint
from ibt_deploy import __version__
from ibt_deploy.bundle import Bundle
from ibt_deploy.errors import BundleError, IbtError
from ibt_deploy.predictions import NOTICE
from training.checkpoint import SAFETENSORS, write_safetensors

FOLDER, README, MODEL = "bundle", "README.md", f"model{SAFETENSORS}"
LOADER = "ibt_deploy.mlflow_model"

_COMMON_TAGS = ["medical", "time-series", "knowledge-distillation", "transformer", "onnx"]


def write_hub(bundle: Bundle, out: Path) -> str | None:
    """Write the repository of ``bundle`` to ``out``.

    Parameters
    ----------
    bundle
        The verified bundle.
    out
        A folder that is empty or does not exist yet.

    Returns
    -------
    Why there is no ``model.safetensors``; None if there is one.

    Raises
    ------
    BundleError
        When ``out`` is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out}: is not an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    missing = None
    try:
        write_safetensors(bundle_checkpoint(bundle), out / MODEL)
    except IbtError as error:
        missing = str(error)
    shutil.copytree(bundle.path, out / FOLDER)
    texts = {
        README: readme(bundle, weights=missing is None),
        "MLmodel": _mlmodel(bundle),
        "requirements.txt": f"ibt=={__version__}\n",
        ".gitattributes": "".join(
            f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in ("onnx", "safetensors", "npz")
        ),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return missing


def readme(bundle: Bundle, *, weights: bool) -> str:
    """The hub's model card: YAML head, usage (with ``weights``, how to start training), the bundle's card."""
    about = BUILDS[bundle.task].about
    head = {
        "license": "apache-2.0",
        "library_name": "ibt",
        "tags": [*about.tags, *_COMMON_TAGS],
        "model-index": [{"name": bundle.name, "results": _results(bundle)}],
    }
    usage = [
        "## Use",
        "",
        "```sh",
        "pip install ibt huggingface_hub",
        "hf download OWNER/NAME --local-dir model",
        f"ibt verify model/{FOLDER}",
        "```",
        "",
        "```python",
        "from ibt_deploy import load",
        "",
        f'predictor = load("model/{FOLDER}")',
        about.example,
        "```",
        "",
        'MLflow loads the same folder: `mlflow.pyfunc.load_model("model")`. Its input is a table with',
        "a column `path` of files to score.",
        *([f"`ibt train run --initial model/{MODEL}` starts training from the weights."] if weights else []),
        "",
    ]
    card = bundle.card.splitlines()
    # the card begins with its title, an empty line and the notice
    return "\n".join(["---", *_yaml(head), "---", "", *card[:4], *usage, *card[4:]]) + "\n"


def _results(bundle: Bundle) -> list[dict[str, Any]]:
    """Headline figures in ``model-index`` format: one entry per data set."""
    sets: dict[str, list[dict[str, Any]]] = {}
    for entry in bundle.contract["metrics"]["headline"]:
        low, high = entry["interval"]
        metric = {
            "type": entry["name"].split(" (")[0].lower().replace(" ", "_"),
            "name": f"{entry['name']}, 95 % interval {low:.3f} to {high:.3f}, n = {entry['n']}",
            "value": round(entry["value"], 4),
        }
        sets.setdefault(entry["set"], []).append(metric)
    about = BUILDS[bundle.task].about
    task = {"type": "other", "name": about.title}
    return [
        {"task": task, "dataset": _dataset(about, name), "metrics": metrics} for name, metrics in sets.items()
    ]


def _dataset(about: About, name: str) -> dict[str, Any]:
    if name == "test":
        return {"type": about.challenge, "name": about.data_set, "split": "test"}
    plain = name.removesuffix(" (external)")
    return {"type": plain, "name": plain, "split": "external"}


def _yaml(value: dict[str, Any]) -> list[str]:
    """Lines of block YAML; every scalar is JSON, which is YAML as well."""
    lines: list[str] = []

    def write(item: Any, indent: str, lead: str) -> None:
        if isinstance(item, dict):
            for number, (key, entry) in enumerate(item.items()):
                start = lead if number == 0 else indent
                if isinstance(entry, dict | list):
                    lines.append(f"{start}{key}:")
                    write(entry, indent + "  ", indent + "  ")
                else:
                    lines.append(f"{start}{key}: {json.dumps(entry, ensure_ascii=False)}")
        else:
            for entry in item:
                if isinstance(entry, dict | list):
                    write(entry, indent + "  ", f"{indent}- ")
                else:
                    lines.append(f"{indent}- {json.dumps(entry, ensure_ascii=False)}")

    write(value, "", "")
    return lines


def _mlmodel(bundle: Bundle) -> str:
    """MLflow's description of the folder: a module of this package loads ``bundle/``."""
    written = {
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "data": FOLDER,
                "env": {"virtualenv": "requirements.txt"},
                "python_version": "3.11",
            }
        },
        "metadata": {
            "task": bundle.task,
            "name": bundle.name,
            "version": bundle.version,
            "bundle_sha256": bundle.sha256,
            "notice": NOTICE,
        },
        "signature": {
            "inputs": json.dumps([{"name": "path", "type": "string", "required": True}]),
            "outputs": None,
            "params": None,
        },
    }
    return "\n".join(_yaml(written)) + "\n"
