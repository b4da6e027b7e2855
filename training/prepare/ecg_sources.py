"""The eight sources of the Challenge 2021: their folders' names, and where a release states a wrong gain."""

from __future__ import annotations

import re
from pathlib import PurePath

from ibt_deploy.readers.wfdb.header import Header

INCART = "st_petersburg_incart"

_FOLDERS: dict[str, str] = {
    "cpsc2018": "cpsc_2018",
    "wfdbcpsc2018": "cpsc_2018",
    "cpsc2018extra": "cpsc_2018_extra",
    "wfdbcpsc20182": "cpsc_2018_extra",
    "stpetersburgincart": INCART,
    "wfdbstpetersburg": INCART,
    "ptb": "ptb",
    "wfdbptb": "ptb",
    "ptbxl": "ptb-xl",
    "wfdbptbxl": "ptb-xl",
    "georgia": "georgia",
    "wfdbga": "georgia",
    "chapmanshaoxing": "chapman_shaoxing",
    "wfdbchapmanshaoxing": "chapman_shaoxing",
    "ningbo": "ningbo",
    "wfdbningbo": "ningbo",
}

_OFFICIAL_GAIN = 1000.0
_WRONG_GAINS: dict[str, float] = {"ptb-xl": 200.0, "georgia": 4880.0}
"""Gains per mV that early releases of the Challenge 2020 state for samples that are microvolts.

Record HR00001 of PTB-XL is labelled 'low QRS voltages': at 200 per mV its lead I would span 4.7 mV. Its first
sample, -115, is -0.115 mV in PTB-XL itself. The Georgia records concerned would be a fifth as high as others.
"""


def source_of(file: PurePath, root: PurePath) -> str:
    """The source of ``file`` (relative to ``root``): an official name, else the name of the first folder."""
    for folder in file.parts[:-1]:
        name = _FOLDERS.get(re.sub(r"[^a-z0-9]", "", folder.lower()))
        if name is not None:
            return name
    own = _FOLDERS.get(re.sub(r"[^a-z0-9]", "", root.name.lower()))
    return own or (file.parts[0] if len(file.parts) > 1 else root.name)


def corrected_gain(source: str, header: Header) -> float:
    """Factor that puts the signal of ``header``, as read, right: 1 unless its gain is known to be wrong."""
    wrong = _WRONG_GAINS.get(source)
    if wrong is None or any(signal.gain != wrong for signal in header.signals):
        return 1.0
    return wrong / _OFFICIAL_GAIN
