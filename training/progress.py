"""What a person sees while a network trains: a live line on a terminal, one line an epoch in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_SECONDS = 60


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """One readable line for a finished epoch."""
    train = "  ".join(f"{k} {v:.4f}" for k, v in record["train"].items() if not k.startswith(("rms", "norm")))
    valid = "  ".join(f"{k} {v:.4f}" for k, v in record["validation"].items() if k != "selection")
    star = " *" if record["improved"] else ""
    return (
        f"epoch {record['epoch'] + 1:3d}/{epochs}  {record['seconds']:6.1f} s  lr {record['lr']:.2e}  "
        f"{train}  |  validation  {valid}{star}"
    )


class Reporter:
    """Context that shows the progress of a run; silent on other processes than the first."""

    def __init__(self, title: str, *, shown: bool) -> None:
        self.console = Console(stderr=True, quiet=not shown, soft_wrap=True, highlight=False)
        self.live = shown and sys.stderr.isatty()
        self.spoke = time.monotonic()
        self.progress = Progress(
            TextColumn(f"[bold]{title}"),
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=self.console,
            disable=not self.live,
        )

    def __enter__(self) -> Reporter:
        self.progress.start()
        self.task = self.progress.add_task("", total=1, epoch="-", terms="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(line, markup=False)

    def start_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        """Begin the bar of an epoch."""
        self.progress.reset(self.task, total=steps, epoch=f"{epoch + 1}/{epochs}", terms="")

    def step(self, terms: dict[str, float]) -> None:
        """Move the bar by one step; ``terms`` are the latest loss terms, empty to leave them as they are."""
        if terms:
            text = "  ".join(f"{k} {v:.3f}" for k, v in terms.items() if not k.startswith("rms"))
            self.progress.update(self.task, advance=1, terms=text)
            self._say_now_and_then(text)
        else:
            self.progress.update(self.task, advance=1)

    def _say_now_and_then(self, text: str) -> None:
        """In a log, where no bar moves, a line a minute tells that the run is alive."""
        if not self.live and time.monotonic() - self.spoke > QUIET_SECONDS:
            self.spoke = time.monotonic()
            bar = self.progress.tasks[self.task]
            self.say(f"  step {bar.completed:.0f}/{bar.total:.0f}  {text}")
