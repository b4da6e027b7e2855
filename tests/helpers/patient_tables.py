"""Rows of patients as hospitals export them, plain and with a mapping."""

from __future__ import annotations

HEADER = "patient_id,ICULOS,HR,O2Sat,Temp,SBP,MAP,SepsisLabel"
MEMORY_MB = 600
MAPPING = """
[table]
patient = "Fall"
decimal = ","
missing = [-1]
[time]
{time}
[columns.HR]
column = "Puls"
unit = "1/min"
[columns.O2Sat]
column = "SpO2"
unit = "%"
[columns.Temp]
column = "T"
unit = "degF"
[columns.SBP]
column = "RR"
unit = "kPa"
[columns.Creatinine]
column = "Krea"
unit = "µmol/L"
[columns.Gender]
column = "sex"
male = ["M"]
female = ["W"]
unknown = ["X"]
[unit_type]
column = "station"
medical = ["MICU"]
surgical = ["SICU"]
unknown = ["CCU"]
"""
COLUMNS = "Fall;Zeit;Aufnahme;Puls;SpO2;T;RR;Krea;sex;station"
STAMPS = """kind = "timestamp"
column = "Zeit"
format = "%d.%m.%Y %H:%M"
zone = "Europe/Berlin"
admission = "Aufnahme"
"""


def row(patient: str, hour: object, rate: object = 80) -> str:
    return f"{patient},{hour},{rate},97,37,120,80,0"
