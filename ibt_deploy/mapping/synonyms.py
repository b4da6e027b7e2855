"""What hospitals call the columns: names of MIMIC-IV, eICU, of English and of German systems.

Names are compared as :func:`plain_name` spells them: small letters and digits, words joined by ``_``, umlauts
written out, units cut off.
"""

from __future__ import annotations

import re

_VARIABLES = """
HR: hr heart_rate heartrate pulse puls herzfrequenz hf pulse_rate pulsfrequenz
O2Sat: o2sat spo2 o2_sat pulse_ox pulse_oximetry sao2_pulse saettigung o2_saettigung
  sauerstoffsaettigung spo2_value o2_saturation_pulseoxymetry oxygen_saturation
  peripheral_oxygen_saturation
Temp: temp temperature temperatur body_temperature koerpertemperatur kt tempc tempf temp_c temp_f
  temperature_c temperature_f temperature_celsius temperature_fahrenheit core_temperature kerntemperatur
SBP: sbp systolic systolic_bp sys_bp sysbp bp_sys systolic_blood_pressure systemicsystolic
  noninvasivesystolic rr_sys rrsys nibp_sys nibp_systolic abp_sys abp_systolic sbp_ni
  blutdruck_systolisch systolisch art_sys
MAP: map mbp mean_bp meanbp bp_mean mean_arterial_pressure systemicmean noninvasivemean mad mitteldruck
  rr_mad rr_mittel rrmittel nibp_mean abp_mean mbp_ni arterieller_mitteldruck art_mean
DBP: dbp diastolic diastolic_bp dias_bp diasbp bp_dia diastolic_blood_pressure systemicdiastolic
  noninvasivediastolic rr_dia rrdia nibp_dia nibp_diastolic abp_dia abp_diastolic dbp_ni
  blutdruck_diastolisch diastolisch art_dia
Resp: resp rr resp_rate respiratory_rate respiration respiration_rate resprate af atemfrequenz
  breathing_rate
EtCO2: etco2 et_co2 end_tidal_co2 endtidal_co2
BaseExcess: baseexcess base_excess be base_excess_ecf sbe abe basenueberschuss basenabweichung bga_be
HCO3: hco3 bicarbonate bikarbonat bicarb standardbikarbonat total_co2 hco3_standard bga_hco3
FiO2: fio2 fi_o2 inspired_oxygen fraction_inspired_oxygen inspired_o2_fraction fio2_chartevents
pH: ph blood_ph arterial_ph ph_wert ph_art bga_ph
PaCO2: paco2 pco2 pa_co2 p_co2 arterial_co2_pressure pco2_art bga_pco2
SaO2: sao2 sa_o2 so2 arterial_o2_saturation arterial_oxygen_saturation o2_saturation_arterial bga_so2
AST: ast got sgot asat aspartate_aminotransferase asparate_aminotransferase ast_sgot got_asat asat_got
BUN: bun urea_nitrogen blood_urea_nitrogen urea harnstoff harnstoff_n harnstoff_stickstoff
Alkalinephos: alkalinephos alkaline_phosphatase alp alk_phos alkphos ap alkalische_phosphatase
  alkaline_phos
Calcium: calcium ca kalzium calcium_total total_calcium
Chloride: chloride cl chlorid
Creatinine: creatinine crea krea kreatinin creat serum_creatinine
Bilirubin_direct: bilirubin_direct direct_bilirubin bilirubin_direkt direktes_bilirubin
  conjugated_bilirubin
Glucose: glucose gluc blood_glucose bedside_glucose glukose blutzucker bz serum_glucose glucose_lab
  bga_glucose
Lactate: lactate lac laktat lactic_acid bga_laktat serum_lactate
Magnesium: magnesium mg magnesium_total
Phosphate: phosphate phosphat phosphorus po4 inorganic_phosphate phos anorganisches_phosphat
Potassium: potassium k kalium serum_potassium
Bilirubin_total: bilirubin_total total_bilirubin bilirubin bili bili_total bilirubin_gesamt
  gesamtbilirubin bilirubin_ges tbil
TroponinI: troponini troponin_i trop_i tropi tni hs_tni hstni ctni troponin_i_hs
Hct: hct hematocrit haematocrit hkt haematokrit
Hgb: hgb hb hemoglobin haemoglobin haemoglobine
PTT: ptt aptt partial_thromboplastin_time a_ptt
WBC: wbc wbc_x_1000 white_blood_cells white_blood_cell_count leukocytes leukozyten leukos leuko
  leucocytes
Fibrinogen: fibrinogen fib fibrinogen_clauss
Platelets: platelets platelet_count plt platelets_x_1000 thrombozyten thrombos thrombo
Age: age alter anchor_age age_years admission_age patient_age alter_jahre
HospAdmTime: hospadmtime hosp_adm_time hospital_admission_offset hospitaladmitoffset
"""
SYNONYMS: dict[str, tuple[str, ...]] = {
    line.split(":")[0]: tuple(line.split(":")[1].split())
    for line in _VARIABLES.strip().replace("\n ", "").splitlines()
}
"""Names of the columns of each variable."""

PATIENT = [
    "stay_id",
    "icustay_id",
    "patientunitstayid",
    "fallnummer",
    "fallnr",
    "fall_id",
    "fall",
    "patient_id",
    "patientid",
    "pid",
    "pat_id",
    "subject_id",
    "hadm_id",
    "encounter_id",
    "encounterid",
    "case_id",
    "patientennummer",
    "patient",
    "patnr",
    "mrn",
    "id",
]
"""Best first: a stay, then a patient."""

HOURS = [
    "iculos",
    "hour",
    "stunde",
    "hours",
    "icu_hour",
    "hr_since_admission",
    "hours_since_admission",
    "icu_los_hours",
]
OFFSETS = ["observationoffset", "labresultoffset", "offset", "minutes_since_admission"]
TIMES = [
    "charttime",
    "chart_time",
    "timestamp",
    "datetime",
    "date_time",
    "time",
    "zeit",
    "zeitpunkt",
    "zeitstempel",
    "datum_uhrzeit",
    "messzeit",
    "observation_time",
    "recorded_time",
    "measured_at",
    "datum",
]
ADMISSIONS = [
    "intime",
    "icu_intime",
    "icu_admission",
    "icu_admission_time",
    "icu_admit_time",
    "aufnahme_its",
    "its_aufnahme",
    "icu_aufnahme",
    "unitadmittime",
    "icu_start",
]
HOSPITAL_ADMISSIONS = [
    "admittime",
    "hospital_admission",
    "hospital_admit_time",
    "hospitaladmittime",
    "krankenhausaufnahme",
    "aufnahmezeitpunkt",
    "admission_time",
]
SEX = ["gender", "sex", "geschlecht"]
UNIT_TYPES = [
    "first_careunit",
    "careunit",
    "unittype",
    "unit_type",
    "icu_type",
    "unit",
    "icu",
    "ward",
    "station",
    "fachabteilung",
]
HOSPITALS = ["hospital", "hospitalid", "hospital_id", "site", "krankenhaus", "haus", "klinik"]
LABELS = ["sepsislabel", "sepsis_label"]

MALE = frozenset({"m", "male", "man", "mann", "maennlich", "männlich"})
FEMALE = frozenset({"f", "w", "female", "woman", "frau", "weiblich"})
MEDICAL = ("micu", "medical", "internist", "innere", "medizinisch")
SURGICAL = ("sicu", "surgical", "chirurg")

UNIT_IN_NAME: tuple[tuple[str, str], ...] = (
    (r"mmol_?(?:per_?)?l", "mmol/L"),
    (r"(?:u|µ|mc|micro)mol_?(?:per_?)?l", "umol/L"),
    (r"mg_?(?:per_?)?dl", "mg/dL"),
    (r"mg_?(?:per_?)?l", "mg/L"),
    (r"g_?(?:per_?)?dl", "g/dL"),
    (r"g_?(?:per_?)?l", "g/L"),
    (r"ng_?(?:per_?)?ml", "ng/mL"),
    (r"ng_?(?:per_?)?l", "ng/L"),
    (r"pg_?(?:per_?)?ml", "pg/mL"),
    (r"i?u_?(?:per_?)?l", "U/L"),
    (r"(?:u|µ)kat_?(?:per_?)?l", "ukat/L"),
    (r"meq_?(?:per_?)?l", "mEq/L"),
    (r"kpa", "kPa"),
    (r"mm_?hg", "mmHg"),
    (r"(?:deg_?)?c|celsius|grad_c", "degC"),
    (r"(?:deg_?)?f|fahrenheit", "degF"),
    (r"percent|pct|prozent", "%"),
    (r"fraction|frac|l_l", "fraction"),
    (r"x_1000|k_ul|tsd_ul|g_l|giga_l|10_?[39]_(?:u?l)", "10^3/uL"),
    (r"years|jahre", "years"),
    (r"months|monate", "months"),
    (r"bpm", "beats/min"),
    (r"sec|s|sek", "s"),
)
"""Units as they end a column's name, after the other words."""


def plain_name(name: str) -> str:
    """A column's name for comparison, without a unit in brackets."""
    text = re.sub(r"[(\[{].*?[)\]}]", " ", name)
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", text).casefold()
    for umlaut, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss"), ("₂", "2")):
        text = text.replace(umlaut, letters)
    return re.sub(r"[^a-z0-9µ]+", "_", text).strip("_")


def unit_in_brackets(name: str) -> str | None:
    """The unit that a name has in brackets, e.g. ``Temp [°F]``."""
    found = re.search(r"[(\[{]\s*(.+?)\s*[)\]}]", name)
    return found.group(1) if found else None


def name_and_unit(plain: str) -> list[tuple[str, str | None]]:
    """How a plain name can be understood: whole, or as a name with a unit behind it."""
    found: list[tuple[str, str | None]] = [(plain, None)]
    for pattern, unit in UNIT_IN_NAME:
        match = re.fullmatch(rf"(.+?)_(?:{pattern})", plain)
        if match:
            found.append((match.group(1), unit))
    return found


BY_NAME: dict[str, str] = {word: variable for variable, words in SYNONYMS.items() for word in words}
