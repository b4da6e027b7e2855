"""Pretraining on hidden patches: what is hidden, what is learnt from, and what may follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.tiny import ecg_cache, ids_of, seal, tiny_recipe
from torch import Tensor, nn

from ibt_deploy.errors import DataError, RecipeError
from training.checkpoint import load_network, read_curve
from training.data.cache import open_cache
from training.distil import MaskedPatches, hidden_errors
from training.ensemble import CrossFit, ensemble
from training.fit import Fit
from training.models.students import EcgMasked
from training.recipe import Recipe
from training.run import add_unlabelled, train
from training.tasks import open_source
from training.tasks.base import Batch
from training.tasks.ecg import EcgCohort, EcgSource

PATCH, N_PATCHES = 20, 10
MASKED = {"student": {"patch": PATCH}, "augment": {"n_ops": 0}}


def masked_recipe(**sections: dict[str, object]) -> Recipe:
    return tiny_recipe("arrhythmia", "masked", **{**MASKED, **sections})


class Witness(EcgMasked):
    """A network that remembers what it was shown."""

    shown: Tensor

    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        if start == 0:
            self.shown = z
        return super().segment(z, start, stop)


@pytest.fixture
def network() -> Witness:
    torch.manual_seed(0)
    return Witness(n_leads=3, samples=200, patch=PATCH, dim=16, heads=2, depth=2, dropout=0.0).eval()


def test_patches_of_single_leads_are_hidden(network: Witness) -> None:
    signal = torch.randn(6, 3, PATCH * N_PATCHES)
    errors, marked = hidden_errors(network, signal, 0.4)
    shown = network.shown.view(6, 3, N_PATCHES, PATCH)
    hidden = (shown == 0).all(dim=3)
    assert hidden.sum(dim=(1, 2)).tolist() == [12] * 6
    assert len({tuple(one.flatten().tolist()) for one in hidden}) > 1
    assert torch.equal(marked, hidden)
    assert errors.shape == shown.shape
    assert torch.equal(shown[~hidden], signal.view_as(shown)[~hidden])


def test_answers_stand_where_the_patches_do(network: Witness) -> None:
    """A decoder that answers its own place: lead, then sample of the patch."""
    nn.init.zeros_(network.decoder.weight)
    with torch.no_grad():
        network.decoder.bias.copy_(torch.arange(3.0 * PATCH))
    signal = torch.arange(3.0 * PATCH).view(1, 3, 1, PATCH).expand(1, 3, N_PATCHES, PATCH).flatten(2)
    errors, _ = hidden_errors(network, signal, 0.4)
    assert errors.max() == 0


def test_only_hidden_patches_count(network: Witness) -> None:
    """With a decoder that answers 2 everywhere, the loss is the mean of (2 - x)^2 over hidden samples."""
    nn.init.zeros_(network.decoder.weight)
    nn.init.constant_(network.decoder.bias, 2.0)
    signal = torch.randn(5, 3, PATCH * N_PATCHES)
    batch = Batch(signal, torch.zeros(5, 26), torch.zeros(5, 26), None)
    loss = MaskedPatches(network, 0.4)(batch, 0.0)["loss"]
    hidden = network.shown == 0
    assert loss.item() == pytest.approx((2 - signal[hidden]).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.999, 5)])
def test_one_patch_is_always_hidden_and_one_shown(share: float, count: int, network: Witness) -> None:
    _, hidden = hidden_errors(network, torch.randn(4, 3, 2 * PATCH), share)
    assert hidden.sum(dim=(1, 2)).tolist() == [count] * 4


def test_hidden_patches_are_inferred_from_the_others(network: Witness) -> None:
    """Every ECG is one number throughout; an answer that ignores the shown patches has an error of 1."""
    objective = MaskedPatches(network.train(), 0.4)
    optimiser = torch.optim.Adam(objective.parameters(), lr=3e-3)
    for _ in range(150):
        signal = torch.randn(16, 1, 1).expand(16, 3, PATCH * N_PATCHES)
        loss = objective(Batch(signal, torch.zeros(16, 26), torch.zeros(16, 26), None), 0.0)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


def test_a_student_starts_from_a_pretrained_network(ecgs: Path, ecg_teacher: Path, tmp_path: Path) -> None:
    recipe = masked_recipe(fit={"epochs": 6, "ema": 0.5})
    best = train(recipe, ecgs, tmp_path / "pretrained", device="cpu")
    errors = [record["validation"]["hidden_error"] for record in read_curve(tmp_path / "pretrained").epochs]
    assert best["validation"]["hidden_error"] == min(errors) < errors[0]
    start = tmp_path / "pretrained" / "best.pt"
    still = {"fit": {"lr": 1e-9, "epochs": 1, "warmup_epochs": 0}, "student": {"patch": PATCH}}
    out = tmp_path / "student"
    student = tiny_recipe("arrhythmia", "bbm", **still)
    train(student, ecgs, out, teacher=ecg_teacher, initial=start, device="cpu")
    begun, first = (load_network(p).network.state_dict() for p in (out / "best.pt", start))
    assert begun.keys() == {name for name in first if not name.startswith("decoder.")}
    for name, weights in begun.items():
        torch.testing.assert_close(weights, first[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("select", "kept"), [("last", 3), ("auroc", 1)])
def test_the_epoch_with_the_least_error_or_the_last_is_kept(
    select: str, kept: int, ecgs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([0.5, 0.7, 0.6])
    monkeypatch.setattr(Fit, "_hidden_error", lambda *_: next(errors))
    best = train(masked_recipe(fit={"epochs": 3, "select": select}), ecgs, tmp_path / "run", device="cpu")
    assert best["epoch"] + 1 == kept


def test_a_resumed_pretraining_equals_an_unbroken_one(ecgs: Path, tmp_path: Path) -> None:
    recipe = masked_recipe(fit={"epochs": 3, "ema": 0.9})
    train(recipe, ecgs, tmp_path / "unbroken", device="cpu")
    train(recipe, ecgs, tmp_path / "resumed", device="cpu", keep_going=lambda history: len(history) < 2)
    train(recipe, ecgs, tmp_path / "resumed", device="cpu")
    first, second = (load_network(tmp_path / name / "best.pt") for name in ("unbroken", "resumed"))
    assert first.scores == second.scores
    for name, weights in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], weights)


def test_further_recordings_join_the_training_part_alone(ecgs: Path, tmp_path: Path) -> None:
    other = ecg_cache(tmp_path / "other", 20, seed=1, name="U")
    source, alone = (open_source(masked_recipe(), ecgs) for _ in range(2))
    assert isinstance(source, EcgSource)
    assert isinstance(alone, EcgSource)
    add_unlabelled(source, masked_recipe(), [other])
    for part in ("validation", "test"):
        assert source.items(part).tolist() == alone.items(part).tolist()
    added = source.items("train")[len(alone.items("train")) :]
    theirs = EcgCohort(open_cache(other), None).signals(None)
    assert len(added) == len(theirs)
    for item, signal in zip(added, theirs, strict=True):
        assert np.array_equal(source.signals[item], signal)
    assert source.training_batch(0, 0, added[:4]).known.sum() == 0
    assert source.constants == alone.constants
    # the source that others share is as it was
    assert (len(alone.signals), len(alone.labels), len(alone.items("train"))) == (60, 60, 36)


def test_what_was_learnt_from_is_recorded_and_handed_on(ecgs: Path, tmp_path: Path) -> None:
    other = ecg_cache(tmp_path / "other", 20, seed=1, name="U")
    recipe = masked_recipe(fit={"epochs": 1})
    train(recipe, ecgs, tmp_path / "run", also=[other], device="cpu")
    start, sha256 = tmp_path / "run" / "best.pt", open_cache(other).sha256
    assert load_network(start).learnt_from["also_sha256"] == sha256
    with pytest.raises(DataError, match="different also_sha256"):
        train(recipe, ecgs, tmp_path / "run", device="cpu")
    student = tiny_recipe("arrhythmia", "transformer", student={"patch": PATCH}, fit={"epochs": 1})
    train(student, ecgs, tmp_path / "student", initial=start, device="cpu")
    assert load_network(tmp_path / "student" / "best.pt").learnt_from["also_sha256"] == sha256
    with pytest.raises(DataError, match="keeps for validation or test"):
        train(student, other, tmp_path / "there", initial=start, device="cpu")


def test_sites_kept_for_an_external_test_must_not_have_been_learnt_from(ecgs: Path, tmp_path: Path) -> None:
    train(masked_recipe(fit={"epochs": 1}), ecgs, tmp_path / "run", device="cpu")
    one = tiny_recipe("arrhythmia", "transformer", student={"patch": PATCH}, data={"sites": ["one"]})
    with pytest.raises(DataError, match="keeps for an external test"):
        train(one, ecgs, tmp_path / "one", initial=tmp_path / "run" / "best.pt", device="cpu")
    train(masked_recipe(fit={"epochs": 1}, data={"sites": ["one"]}), ecgs, tmp_path / "own", device="cpu")
    train(one, ecgs, tmp_path / "one", initial=tmp_path / "own" / "best.pt", device="cpu")


def test_every_epoch_is_judged_on_the_same_hidden_patches(ecgs: Path, tmp_path: Path) -> None:
    recipe = masked_recipe(fit={"epochs": 2, "lr": 1e-12})
    train(recipe, ecgs, tmp_path / "run", device="cpu")
    first, second = (e["validation"]["hidden_error"] for e in read_curve(tmp_path / "run").epochs)
    assert first == pytest.approx(second, rel=1e-6)


def test_what_a_teacher_has_learnt_from_is_handed_on(ecgs: Path, ecg_teacher: Path, tmp_path: Path) -> None:
    content = torch.load(ecg_teacher, weights_only=True)
    content["learnt_from"] = {"also_sha256": "ab" * 32}
    torch.save(content, tmp_path / "teacher.pt")
    student = tiny_recipe("arrhythmia", "bbm", fit={"epochs": 1})
    train(student, ecgs, tmp_path / "run", teacher=tmp_path / "teacher.pt", device="cpu")
    assert load_network(tmp_path / "run" / "best.pt").also_learnt_from == ["ab" * 32]


def test_a_copy_of_a_test_recording_cannot_be_added_under_another_name(ecgs: Path, tmp_path: Path) -> None:
    copy = ecg_cache(tmp_path / "copy", name="C")
    index = pd.read_csv(copy / "index.csv")
    kept = index[index["record"].str[1:].isin({name[1:] for name in ids_of(copy, "test")})]
    labels = np.load(copy / "labels.npy")[kept.index]
    (copy / "split.csv").unlink()
    np.save(copy / "labels.npy", labels)
    kept.to_csv(copy / "index.csv", index=False)
    seal(copy, "arrhythmia", "ecg", len(kept))
    with pytest.raises(DataError, match=r"12 of its records are also in .*C0008 as R0008"):
        train(masked_recipe(), ecgs, tmp_path / "run", also=[copy], device="cpu")


@pytest.mark.parametrize(
    ("columns", "first"),
    [
        # recordings 8 and 9 of the first cache are in its test part, and are the group g4
        ({"group": ["u"] * 5 + ["g4"] + ["u"] * 14}, "U0005"),
        ({"source": ["three"] * 7 + ["ptb-xl"] * 13}, "U0007"),
    ],
)
def test_other_recordings_of_test_patients_cannot_be_added(
    columns: dict[str, list[str]], first: str, tmp_path: Path
) -> None:
    """Neither where the patient is named, nor where the source does not say who it is."""
    ours, other = ecg_cache(tmp_path / "ours"), ecg_cache(tmp_path / "other", 20, seed=1, name="U")
    for cache, changed in (
        (ours, {"source": "ptb-xl", "fold": "1"} if "source" in columns else {}),
        (other, columns),
    ):
        index = pd.read_csv(cache / "index.csv", dtype=str)
        index.assign(**changed).to_csv(cache / "index.csv", index=False)
        seal(cache, "arrhythmia", "ecg", len(index))
    with pytest.raises(DataError, match=f"keeps for validation or test, such as {first}"):
        train(masked_recipe(), ours, tmp_path / "run", also=[other], device="cpu")


def test_a_recording_is_added_once(ecgs: Path, tmp_path: Path) -> None:
    first = ecg_cache(tmp_path / "first", 20, seed=1, name="U")
    second = ecg_cache(tmp_path / "second", 20, seed=1, name="V")
    with pytest.raises(DataError, match="V0000 as U0000"):
        train(masked_recipe(), ecgs, tmp_path / "run", also=[first, second], device="cpu")


def test_methods_with_labels_refuse_further_recordings(ecgs: Path, tmp_path: Path) -> None:
    other = ecg_cache(tmp_path / "other", 20, seed=1, name="U")
    with pytest.raises(DataError, match="needs labels"):
        train(tiny_recipe("arrhythmia", "transformer"), ecgs, tmp_path / "run", also=[other], device="cpu")


def test_an_untrained_head_has_no_say(ecgs: Path, tmp_path: Path) -> None:
    train(masked_recipe(fit={"epochs": 1}), ecgs, tmp_path / "run", device="cpu")
    with pytest.raises(DataError, match="trained without labels"):
        ensemble([tmp_path / "run" / "best.pt"], ecgs, torch.device("cpu"))


def test_masked_networks_are_not_cross_fitted(ecgs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cross-fitted"):
        ensemble([], ecgs, torch.device("cpu"), cross_fit=CrossFit(masked_recipe(), tmp_path / "folds"))


def test_stays_have_no_patches() -> None:
    with pytest.raises(RecipeError, match="stays have none"):
        tiny_recipe("sepsis", "masked")
