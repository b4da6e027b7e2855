"""Write deploy/requirements.txt: what the service needs, in the versions that the tests ran with.

``onnxruntime-gpu`` becomes ``onnxruntime``, which is much smaller; an image for CUDA installs the other.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("serve", "formats")


def requirements() -> list[str]:
    """One pinned requirement per line, in order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *(p for e in EXTRAS for p in project["optional-dependencies"][e])]
    names = {re.split(r"[<>=!~;\[ ]", line)[0].lower().replace("_", "-") for line in stated} - {
        "onnxruntime-gpu"
    }
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    found = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    found.setdefault("onnxruntime", found.get("onnxruntime-gpu", ""))
    return [f"{name}=={found[name]}" for name in sorted(names)]


if __name__ == "__main__":
    (ROOT / "deploy" / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
