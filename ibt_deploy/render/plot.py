"""Pictures of answers as PNG files; the only place that needs matplotlib (the extra ``plot``)."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ibt_deploy.extras import missing_extra
from ibt_deploy.predictions import ArrhythmiaPrediction, Prediction, SepsisPrediction
from ibt_deploy.records import Recording, Stay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
SUFFIXES = (".png", ".pdf", ".svg")


def require_matplotlib() -> None:
    """Raise MissingExtra, which says what to install, where matplotlib is not there."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # else it tells of a home it cannot write to
    try:
        import matplotlib as matplotlib
    except ModuleNotFoundError as error:
        raise missing_extra(error, "a plot") from error


def figure_of(item: Recording | Stay, prediction: Prediction) -> Figure:
    """The picture of one answer.

    Parameters
    ----------
    item
        What was scored.
    prediction
        Its answer.

    Raises
    ------
    MissingExtra
        When matplotlib is not installed.
    TypeError
        When item and answer belong to different tasks.
    """
    require_matplotlib()
    if isinstance(item, Recording) and isinstance(prediction, ArrhythmiaPrediction):
        from ibt_deploy.render.paper import ecg_figure

        return ecg_figure(item, prediction)
    if isinstance(item, Stay) and isinstance(prediction, SepsisPrediction):
        from ibt_deploy.render.course import stay_figure

        return stay_figure(prediction)
    raise TypeError(f"a {type(item).__name__} has no {type(prediction).__name__}")


class NumberedPictures:
    """Writes pictures to ``OUT.png``, or to ``OUT-1.png``, ``OUT-2.png``... once there is more than one.

    Parameters
    ----------
    path
        The name that was asked for; its suffix decides the format (PNG, PDF, SVG).

    Attributes
    ----------
    written
        The pictures, under the names that they have now: the first one is renamed when a second one comes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.written: list[Path] = []

    def there(self) -> Path | None:
        """A file that pictures would replace, if there is one."""
        prefix = f"{self._path.stem}-"
        if self._path.exists():
            return self._path
        for path in sorted(self._path.parent.iterdir()):
            number = path.stem.removeprefix(prefix)
            if path.suffix == self._path.suffix and path.stem.startswith(prefix) and number.isdecimal():
                return path
        return None

    def draw(self, item: Recording | Stay, prediction: Prediction) -> Path:
        """Draw one answer; returns the file it went to."""
        if len(self.written) == 1:
            self.written = [self._path.replace(self._numbered(1))]
        path = self._numbered(len(self.written) + 1) if self.written else self._path
        figure = figure_of(item, prediction)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # names may be in any script
            figure.savefig(path, dpi=DPI)
        self.written.append(path)
        return path

    def _numbered(self, number: int) -> Path:
        return self._path.with_stem(f"{self._path.stem}-{number}")
