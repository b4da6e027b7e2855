"""The loader that MLflow calls for a folder made by ``ibt export --hub``.

``mlflow.pyfunc.load_model(folder).predict(table)`` takes a table with a column ``path``, one file to score
per row, and returns a table with one row per answer. Nothing here imports MLflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ibt_deploy.predictions import Refusal
from ibt_deploy.predictor import Predictor, load

if TYPE_CHECKING:
    import pandas as pd

PATH = "path"


class PathsModel:
    """A predictor behind MLflow's ``python_function`` interface."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score the files that ``model_input["path"]`` names.

        Parameters
        ----------
        model_input
            A table with a column ``path``.
        params
            Unused; MLflow passes it.

        Returns
        -------
        One row per recording: ``record``, ``refused`` (reason code, or None), ``findings`` (names of
        the positive classes) and the probability of every class. One row per hour of a stay: ``record``,
        ``refused``, ``hour``, ``risk`` and ``alarm``. A refused file has one row.

        Raises
        ------
        ValueError
            When there is no column ``path``.
        """
        import pandas as pd

        del params
        if PATH not in model_input:
            raise ValueError("the table needs a column 'path' that names the files to score")
        rows: list[dict[str, Any]] = []
        for answer in self.predictor.predict_many([str(path) for path in model_input[PATH]]):
            if isinstance(answer, Refusal):
                rows.append({"record": answer.source, "refused": answer.code})
            else:
                rows += [{"record": answer.record, "refused": None} | row for row in answer.rows()]
        return pd.DataFrame(rows)


def _load_pyfunc(data_path: str) -> PathsModel:
    """Called by MLflow with the folder of the bundle."""
    return PathsModel(load(data_path))
