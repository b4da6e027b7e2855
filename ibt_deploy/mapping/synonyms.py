"""Names of columns in MIMIC-IV, eICU and ricu, and in English, German, French and Spanish.

Names are compared as :func:`plain_name` spells them: lower-case letters and digits, words joined by ``_``,
umlauts written out, accents and units removed.
"""

from __future__ import annotations

import re
import unicodedata

_VARIABLES = """
HR: hr heart_rate heartrate pulse puls herzfrequenz hf pulse_rate pulsfrequenz frequence_cardiaque
  frequence_card fc pouls frecuencia_cardiaca pulso hfrequenz
O2Sat: o2sat spo2 o2_sat pulse_ox pulse_oximetry sao2_pulse saettigung o2_saettigung
  sauerstoffsaettigung spo2_value o2_saturation_pulseoxymetry oxygen_saturation
  peripheral_oxygen_saturation saturation_o2 saturation sat_o2 sato2 saturacion_o2
  saturacion_de_oxigeno saturacion spo2_pls o2_sat_pulse
Temp: temp temperature temperatur body_temperature koerpertemperatur kt tempc tempf temp_c temp_f
  temperature_c temperature_f temperature_celsius temperature_fahrenheit core_temperature
  kerntemperatur temperature_corporelle temperatura temperatura_corporal t_celsius
  core_body_temperature
SBP: sbp systolic systolic_bp sys_bp sysbp bp_sys systolic_blood_pressure systemicsystolic
  noninvasivesystolic rr_sys rrsys nibp_sys nibp_systolic abp_sys abp_systolic sbp_ni
  blutdruck_systolisch systolisch art_sys rrs rr_s rr_systolisch sysabp nisysabp pas pa_systolique
  pression_arterielle_systolique tas ta_sistolica presion_arterial_sistolica
  tension_arterial_sistolica invasive_systolic_arterial_pressure
MAP: map mbp mean_bp meanbp bp_mean mean_arterial_pressure systemicmean noninvasivemean mad
  mitteldruck rr_mad rr_mittel rrmittel nibp_mean abp_mean mbp_ni arterieller_mitteldruck art_mean
  rrm rr_m nimap mabp pam pa_moyenne pression_arterielle_moyenne tam ta_media presion_arterial_media
  tension_arterial_media
DBP: dbp diastolic diastolic_bp dias_bp diasbp bp_dia diastolic_blood_pressure systemicdiastolic
  noninvasivediastolic rr_dia rrdia nibp_dia nibp_diastolic abp_dia abp_diastolic dbp_ni
  blutdruck_diastolisch diastolisch art_dia rrd rr_d rr_diastolisch diasabp nidiasabp pad
  pa_diastolique pression_arterielle_diastolique tad ta_diastolica presion_arterial_diastolica
  tension_arterial_diastolica
Resp: resp rr resp_rate respiratory_rate respiration respiration_rate resprate af atemfrequenz
  breathing_rate fr frequence_respiratoire frecuencia_respiratoria atemfreq
EtCO2: etco2 et_co2 end_tidal_co2 endtidal_co2 etco2_mmhg co2_et petco2 co2_fin_expiration
BaseExcess: baseexcess base_excess be base_excess_ecf sbe abe basenueberschuss basenabweichung
  bga_be exces_de_base exceso_de_base exceso_bases eb basenexzess base_exces
HCO3: hco3 bicarbonate bikarbonat bicarb standardbikarbonat total_co2 hco3_standard bga_hco3 bicar
  bicarbonates bicarbonato sthco3 st_hco3 hco3_st akthco3 akt_hco3 bicarbonatos
FiO2: fio2 fi_o2 inspired_oxygen fraction_inspired_oxygen inspired_o2_fraction fio2_chartevents
  fraction_inspiree_o2 fraccion_inspirada_o2 o2_anteil
pH: ph blood_ph arterial_ph ph_wert ph_art bga_ph ph_sanguin ph_arteriel ph_arterial
PaCO2: paco2 pco2 pa_co2 p_co2 arterial_co2_pressure pco2_art bga_pco2 pco2_arteriel pco2_arterial
SaO2: sao2 sa_o2 so2 arterial_o2_saturation arterial_oxygen_saturation o2_saturation_arterial
  bga_so2 sat_o2_art so2_art
AST: ast got sgot asat aspartate_aminotransferase asparate_aminotransferase ast_sgot got_asat
  asat_got aspartat_aminotransferase got_ast sgot_ast aspartate_aminotransferase_ast tgo ast_got
BUN: bun urea_nitrogen blood_urea_nitrogen harnstoff_n harnstoff_stickstoff azote_ureique
  nitrogeno_ureico harnstoffstickstoff hst_n bun_harnstoff_n urea_n
Alkalinephos: alkalinephos alkaline_phosphatase alp alk_phos alkphos ap alkalische_phosphatase
  alkaline_phos phosphatases_alcalines pal fosfatasa_alcalina fa alk_phosphatase alkal_phosphatase
Calcium: calcium ca kalzium calcium_total total_calcium calcemie calcio kalzium_gesamt
  calcium_gesamt ca_ges ca_gesamt calcio_total calcium_ges
Chloride: chloride cl chlorid chlor chlorure chlorures chlore cloruro cloro chloremie
Creatinine: creatinine crea krea kreatinin creat serum_creatinine creatininemie creatinina kreat
Bilirubin_direct: bilirubin_direct direct_bilirubin bilirubin_direkt direktes_bilirubin
  conjugated_bilirubin bili_dir bili_direct bili_direkt bili_d bilirubine_directe
  bilirubine_conjuguee bilirrubina_directa dbil bilirubin_dir
Glucose: glucose gluc blood_glucose bedside_glucose glukose blutzucker bz serum_glucose glucose_lab
  bga_glucose glu glycemie glucosa glucemia glukosegehalt glc
Lactate: lactate lac laktat lactic_acid bga_laktat serum_lactate lact lak lactates lactato
  lactatemie lac_art
Magnesium: magnesium mg magnesium_total magnesemie magnesio
Phosphate: phosphate phosphat phosphorus po4 inorganic_phosphate phos anorganisches_phosphat
  phosphates phosphatemie phosphore fosfato fosforo anorg_phosphat phosphat_anorg
  phosphat_anorganisch
Potassium: potassium k kalium serum_potassium kaliemie potasio
Bilirubin_total: bilirubin_total total_bilirubin bilirubin bili bili_total bilirubin_gesamt
  gesamtbilirubin bilirubin_ges tbil bili_ges bili_gesamt bilirubine_totale bilirubine
  bilirrubina_total bilirrubina bili_tot
TroponinI: troponini troponin_i trop_i tropi tni hs_tni hstni ctni troponin_i_hs troponine_i
  troponina_i tnl tropi_hs hs_troponin_i
Hct: hct hematocrit haematocrit hkt haematokrit hk hematocrite hematocrito htc hte
Hgb: hgb hb hemoglobin haemoglobin haemoglobine hemoglobine hemoglobina hgl
PTT: ptt aptt partial_thromboplastin_time a_ptt tca ttpa tt_pa temps_cephaline_activee aptt_sec
WBC: wbc wbc_x_1000 white_blood_cells white_blood_cell_count leukocytes leukozyten leukos leuko
  leucocytes leuk leucocitos globules_blancs gb wcc leukozytenzahl
Fibrinogen: fibrinogen fib fibrinogen_clauss fgn fibr fibrinogene fibrinogeno
Platelets: platelets platelet_count plt platelets_x_1000 thrombozyten thrombos thrombo thr
  thrombozytenzahl plaquettes plaquetas plq plaq
Age: age alter anchor_age age_years admission_age patient_age alter_jahre edad age_ans age_annees
  alter_in_jahren
HospAdmTime: hospadmtime hosp_adm_time hospital_admission_offset hospitaladmitoffset
"""
SYNONYMS: dict[str, tuple[str, ...]] = {
    line.split(":")[0]: tuple(line.split(":")[1].split())
    for line in _VARIABLES.strip().replace("\n ", "").splitlines()
}
"""Column names of each variable."""

UREA_NAMES = (
    "urea",
    "harnstoff",
    "hst",
    "uree",
    "uremie",
    "ureum",
    "uremia",
    "serum_urea",
    "harnstoff_serum",
)
UREA_WORDS = frozenset({"urea", "harnstoff", "hst", "uree", "uremie", "ureum", "uremia"})
NITROGEN_WORDS = frozenset({"n", "nitrogen", "stickstoff", "azote", "azoe", "nitrogeno", "bun"})
"""Words of a column's name that make it urea, unless a word of the second list stands beside it."""

RELATIVES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("tnt", "trop_t", "tropt", "troponin_t", "ctnt", "hs_tnt", "hstnt", "troponine_t", "troponina_t"),
        ("TroponinI", "troponin T, another protein"),
    ),
    **dict.fromkeys(
        ("cai", "ica", "ca_ion", "calcium_ionised", "calcium_ionized", "ionized_calcium", "ionised_calcium"),
        ("Calcium", "ionised calcium, half of the total"),
    ),
    **dict.fromkeys(
        ("bili_ind", "bilirubin_indirect", "bilirubin_indirekt"), ("Bilirubin_total", "a part of it")
    ),
}
"""Names of substances close to a variable but not the same: the variable, and what they really are."""

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
    "sejour",
    "num_sejour",
    "id_sejour",
    "ipp",
    "episodio",
    "id_paciente",
    "paciente",
    "nhc",
    "admissionid",
    "id",
]
"""Best first: a stay before a patient."""

HOURS = [
    "iculos",
    "time_hours",
    "time_hour",
    "hours_since_icu_admission",
    "stunden",
    "heures",
    "horas",
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
    "date_heure",
    "horodatage",
    "fecha_hora",
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
    "abnahmezeit",
    "abnahmezeitpunkt",
    "entnahmezeit",
    "result_time",
    "collection_time",
    "storetime",
    "effectivedatetime",
    "date_prelevement",
    "datum",
    "fecha",
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
    "aufn_its",
    "its_aufn",
    "its_beginn",
    "entree_rea",
    "admission_rea",
    "date_entree_rea",
    "ingreso_uci",
    "fecha_ingreso_uci",
]
HOSPITAL_ADMISSIONS = [
    "admittime",
    "hospital_admission",
    "hospital_admit_time",
    "hospitaladmittime",
    "krankenhausaufnahme",
    "aufnahmezeitpunkt",
    "admission_time",
    "aufnahme_kh",
    "aufn_kh",
    "kh_aufnahme",
    "aufnahme_krankenhaus",
    "entree_hopital",
    "ingreso_hospital",
    "fecha_ingreso_hospital",
]
CODES = [
    "loinc",
    "loinc_code",
    "parameter",
    "code",
    "label",
    "labname",
    "analyt",
    "analyte",
    "bezeichnung",
    "messgroesse",
    "test",
    "item",
    "name",
    "parametre",
    "libelle",
    "analyse",
    "parametro",
    "determinacion",
    "prueba",
]
VALUES = [
    "valuenum",
    "value_num",
    "numeric_value",
    "value_as_number",
    "value",
    "result_value",
    "result",
    "labresult",
    "messwert",
    "wert",
    "zahlenwert",
    "ergebnis",
    "valeur",
    "resultat",
    "valor",
    "resultado",
]
UNITS = [
    "valueuom",
    "uom",
    "unit",
    "units",
    "unit_of_measure",
    "value_unit",
    "einheit",
    "einh",
    "unite",
    "unites",
    "unidad",
    "unidades",
]
"""Columns of a table with one measurement per row."""

SPECIMENS = frozenset(
    {
        *("harn", "u24", "liquor", "csf", "cerebrospinal", "lcr", "pleura", "pleural", "pleuraerguss"),
        *("ascites", "aszites", "ascite", "punktat", "drain", "drainage", "dialysat", "dialysate"),
        *("stuhl", "stool", "feces", "orina", "sputum", "synovial", "galle", "bile", "liquide"),
    }
)
"""Words by which a measurement's name says that it is not one of blood; besides those with ``urin``."""

CUFF = ("ni", "nibp", "nbp", "noninvasive", "non", "manschette", "cuff", "brassard", "manguito")
"""Words for a cuff blood pressure, which ranks behind that of an arterial line."""

SEX = ["gender", "sex", "geschlecht", "geschl", "sexe", "sexo", "genre"]
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
    "stat",
    "service",
    "unite",
    "unidad",
    "fachabteilung",
]
HOSPITALS = ["hospital", "hospitalid", "hospital_id", "site", "krankenhaus", "haus", "klinik"]
LABELS = ["sepsislabel", "sepsis_label"]

MALE = frozenset(
    {
        "m",
        "male",
        "man",
        "mann",
        "maennlich",
        "männlich",
        "h",
        "homme",
        "masculin",
        "hombre",
        "varon",
        "varón",
        "masculino",
    }
)
FEMALE = frozenset(
    {"f", "w", "female", "woman", "frau", "weiblich", "femme", "feminin", "féminin", "mujer", "femenino"}
)
MEDICAL = ("micu", "medical", "médical", "médic", "internist", "innere", "medizinisch")
SURGICAL = ("sicu", "surgical", "chirurg", "quirurg", "quirúrg", "cirug")

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
    letters = unicodedata.normalize("NFD", text)
    plain = "".join(c for c in letters if not unicodedata.combining(c)).replace("μ", "µ")
    return re.sub(r"[^a-z0-9µ]+", "_", plain).strip("_")


def means_urea(column: str) -> bool:
    """Whether a column's name means whole urea, of which the nitrogen that BUN counts is 47 % by mass."""
    words = set(plain_name(column).split("_"))
    return bool(words & UREA_WORDS) and not words & NITROGEN_WORDS


def unit_in_brackets(name: str) -> str | None:
    """The unit that a name has in brackets, e.g. ``Temp [°F]``."""
    found = re.search(r"[(\[{]\s*(.+?)\s*[)\]}]", name)
    return found.group(1) if found else None


def name_and_unit(plain: str) -> list[tuple[str, str | None]]:
    """Ways to read a plain name: whole, or as a name with a unit behind it."""
    found: list[tuple[str, str | None]] = [(plain, None)]
    for pattern, unit in UNIT_IN_NAME:
        match = re.fullmatch(rf"(.+?)_(?:{pattern})", plain)
        if match:
            found.append((match.group(1), unit))
    return found


BY_NAME: dict[str, str] = {word: variable for variable, words in SYNONYMS.items() for word in words} | (
    dict.fromkeys(UREA_NAMES, "BUN")
)
