"""Which extra of the package brings an optional module."""

from __future__ import annotations

from ibt_deploy.errors import MissingExtra

EXTRA_OF: dict[str, str] = {
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "matplotlib": "plot",
    "pyarrow": "batch",
    "pydicom": "formats",
    "bentoml": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "markdown_it": "serve",
    "duckdb": "batch",
    "pint": "batch",
    "ray": "ray",
}


def missing_extra(error: ModuleNotFoundError, purpose: str) -> MissingExtra:
    """The error that says which extra to install.

    Parameters
    ----------
    error
        What the import raised.
    purpose
        What the module is needed for, e.g. ``"--plot"``.

    Raises
    ------
    ModuleNotFoundError
        ``error`` itself, where no extra brings the module: then something is broken, not missing.
    """
    module = (error.name or "").partition(".")[0]
    if module not in EXTRA_OF:
        raise error
    install = f"pip install 'ibt[{EXTRA_OF[module]}]'"
    return MissingExtra(f"{purpose} needs {module}, which is not installed: {install}")
