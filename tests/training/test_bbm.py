"""Block-by-block matching: shapes, equations, gradients, masks, and every option of the recipe."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distil import (
    BBM,
    BlockMatching,
    FrozenTeacher,
    Transformation,
    channel_statistics,
    resize_matrix,
)
from training.models import Encoder
from training.models.students import EcgTransformer, StayTransformer
from training.models.teachers import HannunResNet, ResidualLSTM
from training.recipe import BBMRecipe
from training.tasks.base import Batch

RECIPE = BBMRecipe()
ECG_PAIRS = ((4, 2), (8, 4), (12, 6), (16, 8))
STAY_PAIRS = ((1, 1), (2, 2), (3, 3))


def shapes_of(
    student: Encoder, teacher: Encoder, pairs: tuple[tuple[int, int], ...], x: Tensor
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    with torch.no_grad():
        f = [student.matched_tokens(z) for z in student.boundary_features(x, tuple(s for _, s in pairs))]
        g = teacher.boundary_features(x, tuple(t for t, _ in pairs))
    return [((a.shape[1], a.shape[2]), (b.shape[1], b.shape[2])) for a, b in zip(f, g, strict=True)]


def matching(
    student: Encoder,
    teacher: Encoder,
    pairs: tuple[tuple[int, int], ...],
    x: Tensor,
    recipe: BBMRecipe = RECIPE,
    mask: Tensor | None = None,
) -> BlockMatching:
    stops = tuple(t for t, _ in pairs)
    statistics = channel_statistics(teacher, stops, [(x, mask)])
    frozen = FrozenTeacher(teacher, stops, statistics)
    return BlockMatching(student, frozen, pairs, shapes_of(student, teacher, pairs, x[:1]), recipe)


def ecg(
    recipe: BBMRecipe = RECIPE, pairs: tuple[tuple[int, int], ...] = ECG_PAIRS, **student: object
) -> tuple[BlockMatching, Tensor]:
    torch.manual_seed(0)
    sizes: dict[str, object] = {
        "n_leads": 3,
        "samples": 400,
        "dim": 16,
        "heads": 2,
        "mlp_ratio": 2.0,
        "dropout": 0.0,
    }
    network = EcgTransformer(**{**sizes, **student})  # type: ignore[arg-type]
    teacher = HannunResNet(n_leads=3, base_filters=4, kernel=8)
    x = torch.randn(6, 3, 400)
    return matching(network, teacher, pairs, x, recipe), x


def stay(
    recipe: BBMRecipe = RECIPE, pairs: tuple[tuple[int, int], ...] = STAY_PAIRS
) -> tuple[BlockMatching, Tensor, Tensor]:
    torch.manual_seed(0)
    network = StayTransformer(n_features=5, dim=16, heads=2, mlp_ratio=2.0, dropout=0.0)
    teacher = ResidualLSTM(n_features=5, hidden=12)
    lengths = torch.tensor([9, 4, 6])
    mask = (torch.arange(9) < lengths[:, None]).float()
    x = torch.randn(3, 9, 5) * mask[:, :, None]
    return matching(network, teacher, pairs, x, recipe, mask), x, mask


def state_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def test_shapes_of_the_full_size_maps() -> None:
    student, teacher = EcgTransformer(), HannunResNet()
    shapes = shapes_of(student.eval(), teacher.eval(), ECG_PAIRS, torch.randn(1, 12, 2000))
    assert shapes == [
        ((100, 256), (500, 32)),
        ((100, 256), (125, 64)),
        ((100, 256), (32, 128)),
        ((100, 256), (8, 256)),
    ]
    maps = [
        (Transformation(f[1], g[1], resizes=True), Transformation(g[1], f[1], resizes=True))
        for f, g in shapes
    ]
    assert [tuple(a.weight.shape) for a, _ in maps] == [(256, 32), (256, 64), (256, 128), (256, 256)]
    assert [tuple(b.weight.shape) for _, b in maps] == [(32, 256), (64, 256), (128, 256), (256, 256)]
    assert sum(p.numel() for pair in maps for h in pair for p in h.parameters()) == 245_760
    for (f, g), (to_teacher, to_student) in zip(shapes, maps, strict=True):
        assert to_teacher(torch.randn(2, *f), g[0]).shape == (2, *g)
        assert to_student(torch.randn(2, *g), f[0]).shape == (2, *f)


def test_the_first_group_has_equal_second_and_third_terms() -> None:
    model, x = ecg()
    terms = model(x)
    assert torch.equal(terms.l2[0], terms.l3[0])
    assert not torch.equal(terms.l2[1], terms.l3[1])
    single, x = ecg(pairs=ECG_PAIRS[-1:])
    alone = single(x)
    torch.testing.assert_close(3 * alone.total(RECIPE), alone.l1[0] + 2 * alone.l3[0])


def equation_terms(model: BlockMatching, x: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 2-4 of group ``n`` (from 1) written out from the paper, in standardised coordinates."""
    student, teacher = model.student, model.teacher.teacher
    stops_f, stops_g = (0, *model.stops), (0, *model.teacher.stops)

    def s(i: int) -> tuple[Tensor, Tensor]:
        mean, deviation = (
            getattr(model.teacher, f"mean_{i - 1}"),
            getattr(model.teacher, f"deviation_{i - 1}"),
        )
        return mean, deviation

    def f(i: int, z: Tensor) -> Tensor:
        return student.segment(z, stops_f[i - 1], stops_f[i])

    def g(i: int, z: Tensor) -> Tensor:
        if i > 1:
            mean, deviation = s(i - 1)
            z = z * deviation + mean
        mean, deviation = s(i)
        return (teacher.segment(z, stops_g[i - 1], stops_g[i]) - mean) / deviation

    def fg(i: int, z: Tensor) -> Tensor:
        return z if i == 0 else model.to_teacher[i - 1](z, times[i - 1][1])

    def gf(i: int, z: Tensor) -> Tensor:
        return z if i == 0 else model.to_student[i - 1](z, times[i - 1][0])

    pairs = zip(student.boundary_features(x, model.stops), model.teacher.features(x)[0], strict=True)
    times = [(of_student.shape[1], of_teacher.shape[1]) for of_student, of_teacher in pairs]
    z_f, z_g = x, x
    for i in range(1, n):
        z_f, z_g = f(i, z_f), g(i, z_g)
    l1 = (f(n, z_f) - gf(n, g(n, fg(n - 1, z_f)))).square().mean()
    l2 = (g(n, z_g) - fg(n, f(n, gf(n - 1, z_g)))).square().mean()
    l3 = (fg(n, f(n, z_f)) - g(n, z_g)).square().mean()
    return l1, l2, l3


def test_terms_equal_the_equations_written_out() -> None:
    model, x = ecg()
    terms = model(x)
    for n in range(1, 5):
        l1, l2, l3 = equation_terms(model, x, n)
        torch.testing.assert_close(terms.l1[n - 1], l1, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(terms.l2[n - 1], l2, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(terms.l3[n - 1], l3, rtol=1e-4, atol=1e-6)


def test_standardised_coordinates_leave_the_teachers_function_alone() -> None:
    model, x = ecg()
    z = x
    for n in range(4):
        z = model.teacher.group(n, z)
    mean, deviation = model.teacher.mean_3, model.teacher.deviation_3
    assert isinstance(mean, Tensor)
    assert isinstance(deviation, Tensor)
    torch.testing.assert_close(
        model.teacher.teacher.head(z * deviation + mean), model.teacher.teacher(x), rtol=1e-4, atol=1e-4
    )


def test_standardised_features_have_mean_zero_and_deviation_one() -> None:
    model, x = ecg()
    features, _ = model.teacher.features(x)
    for z in features:
        rows = z.flatten(0, 1)
        alive = rows.std(dim=0) > 0.1
        assert alive.any()
        torch.testing.assert_close(rows.mean(dim=0), torch.zeros(rows.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            rows.std(dim=0, correction=0)[alive], torch.ones(int(alive.sum())), atol=1e-3, rtol=0
        )


def test_statistics_over_batches_equal_numpys_and_are_floored() -> None:
    torch.manual_seed(0)
    teacher = ResidualLSTM(n_features=5, hidden=12, projection=False)
    with torch.no_grad():
        gates = teacher.layers[0].weight_ih_l0, teacher.layers[0].weight_hh_l0, teacher.layers[0].bias_ih_l0
        for parameter in gates:
            assert isinstance(parameter, Tensor)
            parameter.view(4, 12, -1)[:, 3] = 0
    lengths = torch.tensor([7, 3, 5])
    mask = (torch.arange(7) < lengths[:, None]).float()
    x = torch.randn(3, 7, 5)
    statistics = channel_statistics(teacher, (1, 3), [(x[:2], mask[:2]), (x[2:], mask[2:])])
    with torch.no_grad():
        features = teacher.boundary_features(x, (1, 3))
    for (mean, deviation), z in zip(statistics, features, strict=True):
        rows = np.concatenate([z[i, :n].numpy() for i, n in enumerate(lengths.tolist())]).astype(np.float64)
        expected = rows.std(axis=0)
        np.testing.assert_allclose(mean.numpy(), rows.mean(axis=0), atol=1e-6)
        floor = float(torch.from_numpy(expected).median()) * 1e-3
        np.testing.assert_allclose(deviation.numpy(), np.maximum(expected, floor), rtol=1e-4)
    assert 0 < statistics[0][1][3] < 1e-3


def test_gradient_of_the_second_equation_reaches_the_map_before_it_and_no_teacher() -> None:
    for model, x in (ecg(), stay()[:2]):
        model(x).l1[1].backward()
        to_teacher = model.to_teacher[0]
        assert isinstance(to_teacher, Transformation)
        assert to_teacher.weight.grad is not None
        assert to_teacher.weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in model.teacher.parameters())
        assert not any(p.requires_grad for p in model.teacher.parameters())


def test_every_map_and_block_is_trained_and_the_head_by_the_task_alone() -> None:
    model, x = ecg()
    model(x).total(RECIPE).backward()
    head = {id(p) for p in model.student.classifier.parameters()}  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            touched = parameter.grad is not None and bool(parameter.grad.any())
            assert touched == (id(parameter) not in head), name


def test_a_student_that_is_the_teacher_has_no_loss() -> None:
    torch.manual_seed(0)
    teacher = ResidualLSTM(n_features=5, hidden=12)
    student = copy.deepcopy(teacher)
    x = torch.randn(3, 9, 5)
    frozen = FrozenTeacher(teacher, (1, 2, 3), [(torch.zeros(12), torch.ones(12))] * 3)
    model = BlockMatching(student, frozen, STAY_PAIRS, [((9, 12), (9, 12))] * 3, RECIPE)
    with torch.no_grad():
        for h in (*model.to_teacher, *model.to_student):
            assert isinstance(h, Transformation)
            h.weight.copy_(torch.eye(12))
    terms = model(x)
    for term in (*terms.l1, *terms.l2, *terms.l3):
        assert term.item() < 1e-12


def test_a_resnet_on_both_sides_has_no_loss_either() -> None:
    torch.manual_seed(0)
    teacher = HannunResNet(n_leads=3, base_filters=4, kernel=8).eval()
    student = copy.deepcopy(teacher)
    x = torch.randn(2, 3, 400)
    pairs = tuple((i, i) for i in (4, 8, 12, 16))
    model = matching(student, teacher, pairs, x)
    student.eval()
    with torch.no_grad():
        for n, (forth, back) in enumerate(zip(model.to_teacher, model.to_student, strict=True)):
            assert isinstance(forth, Transformation)
            assert isinstance(back, Transformation)
            size = len(forth.weight)
            setattr(model.teacher, f"mean_{n}", torch.zeros(size))
            setattr(model.teacher, f"deviation_{n}", torch.ones(size))
            forth.weight.copy_(torch.eye(size))
            back.weight.copy_(torch.eye(size))
    terms = model(x)
    assert max(t.item() for t in (*terms.l1, *terms.l2, *terms.l3)) < 1e-10


def test_the_teacher_is_unchanged_after_ten_steps() -> None:
    for model, x, rows in ((*ecg(), None), stay()):
        objective = BBM(model, RECIPE)
        objective.train()
        assert not model.teacher.teacher.training
        before = state_hash(model.teacher)
        optimiser = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
        shape = (len(x), 26) if rows is None else tuple(rows.shape)
        known = torch.ones(shape) if rows is None else rows
        for _ in range(10):
            optimiser.zero_grad()
            objective.train()
            objective(Batch(x, torch.zeros(shape), known, rows), 0.0)["loss"].backward()
            optimiser.step()
        assert state_hash(model.teacher) == before


def test_evaluation_mode_survives_train_and_lstms_stay_in_training_mode() -> None:
    torch.manual_seed(0)
    teacher = ResidualLSTM(n_features=5, hidden=12, dropout=0.5)
    frozen = FrozenTeacher(teacher, (3,), [(torch.zeros(12), torch.ones(12))])
    outer = nn.ModuleList([frozen])
    for mode in (True, False):
        outer.train(mode)
        assert not teacher.training
        assert not teacher.dropout.training
        assert all(layer.training for layer in teacher.layers), "cuDNN refuses backward through others"
    x = torch.randn(2, 6, 5, requires_grad=True)
    features = frozen.group(0, x)
    assert torch.equal(features, frozen.group(0, x))
    features.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_sum_is_mean_times_elements() -> None:
    for (model, x, mask), elements in (
        ((*ecg(), None), [(20 * 16, 100 * 4), (20 * 16, 25 * 8), (20 * 16, 7 * 16), (20 * 16, 2 * 32)]),
        (stay(), [(16 * 19 / 3, 12 * 19 / 3)] * 3),
    ):
        means = model(x, mask)
        model.recipe = replace(RECIPE, reduction="sum")
        sums = model(x, mask)
        for n, (of_student, of_teacher) in enumerate(elements):
            torch.testing.assert_close(sums.l1[n], means.l1[n] * of_student)
            torch.testing.assert_close(sums.l2[n], means.l2[n] * of_teacher)
            torch.testing.assert_close(sums.l3[n], means.l3[n] * of_teacher)


def test_padded_rows_leave_the_loss_alone() -> None:
    model, x, mask = stay()
    before = model(x, mask)
    longer = torch.cat((x, 100 * torch.randn(3, 6, 5)), dim=1)
    after = model(longer, F.pad(mask, (0, 6)))
    for name in ("l1", "l2", "l3"):
        for a, b in zip(getattr(before, name), getattr(after, name), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_masked_terms_are_means_over_valid_rows() -> None:
    model, x, mask = stay()
    terms = model(x, mask)
    z_g = model.teacher.features(x)[0][0]
    z_f = model.student.segment(x, 0, 1)
    error = (model.to_teacher[0](z_f, z_f.shape[1]) - z_g).square()
    expected = sum(error[i, : int(mask[i].sum())].sum() for i in range(3)) / (mask.sum() * 12)
    torch.testing.assert_close(terms.l3[0], expected)


def test_second_pass_of_the_student_is_causal_too() -> None:
    model, x, _ = stay()
    first_hour = torch.zeros(3, 9)
    first_hour[:, 0] = 1
    before = model(x, first_hour)
    changed = x.clone()
    changed[:, 1:] = torch.randn(3, 8, 5)
    after = model(changed, first_hour)
    for name in ("l1", "l2", "l3"):
        for a, b in zip(getattr(before, name), getattr(after, name), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_one_batch_can_be_matched() -> None:
    torch.manual_seed(0)
    student = EcgTransformer(n_leads=3, samples=200, dim=32, heads=4, depth=2, mlp_ratio=2.0, dropout=0.0)
    teacher = HannunResNet(n_leads=3, base_filters=4, kernel=8, n_blocks=8)
    x = torch.randn(16, 3, 200).cumsum(dim=2) / 10
    model = matching(student, teacher, ((4, 1), (8, 2)), x)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    first = None
    for step in range(400):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 20)
        terms = model(x)
        l3 = sum(t.item() for t in terms.l3)
        first = first or l3
        if l3 < first / 10:
            return
        optimiser.zero_grad()
        terms.total(RECIPE).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    pytest.fail(f"L3 only fell from {first} to {l3}")


@pytest.mark.parametrize(("source", "target"), [(100, 500), (100, 125), (100, 101), (7, 20)])
def test_lengthening_equals_torchs_linear_interpolation(source: int, target: int) -> None:
    z = torch.randn(2, source, 3)
    expected = F.interpolate(z.transpose(1, 2), target, mode="linear", align_corners=False).transpose(1, 2)
    torch.testing.assert_close(resize_matrix(source, target) @ z, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("source", "target"), [(100, 32), (100, 8), (500, 100), (125, 100), (20, 7)])
def test_shortening_equals_torchs_adaptive_pool_unless_linear_is_asked_for(source: int, target: int) -> None:
    z = torch.randn(2, source, 3)
    pooled = F.adaptive_avg_pool1d(z.transpose(1, 2), target).transpose(1, 2)
    torch.testing.assert_close(resize_matrix(source, target) @ z, pooled, atol=1e-5, rtol=1e-5)
    linear = F.interpolate(z.transpose(1, 2), target, mode="linear", align_corners=False).transpose(1, 2)
    matrix = resize_matrix(source, target, linear_only=True)
    torch.testing.assert_close(matrix @ z, linear, atol=1e-5, rtol=1e-5)


def test_area_reads_every_token_and_plain_interpolation_only_sixteen() -> None:
    assert (resize_matrix(100, 8).sum(dim=0) > 0).all()
    assert int((resize_matrix(100, 8, linear_only=True).sum(dim=0) > 0).sum()) == 16


@pytest.mark.parametrize(("source", "target"), [((100, 6), (8, 9)), ((8, 9), (100, 6)), ((9, 4), (9, 5))])
def test_resize_and_projection_commute(source: tuple[int, int], target: tuple[int, int]) -> None:
    torch.manual_seed(0)
    h = Transformation(source[1], target[1], resizes=source[0] != target[0])
    z = torch.randn(2, *source)
    resize = resize_matrix(source[0], target[0])
    for expected in ((resize @ z) @ h.weight, resize @ (z @ h.weight)):
        torch.testing.assert_close(h(z, target[0]), expected, atol=1e-5, rtol=1e-5)
    assert h.bias is None
    torch.testing.assert_close(h(z + z, target[0]), 2 * h(z, target[0]), atol=1e-5, rtol=1e-5)


def test_bias_of_the_maps_is_an_option() -> None:
    model, x = ecg(replace(RECIPE, h_bias=True))
    biases = [h.bias for h in (*model.to_teacher, *model.to_student)]
    assert all(isinstance(b, Tensor) and not b.any() for b in biases)
    model(x).total(RECIPE).backward()
    assert all(isinstance(b, Tensor) and b.grad is not None for b in biases)


def test_detached_inputs_keep_the_first_term_local_to_its_block() -> None:
    for detached in (False, True):
        model, x = ecg(replace(RECIPE, detach_block_inputs=detached))
        model(x).l1[2].backward()
        reached = [
            any(p.grad is not None and bool(p.grad.any()) for p in block.parameters())
            for block in model.student.blocks  # type: ignore[union-attr]
        ]
        assert reached == [not detached] * 4 + [True] * 2 + [False] * 2
        plain, _ = ecg()
        torch.testing.assert_close(model(x).l1[2], plain(x).l1[2], rtol=1e-5, atol=1e-6)


def test_layer_normalised_first_term_does_not_see_the_scale_of_the_features() -> None:
    model, x = ecg(replace(RECIPE, l1_norm="layernorm"))
    z_f = model.student.boundary_features(x, model.stops)
    seen = model.teacher.features(x)[0][0]
    expected = (F.layer_norm(z_f[0], (16,)) - model.to_student[0](seen, z_f[0].shape[1])).square().mean()
    torch.testing.assert_close(model(x).l1[0], expected)


@pytest.mark.parametrize("readout", ["mean", "cls"])
def test_class_tokens_are_not_matched(readout: str) -> None:
    model, x = ecg(readout=readout)
    terms = model(x)
    assert [tuple(z.shape) for z in terms.student_features] == [(6, 20, 16)] * 4
    torch.testing.assert_close(terms.student_logits, model.student(x))


def test_logits_are_those_of_the_networks() -> None:
    model, x, mask = stay()
    terms = model(x, mask)
    torch.testing.assert_close(terms.student_logits, model.student(x))
    torch.testing.assert_close(terms.teacher_logits, model.teacher.teacher(x))


def test_weights_of_terms_and_groups() -> None:
    model, x = ecg()
    terms = model(x)
    recipe = replace(RECIPE, w1=0.5, w2=2.0, w3=0.0, group_weights=(1.0, 0.0, 3.0, 1.0))
    expected = torch.zeros(())
    for weight, l1, l2 in zip(recipe.group_weights, terms.l1, terms.l2, strict=True):
        expected = expected + weight * (0.5 * l1 + 2 * l2)
    torch.testing.assert_close(terms.total(recipe), expected / 12)
    everything = sum(terms.l1) + sum(terms.l2) + sum(terms.l3)
    torch.testing.assert_close(terms.total(RECIPE), torch.as_tensor(everything) / 12)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_grouping_changes_the_loss_and_not_the_networks(n: int) -> None:
    pairs = tuple((16 // n * i, 8 // n * i) for i in range(1, n + 1))
    model, x = ecg(pairs=pairs)
    full, _ = ecg()
    terms = model(x)
    assert len(terms.l1) == len(model.to_teacher) == len(model.to_student) == n
    torch.testing.assert_close(terms.student_logits, full(x).student_logits)
    assert sum(p.numel() for p in model.student.parameters()) == sum(
        p.numel() for p in full.student.parameters()
    )


def test_drawn_groups_leave_the_expected_loss_as_it_is() -> None:
    model, x = ecg()
    sampled, _ = ecg(replace(RECIPE, groups_per_step=1))
    sampled.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    whole = model(x)
    totals = []
    for _ in range(60):
        terms = sampled(x)
        later = [n for n in range(1, 4) if float(terms.l1[n].detach())]
        assert len(later) == 1
        n = later[0]
        torch.testing.assert_close(terms.l1[n], 3 * whole.l1[n])
        torch.testing.assert_close(terms.l2[n], 3 * whole.l2[n])
        torch.testing.assert_close(terms.l3, whole.l3)
        totals.append(float(terms.total(RECIPE).detach()))
    assert len(set(totals)) == 3
    seen = sorted(set(totals))
    assert sum(seen) / 3 == pytest.approx(float(whole.total(RECIPE).detach()), rel=1e-5)
    assert not sampled.eval()(x).l1[1].detach().eq(0)


def test_crops_are_matched_without_padding() -> None:
    model, x = ecg()
    cut = x[..., :260]
    terms = model(cut)
    assert [z.shape[1] for z in terms.student_features] == [13] * 4
    for n in range(1, 5):
        for found, expected in zip(
            (terms.l1[n - 1], terms.l2[n - 1], terms.l3[n - 1]), equation_terms(model, cut, n), strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_floor_of_the_deviations_is_a_share_of_the_groups_median() -> None:
    teacher, x = ResidualLSTM(n_features=5, hidden=12), torch.randn(4, 9, 5)
    (_, loose), (_, tight) = (
        channel_statistics(teacher, (3,), [(x, None)], floor)[0] for floor in (1e-3, 1.0)
    )
    torch.testing.assert_close(tight, loose.clamp(min=float(loose.median())))
