"""A suggestion decides what names and values determine, and leaves question marks elsewhere."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ibt_deploy.errors import InputError
from ibt_deploy.mapping import parse_mapping
from ibt_deploy.mapping.suggest import suggested_mapping

ROWS = 60


def german(folder: Path) -> Path:
    header = (
        "Fallnr;Zeit;Aufnahme ITS;Puls (1/min);SpO2 [%];Temperatur [°C];RRsys;RRdia;MAD;AF;"
        "Kreatinin (µmol/l);BZ;Laktat;Hb (g/l);Geschlecht;Alter;Station;Kommentar"
    )
    units, sexes = ("MICU", "SICU", "CCU"), "MWd"
    rows = [
        f"{i % 7};{1 + i % 28:02d}.03.2021 {i % 24:02d}:15;01.03.2021 00:00;{70 + i % 30};97;"
        f"{36 + i % 3},5;120;60;80;16;{70 + i};{5 + i % 4},2;1,5;110;{sexes[i % 3]};{60 + i % 9};"
        f"{units[i % 3]};x"
        for i in range(ROWS)
    ]
    path = folder / "its.csv"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def mimic(folder: Path) -> Path:
    header = (
        "stay_id,charttime,intime,heart_rate,sbp,sbp_ni,temperature,glucose,creatinine,hemoglobin,lactate,"
        "gender"
    )
    rows = [
        f"{i % 7},2150-01-0{1 + i % 9} 0{i % 10}:00:00,2150-01-01 00:00:00,{80 + i % 9},120,118,{98 + i % 3},"
        f"{120 + i},{-1 if i % 5 == 0 else 0.9},10.1,1.4,{'MF'[i % 2]}"
        for i in range(ROWS)
    ]
    path = folder / "mimic.csv"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def test_german_names_and_units(tmp_path: Path) -> None:
    found = tomllib.loads(suggested_mapping(german(tmp_path)))
    assert found["table"] == {"patient": "Fallnr", "delimiter": ";", "decimal": ","}
    assert found["time"]["format"] == "%d.%m.%Y %H:%M"
    assert found["time"]["zone"] == "?"
    assert found["time"]["admission"] == "Aufnahme ITS"
    columns = found["columns"]
    assert columns["HR"]["column"] == "Puls (1/min)"
    assert columns["Temp"] == {"column": "Temperatur [°C]", "unit": "°C"}
    assert columns["Glucose"]["unit"] == "mmol/L"
    assert columns["Creatinine"]["unit"] == "µmol/l"
    assert columns["Gender"] == {"column": "Geschlecht", "male": ["M"], "female": ["W"]}
    assert found["unit_type"] == {"column": "Station", "medical": ["MICU"], "surgical": ["SICU"]}
    assert '"CCU"' in suggested_mapping(german(tmp_path))


def test_what_is_uncertain_is_marked_and_refused(tmp_path: Path) -> None:
    text = suggested_mapping(mimic(tmp_path))
    found = tomllib.loads(text)
    assert found["columns"]["SBP"]["column"] == "?"
    assert found["columns"]["Temp"]["unit"] == "degF"
    assert found["columns"]["Creatinine"]["unit"] == "mg/dL"
    assert '# missing = ["-1"]' in text
    with pytest.raises(InputError, match="fill it in by hand"):
        parse_mapping(text.encode())


def test_a_decided_suggestion_is_a_mapping(tmp_path: Path) -> None:
    text = suggested_mapping(mimic(tmp_path))
    text = text.replace('zone = "?"', 'zone = "fixed"').replace('column = "?"', 'column = "sbp"')
    mapping = parse_mapping(text.encode())
    assert mapping.time.formats == ("iso",)
    assert mapping.columns["SBP"].column == "sbp"


def test_day_and_month_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "us.csv"
    path.write_text("id,charttime,hr\n" + "\n".join(f"1,0{1 + i % 9}/03/2021 10:00,80" for i in range(20)))
    assert 'format = "?"' in suggested_mapping(path)


def test_strange_names_stay_valid_toml(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text('id,"heart_rate ""x""\\",ICULOS\n1,80,1\n')
    tomllib.loads(suggested_mapping(path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_bytes(b"")
    with pytest.raises(InputError):
        suggested_mapping(path)


def test_names_of_german_wards_and_pressures(tmp_path: Path) -> None:
    path = tmp_path / "its.csv"
    rows = [f"{i % 7};{1 + i // 7};80;82;{('Innere', 'Chirurgie')[i % 2]}" for i in range(ROWS)]
    path.write_text("\n".join(["Fallnr;ICULOS;HF;RR mittel;Fachabteilung", *rows]), encoding="utf-8")
    found = tomllib.loads(suggested_mapping(path))
    assert found["columns"]["MAP"]["column"] == "RR mittel"
    assert found["unit_type"]["medical"] == ["Innere"]
    assert found["unit_type"]["surgical"] == ["Chirurgie"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("Fall;HF\n1;80\n".encode("utf-16"), "UTF-16"), (b"PK\x03\x04" + bytes(500), "spreadsheet")],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "its.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        suggested_mapping(path)
    assert caught.value.code == "not_text"


def one_column(folder: Path, name: str, value: str, *, delimiter: str = ";") -> str:
    """The suggestion for a table of one measurement."""
    path = folder / "one.csv"
    rows = [f"{i % 7}{delimiter}{1 + i // 7}{delimiter}{value}" for i in range(ROWS)]
    path.write_text("\n".join([delimiter.join(("stay_id", "ICULOS", name)), *rows]), encoding="utf-8")
    return suggested_mapping(path)


@pytest.mark.parametrize(
    "name", ["Harnstoff mg/dl", "urea (mg/dL)", "Urée [mg/dl]", "HST mg/dl", "ureum_mg_dl"]
)
def test_a_name_that_means_urea_says_so(tmp_path: Path, name: str) -> None:
    text = one_column(tmp_path, name, "34")
    column = tomllib.loads(text)["columns"]["BUN"]
    assert column["substance"] == "urea"
    assert "?" not in column.values()


@pytest.mark.parametrize("name", ["Harnstoff-N mg/dl", "azote uréique (mg/dl)", "urea_nitrogen_mg_dl", "BUN"])
def test_urea_nitrogen_is_not_urea(tmp_path: Path, name: str) -> None:
    assert "substance" not in tomllib.loads(one_column(tmp_path, name, "16"))["columns"]["BUN"]


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("bicar", "HCO3"), ("glu", "Glucose"), ("lact", "Lactate"), ("fgn", "Fibrinogen"),
        ("bili_dir", "Bilirubin_direct"), ("ptt", "PTT"), ("age", "Age"), ("RRs", "SBP"), ("RRd", "DBP"),
        ("RRm", "MAP"), ("stHCO3", "HCO3"), ("SysABP", "SBP"), ("NIDiasABP", "DBP"), ("RespRate", "Resp"),
        ("Fréquence cardiaque", "HR"), ("Température (°C)", "Temp"),
        ("Créatininémie [µmol/L]", "Creatinine"), ("Plaquettes (G/L)", "Platelets"),
        ("Hémoglobine g/dl", "Hgb"), ("TCA", "PTT"), ("Globules blancs", "WBC"),
        ("Frecuencia respiratoria", "Resp"), ("Glucemia (mg/dl)", "Glucose"),
        ("Bilirrubina total", "Bilirubin_total"), ("Hematocrito %", "Hct"),
        ("Exceso de base", "BaseExcess"), ("Potasio (mmol/l)", "Potassium"),
        ("Kalium [mmol/l]", "Potassium"), ("Thrombozyten (Tsd/µl)", "Platelets"),
        ("anorg. Phosphat", "Phosphate"), ("Leuk", "WBC"), ("Lak", "Lactate"), ("Ca ges.", "Calcium"),
    ],
)  # fmt: skip
def test_names_of_laboratories_and_of_research_are_known(tmp_path: Path, name: str, variable: str) -> None:
    assert tomllib.loads(one_column(tmp_path, name, "1"))["columns"][variable]["column"] == name


@pytest.mark.parametrize(
    ("name", "variable", "what"),
    [("tnt", "TroponinI", "troponin T"), ("cai", "Calcium", "ionised"), ("TropT", "TroponinI", "troponin T")],
)
def test_another_substance_is_not_taken_for_the_variable(
    tmp_path: Path, name: str, variable: str, what: str
) -> None:
    text = one_column(tmp_path, name, "1.1")
    assert tomllib.loads(text)["columns"][variable]["column"] == "?"
    assert f'perhaps "{name}": {what}' in text


def test_french_spanish_and_short_german_names_of_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    header = "Fallnr;Zeit;AUFN_ITS;Aufnahme_KH;HF;Geschl;Stat"
    start = "01.03.2021 08:00;28.02.2021 08:00"
    rows = [f"{i % 7};02.03.2021 10:{i:02d};{start};80;{'mw'[i % 2]};MICU" for i in range(50)]
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    found = tomllib.loads(suggested_mapping(path))
    assert found["time"]["admission"] == "AUFN_ITS"
    assert found["time"]["hospital_admission"] == "Aufnahme_KH"
    assert found["columns"]["Gender"] == {"column": "Geschl", "male": ["m"], "female": ["w"]}
    assert found["unit_type"]["column"] == "Stat"
    rows = [f"a;{i / 2};80;{'hf'[i % 2]}" for i in range(50)]
    path.write_text("\n".join(["paciente;time_hours;FC;sexe", *rows]))
    found = tomllib.loads(suggested_mapping(path))
    assert found["table"]["patient"] == "paciente"
    assert found["time"] == {"kind": "hours", "column": "time_hours", "unit": "h"}
    assert found["columns"]["HR"]["column"] == "FC"
    assert found["columns"]["Gender"] == {"column": "sexe", "male": ["h"], "female": ["f"]}


def test_limits_of_measurement_are_numbers_not_codes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    cells = ["<0.5", "1.2", "n.b."]
    path.write_text("\n".join(["stay_id,ICULOS,lactate", *(f"a,{i},{cells[i % 3]}" for i in range(1, 50))]))
    assert '# missing = ["n.b."]' in suggested_mapping(path)
