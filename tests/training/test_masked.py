"""Pretraining on hidden patches: what is hidden, what is learnt from, and what may follow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny import ecg_cache, tiny_recipe
from torch import Tensor, nn

from ibt_deploy.errors import DataError, RecipeError
from training.checkpoint import load_network, read_curve
from training.data.cache import open_cache
from training.distil import MaskedPatches
from training.ensemble import ensemble
from training.models.students import EcgTransformer
from training.recipe import Recipe
from training.run import add_unlabelled, train
from training.tasks import open_source
from training.tasks.ecg import EcgSource

PATCH, N_PATCHES = 20, 10
MASKED = {"student": {"patch": PATCH}, "augment": {"n_ops": 0}}


def masked_recipe(**sections: dict[str, object]) -> Recipe:
    return tiny_recipe("arrhythmia", "masked", **{**MASKED, **sections})


class Witness(EcgTransformer):
    """A network that remembers what it was shown."""

    shown: Tensor

    def segment(self, z: Tensor, start: int, stop: int) -> Tensor:
        if start == 0:
            self.shown = z
        return super().segment(z, start, stop)


@pytest.fixture
def objective() -> MaskedPatches:
    torch.manual_seed(0)
    network = Witness(n_leads=3, samples=200, patch=PATCH, dim=16, heads=2, depth=2, dropout=0.0)
    return MaskedPatches(network, 0.4).eval()


def test_whole_patches_are_hidden_in_all_leads(objective: MaskedPatches) -> None:
    signal = torch.randn(6, 3, PATCH * N_PATCHES)
    objective.error(objective.model, signal)
    shown = objective.model.shown.view(6, 3, N_PATCHES, PATCH)
    hidden = (shown == 0).all(dim=(1, 3))
    assert hidden.sum(dim=1).tolist() == [4] * 6
    assert len({tuple(row.tolist()) for row in hidden}) > 1
    kept = ~hidden[:, None, :, None].expand_as(shown)
    assert torch.equal(shown[kept], signal.view_as(shown)[kept])


def test_only_hidden_patches_count(objective: MaskedPatches) -> None:
    """With a decoder that answers 2 everywhere, the error is the mean of (2 - x)^2 over hidden samples."""
    nn.init.zeros_(objective.decoder.weight)
    nn.init.constant_(objective.decoder.bias, 2.0)
    signal = torch.randn(5, 3, PATCH * N_PATCHES)
    error = objective.error(objective.model, signal)
    hidden = objective.model.shown == 0
    assert error.item() == pytest.approx((2 - signal[hidden]).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_one_patch_is_always_hidden_and_one_shown(share: float, objective: MaskedPatches) -> None:
    objective.share = share
    objective.error(objective.model, torch.randn(4, 3, 2 * PATCH))
    shown = objective.model.shown.view(4, 3, 2, PATCH)
    assert (shown == 0).all(dim=(1, 3)).sum(dim=1).tolist() == [1] * 4


def test_pretraining_lowers_the_error_and_a_student_starts_from_it(
    ecgs: Path, ecg_teacher: Path, tmp_path: Path
) -> None:
    # pulses recur, so that hidden ones follow from the others
    best = train(masked_recipe(fit={"epochs": 12}), ecgs, tmp_path / "pretrained", device="cpu")
    errors = [record["validation"]["hidden_error"] for record in read_curve(tmp_path / "pretrained").epochs]
    assert best["validation"]["hidden_error"] == min(errors) < 0.9 * errors[0]
    start = tmp_path / "pretrained" / "best.pt"
    still = {"fit": {"lr": 1e-9, "epochs": 1, "warmup_epochs": 0}, "student": {"patch": PATCH}}
    train(
        tiny_recipe("arrhythmia", "bbm", **still),
        ecgs,
        tmp_path / "student",
        teacher=ecg_teacher,
        initial=start,
        device="cpu",
    )
    begun, first = (load_network(p).network for p in (tmp_path / "student" / "best.pt", start))
    for name, weights in first.state_dict().items():
        torch.testing.assert_close(begun.state_dict()[name], weights, atol=1e-6, rtol=0)


def test_a_resumed_pretraining_equals_an_unbroken_one(ecgs: Path, tmp_path: Path) -> None:
    recipe = masked_recipe(fit={"epochs": 3})
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
    add_unlabelled(source, masked_recipe(), [other], None)
    for part in ("validation", "test"):
        assert source.items(part).tolist() == alone.items(part).tolist()
    added = source.items("train")[len(alone.items("train")) :]
    assert len(added) == 20
    assert len(alone.items("train")) == 36  # the source that others share is as it was
    batch = source.training_batch(0, 0, added[:4])
    assert batch.known.sum() == 0
    assert source.constants.scale == open_source(masked_recipe(), ecgs).constants.scale  # type: ignore[attr-defined]


def test_what_was_learnt_from_is_recorded(ecgs: Path, tmp_path: Path) -> None:
    other = ecg_cache(tmp_path / "other", 20, seed=1, name="U")
    recipe = masked_recipe(fit={"epochs": 1})
    train(recipe, ecgs, tmp_path / "run", also=[other], device="cpu")
    assert load_network(tmp_path / "run" / "best.pt").learnt_from["also_sha256"] == open_cache(other).sha256
    with pytest.raises(DataError, match="different also_sha256"):
        train(recipe, ecgs, tmp_path / "run", device="cpu")


def test_records_of_the_test_part_cannot_be_added_by_another_cache(ecgs: Path, tmp_path: Path) -> None:
    copy = ecg_cache(tmp_path / "copy", name="C")
    with pytest.raises(DataError, match=r"also in the training cache.*C0000 as R0000"):
        train(masked_recipe(), ecgs, tmp_path / "run", also=[copy], device="cpu")


def test_a_cache_is_added_once(ecgs: Path, tmp_path: Path) -> None:
    other = ecg_cache(tmp_path / "other", 20, seed=1, name="U")
    with pytest.raises(DataError, match="also in another cache"):
        train(masked_recipe(), ecgs, tmp_path / "run", also=[other, other], device="cpu")


def test_methods_with_labels_refuse_further_recordings(ecgs: Path, tmp_path: Path) -> None:
    other = ecg_cache(tmp_path / "other", 20, seed=1, name="U")
    with pytest.raises(DataError, match="needs labels"):
        train(tiny_recipe("arrhythmia", "transformer"), ecgs, tmp_path / "run", also=[other], device="cpu")


def test_an_untrained_head_has_no_say(ecgs: Path, tmp_path: Path) -> None:
    train(masked_recipe(fit={"epochs": 1}), ecgs, tmp_path / "run", device="cpu")
    with pytest.raises(DataError, match="trained without labels"):
        ensemble([tmp_path / "run" / "best.pt"], ecgs, torch.device("cpu"))


def test_stays_have_no_patches() -> None:
    with pytest.raises(RecipeError, match="stays have none"):
        tiny_recipe("sepsis", "masked")
