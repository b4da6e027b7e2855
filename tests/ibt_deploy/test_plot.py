from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.bundles import recording, stay
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ibt_deploy.explain import Explanation
from ibt_deploy.predictions import NOTICE, SepsisPrediction
from ibt_deploy.predictor import Predictor, load
from ibt_deploy.preprocess.ecg import standardise
from ibt_deploy.records import Recording
from ibt_deploy.render.plot import DARKEST, DPI, LOWERED, RAISED, NumberedPictures, ecg_figure, figure_of
from ibt_deploy.vocabulary import INDEX, LEADS

MM = 25.4


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in [*figure.texts, *(t for a in figure.axes for t in a.texts)]]


@pytest.fixture
def ecg_picture(ecg: Predictor) -> Figure:
    given = recording(12.0)
    return figure_of(given, ecg.predict(given))


def test_paper_is_true_to_scale(ecg_picture: Figure) -> None:
    paper = ecg_picture.axes[0]
    width, height = ecg_picture.get_size_inches()
    box = paper.get_position()
    left, right = paper.get_xlim()
    bottom, top = paper.get_ylim()
    # one unit of the axes is one millimetre of the picture
    assert box.width * width * MM == pytest.approx(right - left)
    assert box.height * height * MM == pytest.approx(top - bottom)
    buffer = io.BytesIO()
    ecg_picture.savefig(buffer, dpi=DPI)
    pixels = struct.unpack(">II", buffer.getvalue()[16:24])
    assert pixels == pytest.approx((width * DPI, height * DPI), abs=1)
    assert b"pHYs" in buffer.getvalue()


def test_curves_run_at_25_mm_a_second_and_10_mm_a_millivolt(ecg_picture: Figure) -> None:
    signal = standardise(recording(12.0)).signal
    rhythm = max(ecg_picture.axes[0].lines, key=lambda line: len(line.get_xdata()))  # type: ignore[arg-type]
    x, y = np.asarray(rhythm.get_xdata()), np.asarray(rhythm.get_ydata())
    assert x[-1] - x[0] == pytest.approx(10.0 * 25)
    lead = signal[LEADS.index("II"), : len(x)]
    np.testing.assert_allclose(y - y.mean(), 10 * (lead - lead.mean()), atol=1e-9)


def test_the_calibration_pulse_is_one_millivolt_and_a_fifth_of_a_second(ecg_picture: Figure) -> None:
    pulses = [line for line in ecg_picture.axes[0].lines if len(line.get_xdata()) == 6]  # type: ignore[arg-type]
    assert len(pulses) == 4
    for pulse in pulses:
        x, y = np.asarray(pulse.get_xdata()), np.asarray(pulse.get_ydata())
        assert y.max() - y.min() == 10
        assert x[4] - x[1] == 5


def test_every_lead_and_every_positive_finding_is_named(ecg: Predictor) -> None:
    given = recording(12.0)
    prediction = ecg.predict(given)
    shown = texts(ecg_figure(given, prediction))  # type: ignore[arg-type]
    assert set(LEADS) <= set(shown)
    everything = " ".join(shown)
    for finding in prediction.findings:  # type: ignore[union-attr]
        if finding.positive:
            assert finding.abbreviation in everything
    assert "BBB, PRWP" in everything
    assert NOTICE in everything
    assert "the first 10 s shown" in everything


def planted(output: str, second: float, lead: str) -> Explanation:
    """One half second and one lead did everything; the half second before it did a quarter against it."""
    starts = np.arange(0, 10, 0.5)
    over_time = np.where(starts == second, 2.0, np.where(starts == second - 0.5, -0.5, 0.0))
    by_lead = np.where(np.array(LEADS) == lead, 1.5, 0.0)
    return Explanation(output, starts, starts + 0.5, over_time, LEADS, by_lead)


def spans(figure: Figure, colour: str) -> list[tuple[float, float, float, float]]:
    """Left and right edge, height and opacity of what is shaded in a colour, once for all rows."""
    wanted = to_rgb(colour)
    found = set()
    for shade in figure.axes[0].collections:
        if isinstance(shade, PolyCollection) and tuple(shade.get_facecolor()[0][:3]) == wanted:
            box = shade.get_paths()[0].get_extents()
            alpha = shade.get_alpha()
            assert isinstance(alpha, float)
            found.add((round(box.x0, 3), round(box.x1, 3), round(box.height, 3), round(alpha, 3)))
    return sorted(found)


def test_the_seconds_that_moved_a_finding_are_shaded_at_their_place(ecg: Predictor) -> None:
    given = recording(12.0)
    figure = ecg_figure(given, ecg.predict(given), [planted("NSR", 5.0, "V2")])  # type: ignore[arg-type]
    # 10 mm of pulse, then 25 mm a second in the rhythm strip and in columns of 2.5 s
    assert spans(figure, RAISED[0]) == [(135.0, 147.5, 27.4, DARKEST)]
    assert spans(figure, LOWERED) == [(122.5, 135.0, 27.4, DARKEST / 4)]
    shown = texts(figure)
    assert "NSR" in shown
    assert any(text.startswith("moved most by 5 to 5.5 s +2.00; V2 +1.50") for text in shown)


def test_several_findings_have_lanes_and_colours_of_their_own(ecg: Predictor) -> None:
    given = recording(12.0)
    explained = [planted(name, 1.0 + i, "I") for i, name in enumerate(("NSR", "LAD", "TAb", "AF"))]
    figure = ecg_figure(given, ecg.predict(given), explained)  # type: ignore[arg-type]
    for i, colour in enumerate(RAISED):
        left = 10 + 25 * (1.0 + i)
        assert (left, left + 12.5) in {(x0, x1) for x0, x1, _, _ in spans(figure, colour)}
        assert {height for _, _, height, _ in spans(figure, colour)} == {round(28 / 3 - 0.6, 3)}
    assert any("1 more findings are explained and not drawn" in text for text in texts(figure))


def test_the_hours_and_variables_that_moved_a_risk_are_marked() -> None:
    given = stay()
    prediction = load("sepsis", device="cpu").predict(given)
    assert isinstance(prediction, SepsisPrediction)
    hours = prediction.hours.astype(float)
    over_time = np.where(hours == hours[3], 1.0, 0.0)
    explanation = Explanation("risk", hours, hours, over_time, ("HR", "Lactate"), np.array([0.25, -0.5]))
    figure = figure_of(given, prediction, [explanation])
    for axes in figure.axes:
        (shade,) = [p for p in axes.patches if p.get_facecolor()[:3] == to_rgb(RAISED[0])]
        box = shade.get_extents().transformed(axes.transData.inverted())
        assert (box.x0, box.x1) == pytest.approx((hours[3] - 0.5, hours[3] + 0.5))
    shown = texts(figure)
    assert any("), fp32, operating point 'utility'" in text for text in shown)
    assert "HR +0.25" in shown
    assert any("Lactate -0.50" in text for text in shown)


def test_a_missing_lead_is_marked(ecg: Predictor) -> None:
    given = recording(leads=LEADS[:11])
    assert "V6 (missing)" in texts(figure_of(given, ecg.predict(given)))


def test_a_short_recording_is_drawn_as_far_as_it_goes() -> None:
    given = recording(6.0)
    rhythm = max(
        figure_of(given, load("arrhythmia", device="cpu").predict(given)).axes[0].lines,
        key=lambda a: len(a.get_xdata()),
    )  # type: ignore[arg-type]
    x = np.asarray(rhythm.get_xdata())
    assert x[-1] - x[0] == pytest.approx(6 * 25, abs=0.2)


@pytest.mark.parametrize("seconds", [5.0, 7.3, 10.0, 25.0])
def test_every_column_is_full_and_shows_its_own_part(seconds: float) -> None:
    given = recording(seconds)
    figure = figure_of(given, load("arrhythmia", device="cpu").predict(given))
    signal = standardise(given).signal
    curves = {}
    for line in figure.axes[0].lines:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        if 300 < len(x) < 600:
            curves[round((x[0] - 10) / 62.5), 3 - int(np.median(y) // 32)] = (x, y)
    assert sorted(curves) == [(column, row) for column in range(4) for row in range(3)]
    for (column, row), (x, y) in curves.items():
        assert x[-1] - x[0] == pytest.approx(62.5, abs=0.2)
        first = round((min(seconds, 10.0) - 2.5) / 3 * column * 200)
        lead = signal[3 * column + row, first : first + len(y)]
        np.testing.assert_allclose(y - y.mean(), 10 * (lead - lead.mean()), atol=1e-9)
    starts = [text for text in texts(figure) if "columns begin at" in text]
    assert bool(starts) == (seconds < 10)


@pytest.mark.parametrize(
    ("factor", "gain", "words"), [(1, 10, ""), (2.5, 5, "half gain"), (5, 2.5, "quarter gain")]
)
def test_tall_complexes_lower_the_gain_and_never_meet(
    ecg: Predictor, factor: float, gain: float, words: str
) -> None:
    given = recording()
    tall = Recording(**{**vars(given), "signal": given.signal * factor})
    figure = ecg_figure(tall, ecg.predict(tall))  # type: ignore[arg-type]
    assert any(f"{gain:g} mm/mV" in text and words in text for text in texts(figure))
    lines = [np.asarray(line.get_xydata()) for line in figure.axes[0].lines if len(line.get_xdata()) > 6]  # type: ignore[arg-type]
    assert min(line[:, 1].min() for line in lines) > 0
    assert max(line[:, 1].max() for line in lines) < figure.axes[0].get_ylim()[1]
    for one in lines:
        for other in lines:
            if np.median(one[:, 1]) - np.median(other[:, 1]) > 5:
                shared = np.interp(one[:, 0], *other.T, left=np.nan, right=np.nan)
                assert not (one[:, 1] <= shared).any()


def test_labels_lie_under_the_curves_and_the_head_tells_rate_and_filter(ecg_picture: Figure) -> None:
    paper = ecg_picture.axes[0]
    labels = [text for text in paper.texts if text.get_text() in LEADS]
    assert len(labels) == 13
    curve = min(line.get_zorder() for line in paper.lines)
    assert all(text.get_zorder() < curve and text.get_bbox_patch() is None for text in labels)
    head = next(text for text in texts(ecg_picture) if "mm/mV" in text)
    assert "75 bpm computed" in head
    assert "drawn unfiltered" in head


@pytest.mark.parametrize("hours", [1, 40, 336])
def test_a_stay_shows_risk_threshold_alarms_and_vital_signs(stays: Predictor, hours: int) -> None:
    given = stay(hours)
    prediction = stays.predict(given)
    figure = figure_of(given, prediction)
    risk = figure.axes[0].lines[0]
    np.testing.assert_array_equal(risk.get_ydata(), prediction.risk)  # type: ignore[union-attr]
    np.testing.assert_array_equal(risk.get_xdata(), given.hours)
    assert set(np.asarray(figure.axes[0].lines[1].get_ydata())) == {prediction.threshold}  # type: ignore[union-attr]
    labels = " ".join(axes.get_ylabel() for axes in figure.axes)
    for name in ("risk", "HR", "SBP, MAP", "Resp", "O2Sat", "Temp"):
        assert name in labels
    heart_rate = np.asarray(figure.axes[1].lines[0].get_ydata())
    np.testing.assert_allclose(heart_rate, given.values[:, INDEX["HR"]])
    spans = [patch.get_extents() for patch in figure.axes[0].patches]
    assert bool(spans) == bool(prediction.alarms.any())  # type: ignore[union-attr]
    assert any(NOTICE in text for text in texts(figure))
    figure.canvas.draw()


def test_a_vital_sign_that_was_never_measured_is_said_to_be(stays: Predictor) -> None:
    values = stay(9).values.copy()
    values[:, INDEX["Resp"]] = np.nan
    given = stay(9, values=values)
    assert "not measured" in texts(figure_of(given, stays.predict(given)))


def test_the_first_picture_is_renamed_when_a_second_one_comes(ecg: Predictor, tmp_path: Path) -> None:
    given = recording()
    prediction = ecg.predict(given)
    pictures = NumberedPictures(tmp_path / "a.svg")
    assert pictures.draw(given, prediction) == tmp_path / "a.svg"
    assert pictures.draw(given, prediction) == tmp_path / "a-2.svg"
    assert pictures.written == [tmp_path / "a-1.svg", tmp_path / "a-2.svg"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-1.svg", "a-2.svg"]


def test_item_and_answer_must_belong_together(ecg: Predictor) -> None:
    with pytest.raises(TypeError, match="a Stay has no ArrhythmiaPrediction"):
        figure_of(stay(), ecg.predict(recording()))
