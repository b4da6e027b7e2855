"""WFDB recordings: headers (:mod:`header`), signal files (:mod:`files`) and their storage formats
(:mod:`storage`), read as millivolts (:mod:`record`).
"""

from __future__ import annotations

from ibt_deploy.readers.wfdb.record import NAME, TASK, read, sniff

__all__ = ["NAME", "TASK", "read", "sniff"]
