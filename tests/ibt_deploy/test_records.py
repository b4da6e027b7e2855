"""Records made by hand must have the right shape: else one lead would be scored under another's name."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.bundles import recording, stay


@pytest.mark.parametrize("shape", [(5000, 12), (15, 5000), (11, 5000), (5000,)])
def test_a_recording_has_a_name_for_every_row(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="of 12 leads"):
        recording(signal=np.zeros(shape))


@pytest.mark.parametrize("shape", [(10, 41), (10, 34), (40,)])
def test_a_stay_has_forty_columns(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not \\(hours, 40\\)"):
        stay(values=np.zeros(shape))
