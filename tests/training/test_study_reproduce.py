"""The whole study with tiny networks: from a prepared cache to the report, and interruptions."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import tiny
from helpers.tiny import ecg_cache, stay_cache

from ibt_deploy.errors import DataError
from training.study import charts
from training.study import results as judging
from training.study import study as studies
from training.study.cli import reproduce
from training.study.plan import ABLATIONS, PURPOSES
from training.study.tables import FIGURES, figure_file, verdict

ECGS, STAYS = 120, 320
FIRST_LINES = 10


class HereAndNow:
    """An executor that works in this process, where tiny runs take less time than starting another."""

    def __init__(self, *_: Any, **__: Any) -> None:
        studies.reopened.cache_clear()  # a separate process would not know the study yet

    def __enter__(self) -> HereAndNow:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def shutdown(self, **_: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


def in_this_process(patch: pytest.MonkeyPatch) -> None:
    for module in (studies, judging):
        patch.setattr(module, "worker_processes", HereAndNow)


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch)


def tiny_stays(folder: Path, *, unlabelled: bool = False) -> Path:
    """Stays of patients that are not in the packaged split; those without labels have others."""
    cache = stay_cache(folder, STAYS, longest=24, seed=int(unlabelled))
    for name in ("index.csv",) if unlabelled else ("index.csv", "split.csv"):
        text = (cache / name).read_text().replace("p0", "q0" if unlabelled else "t0")
        (cache / name).write_text(text)
    tiny.seal(cache, "sepsis", "raw", STAYS, **({"unlabelled": STAYS} if unlabelled else {}))
    return cache


def tiny_ecgs(folder: Path, *, prefix: str = "R", seed: int = 0, n: int = ECGS) -> Path:
    """Twelve-lead ECGs of two sources, one of which is held out."""
    cache = ecg_cache(folder, n, leads=12, seed=seed)
    for name in ("index.csv", "split.csv"):
        text = (cache / name).read_text().replace(",two,", ",georgia,").replace("R0", f"{prefix}0")
        (cache / name).write_text(text)
    tiny.seal(cache, "arrhythmia", "ecg", n)
    return cache


def study(task: str, data: Path, out: Path, *more: str) -> Any:
    # two at a time get one thread each; for networks of this size a second thread slows training down
    limits = ("--budget", "tiny", "--device", "cpu", "--jobs", "2")
    arguments = [task, "--data", str(data), "--out", str(out), *limits, *more]
    return CliRunner().invoke(reproduce, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Cache and finished study of each task."""
    base = tmp_path_factory.mktemp("studies")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        patch.setattr(charts, "DPI", 30)  # otherwise rendering would take half of the time
        stays, ecgs = tiny_stays(base / "stays"), tiny_ecgs(base / "ecgs")
        elsewhere = tiny_ecgs(base / "elsewhere", prefix="L", seed=1, n=30)
        unlabelled = tiny_stays(base / "unlabelled", unlabelled=True)
        more = {
            "sepsis": ("--external", f"unlabelled={unlabelled}"),
            "arrhythmia": ("--external", f"elsewhere={elsewhere}"),
        }
        for task, data in (("sepsis", stays), ("arrhythmia", ecgs)):
            result = study(task, data, base / task, *more[task])
            assert result.exit_code == 0, result.output
            found[task] = (data, base / task)
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sepsis", "arrhythmia"])
def test_everything_is_measured_drawn_and_reported(finished: dict[str, tuple[Path, Path]], task: str) -> None:
    _, out = finished[task]
    results = json.loads((out / "results.json").read_text())
    assert all(run["trained"] for run in results["runs"])
    assert {run["purpose"] for run in results["runs"]} == set(PURPOSES) - (
        {"fractions"} if task == "arrhythmia" else set()
    )
    methods = {"transformer", "teacher", "deit", "bbm"}
    assert methods < set(results["table2"]["methods"])
    for rows in results["table2"]["methods"].values():
        assert set(rows) == {"0.5", "tuned", "threshold_free"}
        for row in rows.values():
            assert len(row) == 2
            for figure in row.values():
                low, high = figure["interval"]
                assert low <= figure["value"] <= high or np.isclose(low, high)
    assert len(results["table2"]["differences"]) == 6
    for place, table in results["table1"].items():
        wanted = {"transformer", "deit", "bbm"} | (set() if "trained on" in place else {"ceiling"})
        assert wanted <= set(table["methods"])
    assert len(results["table1"]) == (4 if task == "sepsis" else 3)
    if task == "sepsis":
        assert results["table1"]["unlabelled"]["differences"]["bbm - deit"]["r_squared"]["interval"]
        assert "unlabelled" not in results["external"]
    assert len(results["controls"]["arms"]) == 6
    told = next(c for c in results["claims"] if c["claim"].startswith("BBM > BBM from an untrained teacher"))
    found = results["controls"]["differences"]["bbm-untrained - bbm"]["tuned"][results["official"]]
    assert told["difference"]["value"] == -found["value"]
    assert told["difference"]["interval"] == [-bound for bound in reversed(found["interval"])]
    ablations = results["ablations"]["arms"]
    assert set(ABLATIONS[task]) < set(ablations)  # type: ignore[index]
    assert "bbm-lambda-1" not in ablations  # the budget's own value
    assert all(0 <= arm["seeds"]["0"]["auroc"] <= 1 for arm in ablations.values())
    assert not list(out.glob("outputs/**/*ablation*"))  # the test part is not used
    assert list(results["similarity"]) == ["test", *results["data"]["external"]]
    assert len(results["similarity"]) == 2
    for similarity in results["similarity"].values():
        assert set(similarity["cka"]["arms"]) >= methods - {"teacher"} | {"ceiling"}
        assert set(similarity["attention"]["arms"]) >= methods - {"teacher"}
    assert "calibration" in results["shipped"]["all"]
    assert "seconds" not in json.dumps(results)
    drawn = {path.name for path in (out / "figures").iterdir()}
    external = list(results["similarity"])[1]
    for name in ("cka", "attention", "attention_numbers"):
        assert figure_file(name, external) in drawn
    missing = set(FIGURES.values()) - drawn
    assert missing == (set() if task == "sepsis" else {FIGURES["curves"], FIGURES["alarms"]})
    report = (out / "report.md").read_text()
    head = "\n".join(report.splitlines()[:FIRST_LINES])
    for word in ("not a medical device", "Held:", "did not hold:", "not resolved by these data:"):
        assert word in head
    for figure in drawn:
        assert f"(figures/{figure})" in report
    assert "paper" in report
    assert str(out) not in report + json.dumps(results)


@pytest.mark.slow
@pytest.mark.usefixtures("_in_this_process")
def test_each_run_is_evaluated_once_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tiny_stays(tmp_path / "data"), tmp_path / "out"
    events: list[tuple[str, str]] = []

    def noted(module: Any, name: str, run_name: Callable[..., str]) -> None:
        real = getattr(module, name)

        def work(*args: Any) -> Any:
            events.append((name, run_name(*args)))
            return real(*args)

        monkeypatch.setattr(module, name, work)

    noted(studies, "_train", lambda run, *_: run.name)
    noted(judging, "evaluate", lambda _, name, *__: name)
    monkeypatch.setattr(judging, "study_results", lambda *_, **__: pytest.fail("reached"))
    with pytest.raises(pytest.fail.Exception, match="reached"):
        study("sepsis", data, out, "--seeds", "1", "--arm", "bbm")
    names = ("teacher/seed-0", "bbm/seed-0")
    assert events == [(step, name) for name in names for step in ("_train", "evaluate")]
    assert all((out / "outputs" / f"{name}.npz").is_file() for name in names)
    # a teacher is compared with that of the next seed, which is still to train
    assert [path.parent.name for path in (out / "measures").rglob("*.npz")] == ["bbm"]


@pytest.mark.slow
def test_one_page_holds_both_studies(finished: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    page = tmp_path / "docs" / "reproduction.md"
    folders = [str(out) for _, out in finished.values()]
    result = CliRunner().invoke(reproduce, ["docs", *folders, "--to", str(page)], catch_exceptions=False)
    assert result.exit_code == 0
    twice = CliRunner().invoke(reproduce, ["docs", *folders, folders[0], "--to", str(page)])
    assert twice.exit_code == 2
    assert "several studies of sepsis" in twice.output
    text = page.read_text()
    for task in ("Sepsis", "Arrhythmia"):
        assert f"**{task}, did not hold:**" in "\n".join(text.splitlines()[:FIRST_LINES])
    for line in text.splitlines():
        if line.startswith("!["):
            assert (page.parent / line.rpartition("(")[2].rstrip(")")).is_file()


@pytest.mark.slow
def test_nothing_is_filled_in(finished: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    data, out = finished["sepsis"]
    part = tmp_path / "part"
    for arm in ("teacher", "bbm"):
        (part / "runs" / arm).mkdir(parents=True)
        (part / "runs" / arm / "seed-0").symlink_to(out / "runs" / arm / "seed-0")
    assert study("sepsis", data, part, "--no-train").exit_code == 0
    results, report = json.loads((part / "results.json").read_text()), (part / "report.md").read_text()
    assert set(results["table2"]["methods"]) == {"teacher", "bbm"}
    assert results["table2"]["deit"] is None
    assert results["table3"]["arms"].keys() == {"bbm"}
    row = next(line for line in report.splitlines() if line.startswith("| DeiT | tuned"))
    assert row.count("not run") == 2
    assert "--only controls" in report.partition("### Not run")[2]
    whole = json.loads((out / "results.json").read_text())
    assert results["table2"]["methods"]["bbm"] == whole["table2"]["methods"]["bbm"]


class Killed(BaseException):
    """Ends everything, as a signal does."""


@pytest.mark.slow
@pytest.mark.usefixtures("_in_this_process")
def test_a_study_killed_at_any_step_ends_the_same(
    finished: dict[str, tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = finished["sepsis"]
    only = ("--only", "methods")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert study("sepsis", data, unbroken, *only).exit_code == 0

    assert killed_in_training(monkeypatch, data, broken, only) == 1
    deaths, finished_at_last = 0, False
    while not finished_at_last:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying_at(4 + deaths))
            try:
                finished_at_last = study("sepsis", data, broken, *only).exit_code == 0
            except Killed:
                deaths += 1
    assert deaths > 5
    for name in ("results.json", "report.md"):
        assert (broken / name).read_bytes() == (unbroken / name).read_bytes()
    for figure in (unbroken / "figures").iterdir():
        assert (broken / "figures" / figure.name).read_bytes() == figure.read_bytes()


def dying_at(wanted: int) -> Callable[[int], None]:
    """Dies in the ``wanted``-th flush of a file, before it takes its place, or of its folder, after that."""
    count = 0

    def fsync(_: int) -> None:
        nonlocal count
        count += 1
        if count == wanted:
            raise Killed

    return fsync


def killed_in_training(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, only: tuple[str, ...]) -> int:
    """Die in the second epoch of the second run; epochs that this run had behind it."""
    from training.fit import Fit

    begun, epoch = 0, Fit._epoch

    def dying(self: Fit, number: int, reporter: Any) -> dict[str, Any]:
        nonlocal begun
        begun += 1
        if begun == 4:
            raise Killed
        return epoch(self, number, reporter)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_epoch", dying)
        with pytest.raises(Killed):
            study("sepsis", data, out, *only)
    unfinished = [p for p in out.rglob("metrics.jsonl") if not (p.parent / "run.json").is_file()]
    return len(unfinished[0].read_text().splitlines())


@pytest.mark.slow
def test_another_task_and_data_that_are_not_external_are_refused(
    finished: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    ecgs, _ = finished["arrhythmia"]
    stays, _ = finished["sepsis"]
    wrong = study("sepsis", ecgs, tmp_path / "a")
    assert wrong.exit_code == 2
    assert "holds arrhythmia data" in wrong.output
    same = study("arrhythmia", ecgs, tmp_path / "b", "--external", f"again={ecgs}")
    assert same.exit_code == 2
    assert "of its records are also in" in same.output
    nothing = study("sepsis", stays, tmp_path / "c", "--no-train")
    assert nothing.exit_code == 2
    assert "nothing is trained" in nothing.output


def test_results_are_kept_while_what_they_come_from_stays(tmp_path: Path) -> None:
    path, made = tmp_path / "a" / "kept.npz", []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert studies.kept(path, {"network": "one"}, make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 1
    studies.kept(path, {"network": "two"}, make)
    assert len(made) == 2
    path.write_bytes(path.read_bytes()[:50])
    studies.kept(path, {"network": "two"}, make)
    assert len(made) == 3
    with pytest.raises(DataError):
        studies.kept(path, {"network": "three"}, failing)
    assert studies.kept(path, {"network": "two"}, make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 3


def failing() -> dict[str, Any]:
    raise DataError("no")


def test_an_estimate_times_every_kind_of_run_and_trains_nothing(tmp_path: Path) -> None:
    result = study(
        "arrhythmia", tiny_ecgs(tmp_path / "ecgs"), tmp_path / "out", "--estimate", "--only", "methods"
    )
    assert result.exit_code == 0
    *rows, total = result.output.strip().splitlines()
    arms = [row.split()[1] for row in rows if row.startswith("methods ")]
    assert arms == ["teacher", "transformer", "bbm", "deit-soft", "deit-hard"]
    for row in (row.split() for row in rows if row.startswith("methods ")):
        step, items, prepared, gigaflops, peak, percent = (text.replace(",", "") for text in row[4:10])
        assert float(items) > 0
        assert float(step) > 0
        assert float(prepared) > 0
        assert float(gigaflops) >= 0
        assert percent == "%"
        assert float(peak) < 100
    assert "6 runs to train" in " ".join(rows[-2:]) + total
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("interval", "seeds", "expected"),
    [
        ((0.01, 0.05), (0.02, 0.04), ("held", "did not hold")),
        ((-0.05, -0.01), (-0.04, -0.02), ("did not hold", "held")),
        ((0.001, 0.005), (-0.004, 0.010), ("not resolved", "not resolved")),
        ((-0.01, 0.05), (0.02, 0.04), ("not resolved", "not resolved")),
    ],
)
def test_a_claim_holds_where_patients_and_every_seed_agree(
    interval: tuple[float, float], seeds: tuple[float, float], expected: tuple[str, str]
) -> None:
    found = {"value": 0.003, "interval": list(interval), "range": list(seeds)}
    assert (verdict(found), verdict(found, -1)) == expected
    assert verdict(None) == "not run"
