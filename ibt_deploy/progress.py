"""Progress of long lists, on standard error and only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
WORTH_SHOWING = 20


def shown(things: Sequence[T], what: str, *, beside_output: bool = True) -> Iterator[T]:
    """The same things, with a progress bar where there are many of them and standard error is a terminal.

    Nothing is shown while answers go to standard output (``beside_output``) and it is a terminal too: they
    would tear the bar apart.
    """
    torn = beside_output and sys.stdout.isatty()
    if len(things) < WORTH_SHOWING or not sys.stderr.isatty() or torn:
        yield from things
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(things, description=what, console=Console(stderr=True), transient=True)
