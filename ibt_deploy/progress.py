"""Progress of long lists, on standard error and only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
WORTH_SHOWING = 20


def shown(things: Sequence[T], what: str) -> Iterator[T]:
    """The same things, with a progress bar where there are many of them and standard error is a terminal.

    Nothing is shown while standard output is a terminal too: the answers would tear the bar apart.
    """
    if len(things) < WORTH_SHOWING or not sys.stderr.isatty() or sys.stdout.isatty():
        yield from things
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(things, description=what, console=Console(stderr=True), transient=True)
