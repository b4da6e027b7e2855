"""Folders of small ECG files, as an export leaves them."""

from __future__ import annotations

from pathlib import Path

from helpers.bundles import recording, write_header


def write_export(folder: Path, count: int, seconds: float = 10.0) -> list[Path]:
    """``count`` WFDB records of 200 Hz in sub-folders of ten; returns the paths of their headers."""
    headers = []
    for number in range(count):
        place = folder / f"ward{number // 10:02d}"
        place.mkdir(parents=True, exist_ok=True)
        given = recording(seconds=seconds, rate=200.0, seed=number, record_id=f"e{number:04d}")
        headers.append(write_header(place, given))
    return headers


def bytes_of(out: Path) -> dict[str, bytes]:
    """Content of every part of a run, by name."""
    parts = [*sorted((out / "predictions").iterdir()), *sorted((out / "refused").iterdir())]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in parts}
