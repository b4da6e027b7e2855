"""The interfaces as users see them: the installed command, the packaged bundles, real files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import Run
from helpers.served import running


@pytest.fixture(scope="session")
def ibt(root: Path) -> Run:
    """Run ``ibt`` in a process of its own, in the root of the repository."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("ibt")), *map(str, arguments)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="module")
def service(root: Path) -> Iterator[str]:
    with running(root) as (_, address):
        yield address
