"""Checkpoints: written atomically, and nothing else is accepted as one."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ibt_deploy.errors import DataError
from training.checkpoint import load_network, read_checkpoint, save_atomically, write_safetensors
from training.fit import part_logits
from training.tasks import open_source


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    content = {"schema": 1, "weights": torch.arange(4.0), "note": "x"}
    save_atomically(content, tmp_path / "a.pt")
    read = read_checkpoint(tmp_path / "a.pt")
    assert torch.equal(read["weights"], content["weights"])  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_broken_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    save_atomically({"schema": 1, "epoch": 1}, path)

    def half(content: Any, file: Any) -> None:
        file.write(b"PK\x03\x04 half of it")
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OSError, match="no space"):
            save_atomically({"schema": 1, "epoch": 2}, path)
    assert read_checkpoint(path)["epoch"] == 1
    save_atomically({"schema": 1, "epoch": 3}, path)
    assert read_checkpoint(path)["epoch"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half of it", b"\x80\x02K\x01."])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.pt: not a readable checkpoint") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_truncated_missing_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none.pt")
    path = tmp_path / "a.pt"
    save_atomically({"schema": 1, "weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="not a readable checkpoint"):
        read_checkpoint(path)
    for foreign in ({"schema": 2}, {"model": 1}, [1, 2]):
        torch.save(foreign, path)
        with pytest.raises(DataError, match="not a checkpoint of this version"):
            read_checkpoint(path)


class Payload:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"schema": 1, "x": Payload()}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "a.pt")
    assert "executed" not in capsys.readouterr().out


def test_a_trained_network_is_rebuilt_with_what_feeds_it(stay_teacher: Path, stays: Path) -> None:
    trained = load_network(stay_teacher)
    assert not trained.network.training
    assert (trained.recipe.task, trained.recipe.method) == ("sepsis", "teacher")
    assert (trained.n_inputs, trained.samples) == (109, 0)
    source = open_source(trained.recipe, stays)
    assert trained.cache_sha256 == source.cache.sha256
    assert trained.split_sha256 == source.split_sha256
    assert source.prepares_as(trained.preprocessing)
    logits = part_logits(trained.network, source, source.items("validation"), torch.device("cpu"))
    scores = source.selection_scores("validation", logits)
    assert scores == pytest.approx(trained.scores, abs=1e-6)
    assert not any("teacher" in k or "to_student" in k for k in torch.load(stay_teacher)["network"])


def test_safetensors_hold_the_same_network(ecg_teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    write_safetensors(read_checkpoint(ecg_teacher), out)
    pickled, plain = load_network(ecg_teacher), load_network(out)
    assert plain.recipe == pickled.recipe
    assert (plain.preprocessing, plain.scores) == (pickled.preprocessing, pickled.scores)
    expected = pickled.network.state_dict()
    assert plain.network.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in plain.network.state_dict().items())


def test_damaged_safetensors_are_refused(ecg_teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    write_safetensors(read_checkpoint(ecg_teacher), out)
    out.write_bytes(out.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a readable checkpoint"):
        load_network(out)
    safetensors.torch.save_file({"a": torch.zeros(1)}, out)
    with pytest.raises(DataError, match="not a checkpoint of this version"):
        load_network(out)
    with pytest.raises(DataError, match="no such checkpoint"):
        load_network(tmp_path / "none.safetensors")
