from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.bundles import NOT_EVALUABLE, recording, reseal, stay, write_header, write_psv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibt_deploy.decisions import ANY
from ibt_deploy.errors import BundleError, DeviceError, InputError
from ibt_deploy.predictions import ArrhythmiaPrediction, Prediction, Refusal, SepsisPrediction
from ibt_deploy.predictor import Predictor, load
from ibt_deploy.records import Recording, Stay
from ibt_deploy.vocabulary import N_TIME_VARYING

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RECORDINGS = [
    recording(seconds, rate, seed)
    for seed, (seconds, rate) in enumerate(
        [(10, 500), (23, 500), (12, 250), (47, 1000), (10, 257), (10, 500)]
    )
]
STAYS = [stay(hours, seed) for seed, hours in enumerate([1, 30, 30, 336, 8, 71, 2])]


def probabilities(answers: Sequence[Prediction | Refusal]) -> list[np.ndarray]:
    found = []
    for answer in answers:
        assert not isinstance(answer, Refusal)
        found.append(answer.probabilities if isinstance(answer, ArrhythmiaPrediction) else answer.risk)
    return found


@pytest.mark.parametrize(("name", "inputs"), [("ecg", RECORDINGS), ("stays", STAYS)])
@given(data=st.data())
@QUICK
def test_an_answer_does_not_depend_on_order_companions_or_batch_size(
    request: pytest.FixtureRequest, name: str, inputs: list[Recording] | list[Stay], data: st.DataObject
) -> None:
    predictor: Predictor = request.getfixturevalue(name)
    alone = {i: probabilities([predictor.predict(item)])[0] for i, item in enumerate(inputs)}
    order = data.draw(st.lists(st.sampled_from(range(len(inputs))), max_size=9))
    chosen = [inputs[i] for i in order]
    batch_size = data.draw(st.integers(1, 9))
    for answers in (predictor.predict(chosen), list(predictor.predict_many(chosen, batch_size))):
        assert len(answers) == len(order)
        for i, found in zip(order, probabilities(answers), strict=True):
            np.testing.assert_allclose(found, alone[i], atol=1e-5, rtol=0)


def test_a_long_recording_combines_its_windows_per_finding(ecg: Predictor) -> None:
    long = recording(1800, 200)
    answer = ecg.predict(long)
    assert isinstance(answer, ArrhythmiaPrediction)
    assert answer.windows.shape == (180, 26)
    means, highest = answer.windows.mean(axis=0), answer.windows.max(axis=0)
    np.testing.assert_allclose(answer.probabilities, np.where(ANY, highest, means), atol=1e-12)
    assert "long_recording" in {w.code for w in answer.warnings}
    np.testing.assert_array_equal(answer.window_starts, np.arange(180) * 10.0)
    assert any("180 windows" in change for change in answer.changes)


def test_what_windows_leave_out_is_stated(ecg: Predictor) -> None:
    assert "the last 3 s were left out" in ecg.predict(recording(23)).changes
    just_over = ecg.predict(recording(10.01)).changes
    assert just_over[-1] == "the last 0.01 s were left out"
    assert not any("scored as" in change for change in just_over)


def test_int8_answers_do_not_depend_on_the_batch(ecg_bundle: Path) -> None:
    predictor = load(ecg_bundle, device="cpu", variant="int8")
    assert predictor.model.variant == "int8"
    alone = probabilities([predictor.predict(item) for item in RECORDINGS])
    together = probabilities(predictor.predict(RECORDINGS))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_answer_is_never_empty_and_never_names_a_class_that_is_not_evaluable(ecg_bundle: Path) -> None:
    predictor = load(ecg_bundle, device="cpu", operating_point="strict")
    for item in RECORDINGS:
        answer = predictor.predict(item)
        assert isinstance(answer, ArrhythmiaPrediction)
        positive = [f for f in answer.findings if f.positive]
        evaluable = [f for f in answer.findings if f.evaluable]
        assert positive == [max(evaluable, key=lambda f: f.probability / f.threshold)]
    for answer in load(ecg_bundle, device="cpu").predict(RECORDINGS):
        assert isinstance(answer, ArrhythmiaPrediction)
        assert {f.status for f in answer.findings if f.abbreviation in NOT_EVALUABLE} == {"not evaluable"}


@given(
    hours=st.integers(2, 60),
    seed=st.integers(0, 50),
    cut=st.floats(0, 1),
    value=st.sampled_from([np.nan, 1.0, 50.0, 1e6]),
)
@QUICK
def test_changing_later_hours_leaves_earlier_risks_bit_identical(
    stays: Predictor, hours: int, seed: int, cut: float, value: float
) -> None:
    given_stay = stay(hours, seed)
    first = 1 + int(cut * (hours - 1))
    values = given_stay.values.copy()
    values[first:, :N_TIME_VARYING] = value
    changed = stay(hours, seed, values=values)
    try:
        after = stays.predict(changed)
    except InputError:
        return
    before = stays.predict(given_stay)
    assert isinstance(before, SepsisPrediction)
    assert isinstance(after, SepsisPrediction)
    np.testing.assert_array_equal(before.risk[:first], after.risk[:first])


def test_every_input_is_answered_or_refused_in_its_place(ecg: Predictor, tmp_path: Path) -> None:
    good = write_header(tmp_path, recording(seed=1))
    short = write_header(tmp_path, recording(3.0, seed=2))
    absent = tmp_path / "absent.hea"
    answers = list(
        ecg.predict_many([good, short, absent, stay(), recording(seed=3), str(good)], batch_size=2)
    )
    assert [a.code if isinstance(a, Refusal) else a.record for a in answers] == [
        *("r1", "too_short", "no_such_file", "wrong_task", "r3", "r1"),
    ]
    for answer in answers:
        if isinstance(answer, Refusal):
            assert "\n" not in answer.message
            assert answer.source in answer.message


def test_one_bad_patient_costs_one_refusal(stays: Predictor, tmp_path: Path) -> None:
    lines = write_psv(tmp_path, stay(9)).read_text().splitlines()
    table = tmp_path / "table.csv"
    rows = [f"patient_id,{lines[0]}"] + [f"{p},{line}" for p in ("a", "b", "c") for line in lines[1:]]
    rows[12] = rows[12].replace("|", "|x", 1)
    table.write_text("\n".join(row.replace("|", ",") for row in rows) + "\n")
    answers = list(stays.predict_many([table]))
    assert [isinstance(a, Refusal) for a in answers] == [False, True, False]
    assert "patient b" in answers[1].message  # type: ignore[union-attr]
    with pytest.raises(InputError, match="patient b"):
        stays.predict([table])


def test_a_file_of_several_stays_is_not_one_input(stays: Predictor, tmp_path: Path) -> None:
    lines = write_psv(tmp_path, stay(3)).read_text().splitlines()
    table = tmp_path / "table.psv"
    rows = [f"patient_id|{lines[0]}"] + [f"{p}|{line}" for p in "ab" for line in lines[1:]]
    table.write_text("\n".join(rows) + "\n")
    assert [p.record for p in stays.predict([table])] == ["a", "b"]
    with pytest.raises(InputError, match="holds 2 stays"):
        stays.predict(table)


def test_a_single_refused_input_raises(ecg: Predictor, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ecg.predict(write_header(tmp_path, recording(3.0)))
    assert caught.value.code == "too_short"
    assert str(tmp_path) in str(caught.value)


def test_the_device_in_the_answer_is_the_one_used(ecg_bundle: Path) -> None:
    assert load(ecg_bundle, device="cpu").predict(recording()).model.device == "cpu"
    predictor = load(ecg_bundle, device="auto")
    assert predictor.device in ("cpu", "cuda")
    assert predictor.predict(recording()).model.device == predictor.device


def test_a_graph_that_is_not_what_the_contract_says_is_refused(ecg_copy: Path, stay_bundle: Path) -> None:
    (ecg_copy / "model.onnx").write_bytes((stay_bundle / "model.onnx").read_bytes())
    reseal(ecg_copy)
    with pytest.raises(BundleError, match="a model for arrhythmia has"):
        load(ecg_copy, device="cpu")


def test_a_graph_that_cannot_be_read_is_refused_in_one_line(ecg_copy: Path) -> None:
    (ecg_copy / "model.onnx").write_bytes(b"no graph at all")
    reseal(ecg_copy)
    with pytest.raises(BundleError, match="cannot load the graph") as caught:
        load(ecg_copy, device="cpu")
    assert "\n" not in str(caught.value)


def test_logits_that_are_not_finite_are_no_answer(ecg_copy: Path) -> None:
    model = onnx.load(ecg_copy / "model.onnx")
    bias = next(t for t in model.graph.initializer if t.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(26, np.nan, dtype=np.float32), "bias"))
    onnx.save(model, ecg_copy / "model.onnx")
    reseal(ecg_copy)
    with pytest.raises(BundleError, match="not finite"):
        load(ecg_copy, device="cpu").predict(recording())


def test_impossible_devices_and_threads_are_refused(ecg_bundle: Path) -> None:
    with pytest.raises(DeviceError, match="'tpu' is none of"):
        load(ecg_bundle, device="tpu")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="at least 1, not 0"):
        load(ecg_bundle, threads=0)
