"""The page as users see it: in a browser, on the real service, with real files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.bundles import recording, stay, write_header, write_psv

from benchmarks.load_server import started
from ibt_deploy.predictions import NOTICE
from ibt_deploy.predictor import Predictor, load
from ibt_deploy.readers import read
from ibt_deploy.vocabulary import LEADS

pytest.importorskip("bentoml", reason="the service is not installed: pip install 'ibt[serve]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; name it in CHROMIUM")

Page = Any
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "color_scheme": "light"},
}


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with started(IBT_SERVE_DEVICE="cpu") as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that was opened, and what it did that it should not."""

    def __init__(self, browser: Any, origin: str, **look: Any) -> None:
        self.context = browser.new_context(reduced_motion="reduce", **(LOOKS["light"] | look))
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.set_default_timeout(20_000)
        self.page.on(
            "console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._check(request.url, origin))
        self.page.goto(f"{origin}/")

    def _check(self, url: str, origin: str) -> None:
        if not url.startswith((f"{origin}/", f"blob:{origin}/")):
            self.wrong.append(f"leaves the origin: {url}")

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def visits(browser: Any, origin: str) -> Iterator[Any]:
    """Opens the page; no visit may log an error or ask anybody but the service for anything."""
    opened: list[Visit] = []

    def visit(**look: Any) -> Page:
        opened.append(Visit(browser, origin, **look))
        return opened[-1].page

    yield visit
    wrong = [w for each in opened for w in each.wrong if "status of 4" not in w and "status of 503" not in w]
    for each in opened:
        each.close()
    assert not wrong


@pytest.fixture(scope="module")
def predictors() -> dict[str, Predictor]:
    return {task: load(task, device="cpu") for task in ("arrhythmia", "sepsis")}


@pytest.fixture
def examples(root: Path) -> Path:
    return root / "examples"


def choose(page: Page, *files: Path) -> None:
    page.set_input_files("#files", [str(file) for file in files])


def shown(page: Page, count: int = 1) -> Any:
    """The last of ``count`` articles, once it is there."""
    articles = page.locator("article.answer")
    sync_api.expect(articles).to_have_count(count, timeout=20_000)
    return articles.nth(count - 1)


def percent(p: float) -> str:
    return "< 0.1 %" if 0 < p < 0.001 else "> 99.9 %" if 0.999 < p < 1 else f"{100 * p:.1f} %"


def check_ecg(article: Any, answer: dict[str, Any]) -> None:
    """The article shows every finding as it is: the rhythm, other positive ones, the negative ones folded."""
    sync_api.expect(article.locator("h2")).to_have_text(answer["record"])
    findings = [f for f in answer["findings"] if f["evaluable"]]
    rhythms = ("NSR", "SA", "SB", "STach", "AF", "AFL", "Brady", "PR")
    findings.sort(
        key=lambda f: (
            not f["positive"],
            f["positive"] and f["abbreviation"] not in rhythms,
            -f["probability"],
        )
    )
    assert not article.locator(".negatives tbody tr").first.is_visible()
    article.locator(".negatives summary").click()
    rows = article.locator(".findings > table tbody tr, .negatives tbody tr")
    cells = [row.locator("th, td").all_inner_texts() for row in rows.all()]
    assert [
        (c[0].split("\n")[0].strip().startswith(f["name"]), c[4])
        for c, f in zip(cells, findings, strict=True)
    ] == [(True, f["status"]) for f in findings]
    assert [(c[2], c[3]) for c in cells] == [
        (percent(f["probability"]), percent(f["threshold"])) for f in findings
    ]
    for row, finding in zip(rows.all()[:4], findings, strict=False):
        bar, length, mark = (row.locator(f".bar{part}").bounding_box() for part in ("", " .length", " .mark"))
        assert length["width"] == pytest.approx(max(finding["probability"] * bar["width"], 2), abs=1)
        assert mark["x"] - bar["x"] == pytest.approx(finding["threshold"] * bar["width"], abs=2)
    for finding in findings:
        if finding["positive"]:
            assert finding["name"] in article.locator(".lead").inner_text()
    leads = article.locator("svg.paper g[data-lead]")
    assert sorted(g.get_attribute("data-lead") for g in leads.all()) == sorted([*LEADS, "II"])
    assert NOTICE in article.inner_text()


def check_stay(article: Any, answer: dict[str, Any]) -> None:
    sync_api.expect(article.locator("h2")).to_have_text(answer["record"])
    alarms = sum(hour["alarm"] for hour in answer["hours"])
    lead = article.locator(".lead").inner_text()
    assert (f"Alarm in {alarms} of" if alarms else "No alarm") in lead
    sync_api.expect(article.locator(".chart svg")).to_be_visible()
    assert article.locator(".alarm-mark").count() == alarms
    assert article.locator(".risk-dot").count() == len(answer["hours"]) - alarms
    slider = article.get_by_role("slider", name="Hour")
    slider.focus()
    slider.press("Home")
    for hour in answer["hours"][:3]:
        text = article.locator(".readout").inner_text()
        assert (
            f"Hour {hour['hour']}: risk {percent(hour['risk'])}, threshold {percent(hour['threshold'])}"
            in text
        )
        assert ("no alarm" in text) is not hour["alarm"]
        slider.press("ArrowRight")
    assert NOTICE in article.inner_text()


@pytest.mark.parametrize("look", LOOKS)
def test_it_looks_right(visits: Any, look: str, tmp_path: Path) -> None:
    page = visits(**LOOKS[look])
    page.screenshot(path=tmp_path / "empty.png", full_page=True)
    for name, button in (("ecg", "Example ECG"), ("stay", "Example stay")):
        page.reload()
        page.get_by_role("button", name=button).click()
        shown(page).locator("svg").first.wait_for()
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") == LOOKS[look]["viewport"]["width"]
        assert not page.evaluate(OVERLAPS)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 150) is (look == "dark")


OVERLAPS = """() => {
  const seen = [...document.querySelectorAll('h2, h3, p, .button, th, td, dt, dd, li, label, summary')]
    .filter((e) => e.checkVisibility() && !e.closest('.unseen, thead') && e.getClientRects().length);
  const boxes = seen.map((e) => [e, e.getBoundingClientRect()]);
  const found = [];
  for (const [a, p] of boxes) for (const [b, q] of boxes) {
    if (a === b || a.contains(b) || b.contains(a)) continue;
    if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1)
      found.push(`${a.textContent} / ${b.textContent}`);
  }
  return found.join('; ');
}"""


def test_an_uploaded_recording_is_drawn_with_its_findings(
    visits: Any, examples: Path, predictors: dict[str, Predictor]
) -> None:
    page = visits()
    choose(page, examples / "recording.dat", examples / "recording.hea")
    check_ecg(shown(page), predictors["arrhythmia"].predict(examples / "recording.hea").to_dict())


def test_a_real_recording_and_a_real_stay(
    visits: Any, shared: Path, tmp_path: Path, predictors: dict[str, Predictor]
) -> None:
    import pandas as pd

    header = sorted((shared / "data" / "ecg" / "cpsc_2018").glob("*.hea"))[0]
    table = pd.read_parquet(
        shared / "data" / "p19" / "p19.parquet", filters=[("patient_id", "==", "p000009")]
    )
    file = tmp_path / "p000009.psv"
    table.drop(columns=["patient_id", "hospital", "hour"]).to_csv(file, sep="|", index=False, na_rep="NaN")
    page = visits()
    choose(page, header, header.with_suffix(".mat"))
    check_ecg(shown(page), predictors["arrhythmia"].predict(header).to_dict())
    choose(page, file)
    check_stay(shown(page, 2), predictors["sepsis"].predict(file).to_dict())


def test_an_uploaded_stay_shows_its_alarms_and_reads_out_every_hour(
    visits: Any, examples: Path, predictors: dict[str, Predictor]
) -> None:
    page = visits()
    choose(page, examples / "stay.psv")
    article = shown(page)
    answer = predictors["sepsis"].predict(examples / "stay.psv").to_dict()
    check_stay(article, answer)
    article.get_by_text("Every hour as a table").click()
    assert article.locator(".hours tbody tr").count() == len(answer["hours"])


def test_several_files_are_sorted_out_and_a_refused_one_costs_only_itself(
    visits: Any, examples: Path, tmp_path: Path
) -> None:
    page = visits()
    header = write_header(tmp_path, recording(seed=8))
    bad = tmp_path / "bad.psv"
    bad.write_text((examples / "stay.psv").read_text().replace("|", "|x", 60))
    choose(page, header, examples / "stay.psv", bad, header.with_suffix(".dat"), tmp_path / "bad.psv")
    shown(page, 3)
    titles = page.locator("article h2").all_inner_texts()
    assert titles == ["r8", "stay", "bad.psv: not scored"]


def test_what_belongs_together_is_sent_together(visits: Any, tmp_path: Path) -> None:
    page = visits()
    sent: list[set[str]] = []

    def answer(route: Any) -> None:
        sent.append(set(re.findall(r'filename="([^"]+)"', route.request.post_data_buffer.decode("latin-1"))))
        body = '{"code": "too_short", "detail": "no"}'
        route.fulfill(status=422, content_type="application/problem+json", body=body)

    page.route("**/v1/*", answer)
    files = {
        "r1.hea": "r1 2 500 10\nr1_1.dat 16 1000/mV 16 0 0 0 0 I\nr1_2.dat 16 1000/mV 16 0 0 0 0 II\n",
        "r1_1.dat": "a", "r1_2.dat": "b", "r2.npy": "c", "r2.toml": "unit = 'mV'",
        "stay.psv": "HR|ICULOS\n8|1\n", "other.dat": "d",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    choose(page, *(tmp_path / name for name in reversed(files)))
    shown(page, 4)
    assert sent == [{"other.dat"}, {"stay.psv"}, {"r2.npy", "r2.toml"}, {"r1.hea", "r1_1.dat", "r1_2.dat"}]


def test_a_refusal_says_why_in_words_and_with_its_code(visits: Any, examples: Path, tmp_path: Path) -> None:
    page = visits()
    choose(page, examples / "recording.hea")
    article = shown(page)
    assert "choose the .hea and the .dat or .mat together" in article.inner_text()
    assert article.locator("code").inner_text() == "missing_signal_file"
    ragged = tmp_path / "hours.psv"
    ragged.write_text("HR|ICULOS\n80|1\n81\n")
    choose(page, ragged)
    assert "Reason: " in shown(page, 2).inner_text()
    assert page.locator("svg.paper").count() == 0


def test_a_long_recording_can_be_leafed_through_in_either_layout(visits: Any, tmp_path: Path) -> None:
    page = visits()
    header = write_header(tmp_path, recording(25.0, seed=3))
    choose(page, header, header.with_suffix(".dat"))
    article = shown(page)
    place = article.locator(".place")
    assert place.inner_text() == "0 to 10 s of 25 s"
    later = article.get_by_role("button", name="Later")
    later.click()
    later.click()
    assert place.inner_text() == "20 to 25 s of 25 s"
    assert later.is_disabled()
    article.get_by_text("12 rows").click()
    assert article.locator("svg.paper g[data-lead]").count() == len(LEADS)


def test_warnings_are_shown_in_words(visits: Any, tmp_path: Path) -> None:
    page = visits()
    given = recording(seed=2, leads=("I", "II", "V1", "V2", "V4", "V5", "V6"))
    header = write_header(tmp_path, given)
    choose(page, header, header.with_suffix(".dat"))
    article = shown(page)
    assert "missing_leads" in article.locator(".warnings").inner_text()
    assert article.locator("svg.paper text", has_text="V3 (no signal)").count() == 1


def test_the_keyboard_is_enough(visits: Any) -> None:
    page = visits()
    names: list[str] = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        if names[-1] == "Example stay":
            break
    assert names.index("files") < names.index("Example ECG")
    page.keyboard.press("Enter")
    shown(page)
    assert page.evaluate("document.activeElement.textContent") == "stay"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "JSON: download stay.json"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "CSV: download stay.csv"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.labels[0].textContent") == "Operating point"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range"


def test_files_can_be_dropped(visits: Any, examples: Path) -> None:
    page = visits()
    text = (examples / "stay.psv").read_text()
    data = page.evaluate_handle(
        "text => { const d = new DataTransfer(); d.items.add(new File([text], 'dropped.psv')); return d; }",
        text,
    )
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": data})
    assert "over" in page.locator("#drop").get_attribute("class")
    page.dispatch_event("body", "drop", {"dataTransfer": data})
    assert shown(page).locator("h2").inner_text() == "dropped"


def test_what_is_downloaded_is_the_answer(
    visits: Any, examples: Path, predictors: dict[str, Predictor]
) -> None:
    page = visits()
    for task, name in (("arrhythmia", "recording.hea"), ("sepsis", "stay.psv")):
        page.reload()
        page.get_by_role("button", name="Example ECG" if task == "arrhythmia" else "Example stay").click()
        article = shown(page)
        with page.expect_download() as download:
            article.get_by_role("button", name=re.compile("JSON: download")).click()
        found = json.loads(Path(download.value.path()).read_text())
        expected = predictors[task].predict(examples / name).to_dict()
        found["input"].pop("source")
        expected["input"].pop("source")
        assert found == expected


def test_a_normal_rhythm_is_not_in_the_colour_of_an_alarm(visits: Any, examples: Path) -> None:
    page = visits()
    page.get_by_role("button", name="Example ECG").click()
    lead = shown(page).locator(".lead")
    assert lead.inner_text().startswith("Rhythm: sinus rhythm")
    normal = lead.locator("strong", has_text="sinus rhythm")
    ink = page.evaluate("getComputedStyle(document.querySelector('.lead')).color")
    assert normal.evaluate("e => getComputedStyle(e).color") == ink
    separator = page.locator("svg.paper .separator").first.evaluate("e => getComputedStyle(e).stroke")
    assert separator != page.locator("svg.paper .trace").first.evaluate("e => getComputedStyle(e).stroke")


@pytest.mark.parametrize("rate", [61.7, {"bpm": 61.7}])
def test_a_heart_rate_is_shown_where_the_answer_has_one(visits: Any, rate: Any) -> None:
    page = visits()

    def answer(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | {"heart_rate": rate})

    page.route("**/v1/arrhythmia*", answer)
    page.get_by_role("button", name="Example ECG").click()
    assert "Heart rate: 62/min" in shown(page).locator(".lead").inner_text()


def test_the_operating_point_is_chosen_in_the_answer(
    visits: Any, examples: Path, predictors: dict[str, Predictor]
) -> None:
    page = visits()
    choose(page, examples / "stay.psv")
    chooser = shown(page).get_by_label("Operating point")
    for point in sorted(predictors["sepsis"].bundle.operating_points):
        chooser.select_option(value=point)
        sync_api.expect(page.get_by_role("status").first).to_contain_text(f"operating point {point}")
        expected = load("sepsis", device="cpu", operating_point=point).predict(examples / "stay.psv")
        article = shown(page)
        alarms = int(expected.alarms.sum())  # type: ignore[union-attr]
        assert article.locator(".alarm-mark").count() == alarms
        assert page.evaluate("document.activeElement.value") == point
        chooser = article.get_by_label("Operating point")


@pytest.mark.parametrize("look", ["light", "phone"])
def test_several_answers_begin_with_an_overview(visits: Any, examples: Path, look: str) -> None:
    page = visits(**LOOKS[look])
    choose(page, examples / "stay.psv", examples / "recording.hea", examples / "recording.dat")
    shown(page, 2)
    choose(page, examples / "recording.hea")
    shown(page, 3)
    overview = page.locator(".overview")
    records = overview.locator("tbody th")
    assert records.all_inner_texts() == ["stay", "recording", "recording.hea"]
    assert "not scored (missing_signal_file)" in overview.inner_text()
    overview.get_by_role("button", name="Record").click()
    assert records.all_inner_texts() == ["recording", "recording.hea", "stay"]
    overview.get_by_role("button", name="Highest").click()
    assert records.all_inner_texts()[0] == "recording"
    assert page.evaluate("document.documentElement.scrollWidth") == LOOKS[look]["viewport"]["width"]
    overview.get_by_role("link", name="stay").click()
    assert page.url.endswith(page.locator("article", has_text="ICU stay").get_attribute("id"))


def test_what_is_exported_is_the_answer(
    visits: Any, examples: Path, tmp_path: Path, predictors: dict[str, Predictor]
) -> None:
    page = visits()
    choose(page, examples / "recording.hea", examples / "recording.dat")
    article = shown(page)
    with page.expect_download() as download:
        article.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    expected = predictors["arrhythmia"].predict(examples / "recording.hea").to_dict()["findings"]
    assert [(row["code"], float(row["probability"]), row["status"]) for row in rows] == [
        (f["code"], f["probability"], f["status"]) for f in expected
    ]
    with page.expect_download() as download:
        article.get_by_role("button", name="Save as PNG").click()
    picture = Path(download.value.path()).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20], "big") == 2600
    assert download.value.suggested_filename == "recording.png"


def test_names_from_files_are_text(visits: Any, tmp_path: Path) -> None:
    page = visits()
    file = write_psv(tmp_path, stay(8, seed=1)).rename(tmp_path / "<img src=x onerror=alert(1)>.psv")
    choose(page, file)
    article = shown(page)
    assert "<img src=x" in article.inner_text()
    assert page.locator("article img").count() == 0


def test_a_token_is_asked_for_only_when_the_server_wants_one(visits: Any) -> None:
    page = visits()
    sent: list[str | None] = []

    def guard(route: Any) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == "Bearer the-secret":
            route.continue_()
        else:
            route.fulfill(
                status=401, content_type="application/problem+json", body='{"code": "unauthorised"}'
            )

    page.route("**/v1/sepsis*", guard)
    field = page.get_by_label("This server asks for an access token")
    assert not field.is_visible()
    page.get_by_role("button", name="Example stay").click()
    field.fill("the-secret")
    field.press("Enter")
    shown(page)
    assert sent == [None, "Bearer the-secret"]
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0


def test_a_busy_server_is_asked_again(visits: Any) -> None:
    page = visits()
    times = iter([429, 503])

    def busy(route: Any) -> None:
        status = next(times, None)
        if status is None:
            route.continue_()
        else:
            route.fulfill(status=status, headers={"Retry-After": "1"}, body="{}")

    page.route("**/v1/sepsis*", busy)
    page.get_by_role("button", name="Example stay").click()
    sync_api.expect(page.get_by_role("status").first).to_contain_text("busy")
    shown(page)


def test_an_answer_prints_without_the_controls(visits: Any, tmp_path: Path) -> None:
    page = visits()
    page.get_by_role("button", name="Example ECG").click()
    shown(page)
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("#drop").is_visible()
    assert page.locator("svg.paper").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(path=tmp_path / "page.pdf", format="A4")) > 10_000


def test_speed_gain_and_zoom_change_the_paper_and_its_caption(visits: Any) -> None:
    page = visits()
    page.get_by_role("button", name="Example ECG").click()
    article = shown(page)
    paper = article.locator("svg.paper")
    before = paper.bounding_box()["width"]
    assert paper.get_attribute("viewBox").split()[2] == "260"
    article.get_by_label("Speed").select_option("50")
    assert paper.get_attribute("viewBox").split()[2] == "510"
    article.get_by_label("Gain").select_option("20")
    pulse = article.locator("svg.paper > path.trace").first.get_attribute("d")
    assert pulse.endswith("h1v-20h5v20h1")
    assert "50 mm/s, 20 mm/mV: a large square is 0.1 s wide and 0.25 mV high." in article.inner_text()
    article.get_by_label("Speed").select_option("25")
    article.get_by_label("Zoom").select_option("2")
    assert paper.bounding_box()["width"] == pytest.approx(2 * before, rel=0.02)
    assert page.evaluate("document.documentElement.scrollWidth") == 1280


@pytest.mark.parametrize("look", ["light", "phone"])
def test_calipers_measure_time_and_voltage(visits: Any, look: str) -> None:
    page = visits(**LOOKS[look])
    page.get_by_role("button", name="Example ECG").click()
    article = shown(page)
    button = article.get_by_role("button", name="Calipers")
    assert article.locator(".caliper").count() == 0
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    readout = article.locator("figure.ecg output")
    assert readout.inner_text() == "Between the calipers: 1000 ms (60/min), 1.00 mV."
    second = article.get_by_role("slider", name="Caliper B")
    second.focus()
    for key in ("ArrowRight", "Shift+ArrowLeft", "ArrowUp"):
        second.press(key)
    assert readout.inner_text() == "Between the calipers: 955 ms (63/min), 0.95 mV."
    assert second.get_attribute("aria-valuenow") == "1955"
    handle = second.locator(".handle").bounding_box()
    width = article.locator("svg.paper").bounding_box()["width"]
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 0.4 * 25 * width / 260, y, steps=3)
    page.mouse.up()
    time, voltage = re.findall(r"([\d.]+) m[sV]", readout.inner_text())
    assert float(time) == pytest.approx(555, abs=8)
    assert float(voltage) == pytest.approx(0.95, abs=0.03)
    article.get_by_label("Gain").select_option("20")
    assert "0.4" in readout.inner_text()
    button.click()
    assert article.locator(".caliper").count() == 0
    assert not readout.is_visible()


def test_what_moved_a_finding_is_drawn_over_the_tracing(
    visits: Any, examples: Path, predictors: dict[str, Predictor]
) -> None:
    page = visits()
    page.get_by_role("button", name="Example ECG").click()
    article = shown(page)
    assert article.locator(".moved").count() == 0
    button = article.get_by_role("button", name="Explain")
    button.click()
    sync_api.expect(button).to_have_attribute("aria-pressed", "true", timeout=30_000)
    (expected,) = predictors["arrhythmia"].explain(read(examples / "recording.hea")[0])
    bands = article.locator(".moved")
    raised = [(start, effect) for start, effect in zip(expected.starts, expected.over_time, strict=True)]
    raised = [(start, effect) for start, effect in raised if round(float(effect), 4) > 0]
    assert bands.count() == len(raised)
    for band, (start, effect) in zip(bands.all(), raised, strict=True):
        assert float(band.get_attribute("x")) == pytest.approx(10 + 25 * start)
        share = effect / max(effect for _, effect in raised)
        assert float(band.get_attribute("fill-opacity")) == pytest.approx(0.05 + 0.4 * share, abs=0.01)
    leads = [LEADS[i] for i in sorted(np.argsort(-expected.by_channel)[:3]) if expected.by_channel[i] > 0]
    named = [text.split(" ")[0] for text in article.locator("svg.paper text.moving").all_text_contents()]
    assert set(named) == set(leads)
    assert f"{expected.output} was raised most by" in article.locator(".reason").inner_text()
    article.get_by_text("12 rows").click()
    assert bands.count() == len(raised)
    button.click()
    assert bands.count() == 0
    assert not article.locator(".reason").is_visible()


def test_what_moved_the_highest_risk_is_drawn_under_the_curve(
    visits: Any, examples: Path, predictors: dict[str, Predictor]
) -> None:
    page = visits()
    page.get_by_role("button", name="Example stay").click()
    article = shown(page)
    button = article.get_by_role("button", name="Explain")
    button.click()
    sync_api.expect(button).to_have_attribute("aria-pressed", "true", timeout=30_000)
    (stay,) = read(examples / "stay.psv")
    (expected,) = predictors["sepsis"].explain(stay)
    effects = dict(zip(expected.starts, expected.over_time, strict=True))
    moved = {hour: effect for hour, effect in effects.items() if round(float(effect), 4)}
    bands = article.locator(".moved")
    assert bands.count() == len(moved)
    for band, effect in zip(bands.all(), moved.values(), strict=True):
        assert ("lowered" in band.get_attribute("class")) == (effect < 0)
        share = abs(effect) / max(map(abs, moved.values()))
        assert float(band.get_attribute("fill-opacity")) == pytest.approx(0.05 + 0.4 * share, abs=0.01)
    by_name = dict(zip(expected.channels, expected.by_channel, strict=True))
    for vital in article.locator(".vital").all():
        effect = by_name[vital.get_attribute("data-name")]
        said = vital.locator(".moving").text_content().replace("−", "-")
        assert float(said) == pytest.approx(effect, abs=0.006)
    reason = article.locator(".reason").inner_text()
    peak = int(stay.hours[np.argmax(predictors["sepsis"].predict(stay).risk)])
    assert reason.startswith(
        f"The risk of hour {peak}, the highest, was raised most by hour {max(effects, key=effects.get):.0f} ("
    )
    assert f"; {max(by_name, key=by_name.get)} (+" in reason
    assert f"; {min(by_name, key=by_name.get)} (−" in reason
    button.click()
    assert bands.count() == 0
    assert not article.locator(".reason").is_visible()


def test_one_of_several_stays_is_explained(visits: Any, examples: Path, tmp_path: Path) -> None:
    head, *rows = (examples / "stay.psv").read_text().replace("|", ",").splitlines()
    table = tmp_path / "two.csv"
    table.write_text(
        "\n".join([f"patient_id,{head}", *(f"a,{r}" for r in rows[:4]), *(f"b,{r}" for r in rows), ""])
    )
    page = visits()
    choose(page, table)
    second = shown(page, 2)
    button = second.get_by_role("button", name="Explain")
    button.click()
    sync_api.expect(button).to_have_attribute("aria-pressed", "true", timeout=30_000)
    assert second.locator(".moved").count() > 4
    assert page.locator("article.answer").first.locator(".moved").count() == 0


def test_an_explanation_that_fails_says_why(visits: Any) -> None:
    page = visits()
    page.get_by_role("button", name="Example ECG").click()
    article = shown(page)
    body = '{"code": "too_slow", "detail": "No time left."}'
    page.route(
        "**/v1/arrhythmia?explain=true*",
        lambda route: route.fulfill(status=422, content_type="application/problem+json", body=body),
    )
    article.get_by_role("button", name="Explain").click()
    sync_api.expect(article.locator(".reason")).to_contain_text("No time left.")
    assert article.locator(".moved").count() == 0


def test_one_of_several_answers_is_printed_alone(visits: Any, examples: Path, tmp_path: Path) -> None:
    page = visits()
    page.evaluate("window.print = () => { window.printed = true; }")
    choose(page, examples / "stay.psv", examples / "recording.hea", examples / "recording.dat")
    shown(page, 2)
    stay_article, ecg_article = page.locator("article.answer").all()
    stay_article.get_by_role("button", name="Print or PDF").click()
    assert page.evaluate("window.printed")
    page.emulate_media(media="print")
    assert [stay_article.is_visible(), ecg_article.is_visible()] == [True, False]
    assert not page.locator(".overview").is_visible()
    assert page.pdf(path=tmp_path / "stay.pdf", format="A4").startswith(b"%PDF")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert ecg_article.is_visible()


@pytest.mark.parametrize("look", LOOKS)
def test_no_barrier_that_axe_knows(visits: Any, examples: Path, look: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing"
    )
    page = visits(**LOOKS[look])
    empty = axe.Axe().run(page)
    assert empty.violations_count == 0, empty.generate_report()
    choose(page, examples / "stay.psv", examples / "recording.hea", examples / "recording.dat")
    shown(page, 2)
    choose(page, examples / "recording.hea")
    article = shown(page, 3)
    ecg = page.locator("article", has=page.locator("svg.paper"))
    ecg.get_by_role("button", name="Calipers").click()
    for explain in (ecg, page.locator("article", has=page.locator("figure.stay"))):
        button = explain.get_by_role("button", name="Explain")
        button.click()
        sync_api.expect(button).to_have_attribute("aria-pressed", "true", timeout=30_000)
    for summary in page.locator("summary").all():
        summary.click()
    assert article.is_visible()
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_vital_signs_are_drawn_below_the_risk(visits: Any, examples: Path) -> None:
    page = visits()
    choose(page, examples / "stay.psv")
    article = shown(page)
    with (examples / "stay.psv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="|"))
    vitals = ["HR", "O2Sat", "Temp", "SBP", "MAP", "DBP", "Resp", "EtCO2"]
    measured = [name for name in vitals if any(row[name] != "NaN" for row in rows)]
    strips = article.locator(".vital")
    assert [strip.get_attribute("data-name") for strip in strips.all()] == measured
    for strip, name in zip(strips.all(), measured, strict=True):
        points = re.findall(r"[ML][\d.]+ [\d.]+", strip.locator(".vital-line").get_attribute("d"))
        assert len(points) == sum(row[name] != "NaN" for row in rows)
    slider = article.get_by_role("slider", name="Hour")
    slider.focus()
    slider.press("Home")
    assert f"HR {rows[0]['HR']} " in article.locator(".readout").inner_text()
