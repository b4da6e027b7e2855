"""The card says what the contract says, and nothing else."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from export.card import card_text, curves_svg, ticks, write_card
from export.entries import Candidates, seal
from ibt_deploy.bundle import load_bundle, packaged_bundles
from ibt_deploy.errors import BundleError, DataError
from ibt_deploy.evaluation import in_order
from ibt_deploy.render.report import decimal, ranged, table
from ibt_deploy.types import TASKS, Task


def contract_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
    return found


@pytest.fixture(params=["ecg_bundle", "stay_bundle"])
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_card_and_picture_come_from_the_contract_alone(bundle: Path) -> None:
    contract = contract_of(bundle)
    assert (bundle / "card.md").read_text() == card_text(contract)
    assert (bundle / "curves.svg").read_text() == curves_svg(contract)
    assert not write_card(bundle)


def test_card_says_what_must_be_said(bundle: Path) -> None:
    text = (bundle / "card.md").read_text()
    assert "Research software, not a medical device." in text
    for title in (
        "Intended use",
        "Data",
        "Figures on the test part",
        "Training",
        "Proof of the graph",
        "Limits",
    ):
        assert f"## {title}" in text
    assert "95 % interval" in text
    assert "ibt export ..." in text
    assert "CC BY 4.0" in text or "not stated" in text
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_every_table_is_whole(bundle: Path) -> None:
    lines = (bundle / "card.md").read_text().splitlines()
    for before, line in pairwise(lines):
        if line.startswith("|") and before.startswith("|"):
            assert line.count(" | ") == before.count(" | ")
            assert len(re.findall(r"(?<!\\)\|", line)) == line.count(" | ") + 2


def test_ecg_card_marks_classes_that_are_not_evaluable(ecg_bundle: Path) -> None:
    text = (ecg_bundle / "card.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| AF | 0/0/0"))
    assert "not evaluable" in row
    assert "elsewhere (external test set)" in text


def test_stay_card_tells_what_alarms_mean(stay_bundle: Path) -> None:
    text = (stay_bundle / "card.md").read_text()
    assert "alarms per 100 patient-days" in text
    assert "`alarms_per_10_patient_days`" in text
    assert "shipped as variant `int8`" in text


def test_card_tells_whose_opinion_the_labels_held(stay_bundle: Path) -> None:
    contract = contract_of(stay_bundle)
    assert "opinion" not in card_text(contract)
    student = contract["training"]["student"]
    student["recipe"]["data"]["soft_weight"] = 0.75
    student["learnt_from"]["opinion_sha256"] = "ab" * 32
    assert "0.75 parts the opinion of an ensemble (`ibt train ensemble`, `abababababab`)" in card_text(
        contract
    )


def test_card_tells_which_weights_training_started_from(ecg_bundle: Path) -> None:
    contract = contract_of(ecg_bundle)
    assert "started from" not in card_text(contract)
    learnt_from = contract["training"]["student"]["learnt_from"]
    learnt_from["initial_sha256"] = "cd" * 32
    assert "started from trained weights (`cdcdcdcdcdcd`)" in card_text(contract)
    learnt_from["also_sha256"] = "ab" * 32
    assert "(`cdcdcdcdcdcd`, which have learnt from 1 other data set)" in card_text(contract)


def test_card_names_the_version_whose_figures_a_rewritten_graph_keeps(ecg_bundle: Path) -> None:
    contract = contract_of(ecg_bundle)
    assert "Scored by this bundle itself" in card_text(contract)
    assert "rewritten" not in card_text(contract)
    contract["training"]["rewritten"] = {"from": "1.2.3", "note": "The graphs were rewritten."}
    assert "Scored by version 1.2.3, which is the same network" in card_text(contract)
    assert "## How it was made\n\nThe graphs were rewritten.\n" in card_text(contract)


def test_card_states_what_int8_and_the_graph_change(ecg_bundle: Path) -> None:
    contract = contract_of(ecg_bundle)
    contract["metrics"]["parity"] |= {"decisions": 2000, "decisions_changed": 0}
    contract["metrics"]["int8"] |= {"auroc_drop": -0.0003, "metric_drop": 0.00001}
    text = card_text(contract)
    assert "All 2,000 decisions over all operating points agree." in text
    assert "AUROC changes by +0.0003 and the main metric by 0.0000" in text
    contract["metrics"]["parity"] |= {"decisions_changed": 3, "decisions_on_edge": 2}
    assert "3 differ, 2 of them within 1e-4 of the threshold" in card_text(contract)


def test_card_shows_the_candidates_and_the_reason(stay_bundle: Path, tmp_path: Path) -> None:
    contract = contract_of(stay_bundle)
    assert "## Candidates" not in card_text(contract)
    path = tmp_path / "candidates.toml"
    path.write_text(
        'about = "on validation"\nreason = "it is smaller"\n'
        'models = [{ name = "large", figures = { utility = 0.4, AUPRC = 0.1 } },'
        ' { name = "small", figures = { utility = 0.41 }, chosen = true }]\n'
    )
    contract["training"]["candidates"] = Candidates.read(path).to_dict()
    section = card_text(contract).partition("## Candidates")[2].partition("## ")[0]
    assert "on validation" in section
    assert "it is smaller" in section
    assert "| large | 0.400 | 0.100 |\n| **small** | 0.410 | - |" in section
    path.write_text('about = "on validation"\nreason = "none"\nmodels = []\n')
    with pytest.raises(DataError, match="lists no model"):
        Candidates.read(path)
    path.write_text('about = "on validation"\n')
    with pytest.raises(DataError, match=r"candidates\.toml: "):
        Candidates.read(path)


def test_ecg_card_shows_the_ranking_of_every_class(ecg_bundle: Path) -> None:
    contract = contract_of(ecg_bundle)
    first = contract["classes"][0]
    n, positives = first["held_out"]["n"], first["held_out"]["positives"]
    section = card_text(contract).partition("## Data")[2].partition("## ")[0]
    assert f"| {first['abbreviation']} | {positives} of {n} | " in section
    for entry in contract["classes"]:
        del entry["held_out"]
    assert "judging networks" not in card_text(contract)


def test_picture_is_xml_without_script(bundle: Path) -> None:
    root = ET.fromstring((bundle / "curves.svg").read_text())
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "g", "rect", "line", "polyline", "circle", "text"}
    assert len((bundle / "curves.svg").read_bytes()) < 50_000


def test_a_changed_contract_gets_a_new_card_and_new_hashes(stay_bundle: Path, tmp_path: Path) -> None:
    for path in stay_bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    contract = contract_of(tmp_path) | {"intended_use": "something else"}
    seal(tmp_path, contract)
    assert write_card(tmp_path)
    assert "something else" in load_bundle(tmp_path).card


def test_a_contract_without_figures_gets_no_card(stay_bundle: Path, tmp_path: Path) -> None:
    contract = contract_of(stay_bundle)
    del contract["metrics"]["test"]
    (tmp_path / "bundle.json").write_text(json.dumps(contract))
    with pytest.raises(BundleError, match="a card needs the entry 'test'"):
        write_card(tmp_path)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.031, 0.0312), (-3.7, 12.9), (1.0, 1.0), (0.0, 1e-5), (17.0, 90210.0)]
)
def test_ticks_are_few_even_and_around_the_data(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 2 <= len(marks) <= 8
    steps = [b - a for a, b in pairwise(marks)]
    assert max(steps) == pytest.approx(min(steps))


@pytest.mark.parametrize("task", TASKS)
def test_packaged_cards_are_up_to_date(task: Task) -> None:
    packaged = packaged_bundles()
    if task not in packaged:
        pytest.skip(f"no {task} bundle is in the package")
    contract = contract_of(packaged[task])
    assert (packaged[task] / "card.md").read_text() == card_text(contract)
    assert (packaged[task] / "curves.svg").read_text() == curves_svg(contract)


def test_sub_groups_stand_in_the_order_of_age() -> None:
    names = ["40-64", "80 and over", "unknown", "under 40"]
    found = [name for name, _ in in_order(dict.fromkeys(names, 0))]
    assert found == ["under 40", "40-64", "80 and over", "unknown"]


@pytest.mark.parametrize("last", [1, 2, 3, 12, 100])
def test_epochs_are_whole(last: int) -> None:
    marks = ticks(1, last, whole=True)
    assert marks == [int(mark) for mark in marks]
    assert marks[0] <= 1 <= last <= marks[-1]


def test_figures_as_readers_want_them() -> None:
    assert [decimal(v, 2) for v in (-0.001, -0.01, 0.004, None)] == ["0.00", "-0.01", "0.00", "-"]
    assert ranged({"value": 0.81249, "interval": [0.79, 0.8331]}) == "0.812 (0.790-0.833)"
    assert ranged({"value": -0.1, "interval": [-0.2, 0.1]}, 1) == "-0.1 (-0.2 to 0.1)"
    assert ranged({"value": 0.5, "interval": None}) == "0.500"
    assert ranged({"value": None, "interval": None}) == ranged(None) == "-"
    lines = table(["a", "b>"], [["x", "1"]])
    assert [line for line in lines if line] == ["| a | b |", "| --- | ---: |", "| x | 1 |"]
    assert re.match(r"\| -", lines[2])
