"""The client with the real service: the command prints the same as without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ibt_deploy import load, read
from ibt_deploy.client import Client
from ibt_deploy.errors import InputError
from ibt_deploy.records import Stay

pytest.importorskip("bentoml", reason="the service is not installed: pip install 'ibt[serve]'")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    from benchmarks.load_server import started

    with started(IBT_SERVE_DEVICE="cpu") as server:
        yield server.url


@pytest.fixture
def files(root: Path, tmp_path: Path) -> list[Path]:
    """A recording, a stay, two patients in a table of whom one is refused, and what nobody can read."""
    head, *rows = (root / "examples" / "stay.psv").read_text().replace("|", ",").splitlines()
    table, junk = tmp_path / "two.csv", tmp_path / "junk.bin"
    cells = [f"patient_id,{head}", *(f"a,{row}" for row in rows[:9]), f"b,{rows[3]}", f"b,{rows[2]}"]
    table.write_text("\n".join([*cells, ""]))
    junk.write_bytes(b"\x01\x02 nothing that is known" * 20)
    examples = [root / "examples" / name for name in ("recording.hea", "recording.dat", "stay.psv")]
    return [*examples, table, junk, tmp_path / "absent.hea"]


@pytest.mark.parametrize("form", ["--json", "--csv", "", "--json --explain", "--explain"])
def test_the_command_prints_what_it_prints_without_a_server(url: str, files: list[Path], form: str) -> None:
    chosen = [file for file in files if file.suffix not in (".hea", ".dat")] if form == "--csv" else files
    here, there = (
        predicted(chosen, *form.split(), *more) for more in (("--device", "cpu"), ("--server", url))
    )
    assert there.stdout == here.stdout
    # a server is asked file by file, so refusals come in another order
    assert sorted(there.stderr.splitlines()) == sorted(here.stderr.splitlines())
    assert there.returncode == here.returncode == 1


def test_what_a_server_does_not_explain_is_scored_and_named(url: str, root: Path, tmp_path: Path) -> None:
    head, *rows = (root / "examples" / "stay.psv").read_text().splitlines()
    assert head.endswith("|ICULOS")
    longer = tmp_path / "longer.psv"
    hours = ["|".join([*rows[hour % len(rows)].split("|")[:-1], str(hour + 1)]) for hour in range(169)]
    longer.write_text("\n".join([head, *hours, ""]))
    there = predicted([longer, root / "examples" / "stay.psv"], "--json", "--explain", "--server", url)
    first, second = map(json.loads, there.stdout.splitlines())
    assert ("explanations" in first, len(first["hours"]), len(second["explanations"])) == (False, 169, 1)
    (line,) = there.stderr.splitlines()
    assert line.startswith(f"ibt: {longer}: longer was scored but not explained: ")
    assert "168 hours" in line
    assert there.returncode == 0


def test_a_folder_counts_alike_on_a_server(url: str, root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("recording.hea", "recording.dat", "stay.psv"):
        (folder / name).write_bytes((root / "examples" / name).read_bytes())
    (folder / "LICENSE.txt").write_text("Permission is granted.\n")
    (folder / "index.csv").write_text("record,patient\na,1\n")
    here, there = (predicted([folder], "--json", *more) for more in (("--device", "cpu"), ("--server", url)))
    assert there.stdout.count("\n") == here.stdout.count("\n") == 2
    assert sorted(there.stderr.splitlines()) == sorted(here.stderr.splitlines())
    assert "2 files left out, neither an ECG nor a stay" in there.stderr
    assert there.returncode == here.returncode == 0
    (folder / "more.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    here, there = (predicted([folder], "--json", *more) for more in (("--device", "cpu"), ("--server", url)))
    assert sorted(there.stderr.splitlines()) == sorted(here.stderr.splitlines())
    assert there.returncode == here.returncode


def predicted(files: list[Path], *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ibt")), "predict", *map(str, files), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_stay_hour_by_hour_is_the_whole_stay(url: str, root: Path) -> None:
    (stay,) = read(root / "examples" / "stay.psv")
    assert isinstance(stay, Stay)
    whole = load("sepsis", device="cpu").predict(stay).to_dict()["hours"]
    found: list[dict[str, object]] = []
    state = None
    with Client(url) as client:
        for rows in np.array_split(stay.values, 8):
            step = client.next(rows, state)
            state = step.state
            found += step.prediction.to_dict()["hours"]
        with pytest.raises(InputError) as caught:
            client.next([{"ICULOS": 40.0}], state)
        assert caught.value.code
        with pytest.raises(InputError) as caught:
            client.next([{"ICULOS": 41.0}], f"{state[:-8]}AAAAAAA=" if state else None)
        assert caught.value.code == "bad_state"
    assert [h["alarm"] for h in found] == [h["alarm"] for h in whole]
    assert [h["risk"] for h in found] == pytest.approx([h["risk"] for h in whole], abs=1e-6)
