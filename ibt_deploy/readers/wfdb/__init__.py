"""WFDB recordings: headers, storage formats of signal files, and records read as millivolts."""

from __future__ import annotations

from ibt_deploy.readers.wfdb.record import NAME, TASK, read, sniff

__all__ = ["NAME", "TASK", "read", "sniff"]
