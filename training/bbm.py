"""Block-by-block matching: the three terms of Lee, Kwon and Jo, Eq. 1-4.

For group ``n`` with student ``f``, teacher ``g`` and transformations ``h`` (Eq. 1)::

    L1_n = || f_n(z_f) - h_gf_n(g_n(h_fg_{n-1}(z_f))) ||^2     on the student's inputs     (Eq. 2)
    L2_n = || g_n(z_g) - h_fg_n(f_n(h_gf_{n-1}(z_g))) ||^2     on the teacher's inputs     (Eq. 3)
    L3_n = || h_fg_n(f_n(...f_1(x))) - g_n(...g_1(x)) ||^2     on the way from the input   (Eq. 4)

``z_0 = x`` for both and ``h_0`` is the identity, so stem and embedding belong to group 1 and ``L2_1 = L3_1``.
The maps ``h`` exist in training only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.encoder import Encoder
from training.recipe import BBMRecipe
from training.reduction import masked_mean

Boundaries = tuple[tuple[int, int], ...]


def resize_matrix(source: int, target: int, *, linear_only: bool = False) -> Tensor:
    """Matrix ``(target, source)`` that resizes time.

    Lengthening interpolates linearly between half-pixel centres. Shortening averages areas, because plain
    interpolation would leave most source steps unread; ``linear_only`` does it all the same (ablation).
    """
    identity = torch.eye(source).unsqueeze(0)
    if target > source or linear_only:
        resized = F.interpolate(identity, size=target, mode="linear", align_corners=False)
    else:
        resized = F.adaptive_avg_pool1d(identity, target)
    return resized[0].T.contiguous()


class Transformation(nn.Module):
    """Eq. 1, ``h(z) = I(z) W``: resize time, project depth; ``(batch, t, d)`` to ``(batch, t', d')``."""

    resize: Tensor | None

    def __init__(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        *,
        bias: bool = False,
        linear_only: bool = False,
    ) -> None:
        super().__init__()
        self.shortens = target[0] < source[0]
        matrix = (
            None if target[0] == source[0] else resize_matrix(source[0], target[0], linear_only=linear_only)
        )
        self.register_buffer("resize", matrix, persistent=False)
        self.weight = nn.Parameter(torch.empty(source[1], target[1]))
        self.bias = nn.Parameter(torch.zeros(target[1])) if bias else None
        nn.init.xavier_uniform_(self.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Resize and project, whichever order costs less (they commute)."""
        if self.resize is not None and self.shortens:
            z = torch.matmul(self.resize, z)
        z = torch.matmul(z, self.weight)
        if self.resize is not None and not self.shortens:
            z = torch.matmul(self.resize, z)
        return z if self.bias is None else z + self.bias


class FrozenTeacher(nn.Module):
    """A teacher whose weights never change but through which gradients flow, cut into groups.

    Features are seen in standardised coordinates: with ``S_n`` the affine map that gives every channel of
    group ``n`` mean 0 and deviation 1, each group is ``S_n o g_n o S_{n-1}^{-1}``. That re-parametrises the
    teacher without changing its function.

    The weights are frozen rather than the graph cut, because Eq. 2 needs the gradient with respect to what
    goes *into* a group. LSTM modules stay in training mode, which changes nothing for a layer without dropout
    of its own: cuDNN refuses the backward pass of an RNN in evaluation mode.
    """

    def __init__(
        self, teacher: Encoder, stops: tuple[int, ...], statistics: list[tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.stops = stops
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)
        for n, (mean, deviation) in enumerate(statistics):
            self.register_buffer(f"mean_{n}", mean)
            self.register_buffer(f"deviation_{n}", deviation)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Keep evaluation mode whatever the student does."""
        del mode
        super().train(False)
        for module in self.modules():
            if isinstance(module, nn.RNNBase):
                module.train(True)
        return self

    def _statistics(self, n: int) -> tuple[Tensor, Tensor]:
        mean, deviation = getattr(self, f"mean_{n}"), getattr(self, f"deviation_{n}")
        assert isinstance(mean, Tensor)
        assert isinstance(deviation, Tensor)
        return mean, deviation

    def group(self, n: int, z: Tensor) -> Tensor:
        """Standardised features of group ``n`` (from 0) for its standardised input (group 0: the raw one)."""
        if n:
            mean, deviation = self._statistics(n - 1)
            z = z * deviation + mean
        z = self.teacher.segment(z, self.stops[n - 1] if n else 0, self.stops[n])
        mean, deviation = self._statistics(n)
        return (z - mean) / deviation

    @torch.no_grad()
    def features(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Standardised features of every group on the way from ``x``, and the teacher's logits; no graph."""
        raw = self.teacher.boundary_features(x, self.stops)
        standardised = []
        for n, z in enumerate(raw):
            mean, deviation = self._statistics(n)
            standardised.append((z - mean) / deviation)
        return standardised, self.teacher.head(raw[-1])


@torch.no_grad()
def channel_statistics(
    teacher: Encoder, stops: tuple[int, ...], batches: list[tuple[Tensor, Tensor | None]]
) -> list[tuple[Tensor, Tensor]]:
    """Mean and deviation of every channel of every group over un-augmented training data.

    ``batches`` holds inputs and, for padded rows, a mask ``(batch, time)``. Deviations are floored at 1e-3
    of the group's median deviation.
    """
    teacher.eval()
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    counts = [0.0] * len(stops)
    for x, mask in batches:
        for n, z in enumerate(teacher.boundary_features(x, stops)):
            rows = (z[mask.bool()] if mask is not None else z.flatten(0, 1)).double()
            if len(sums) == n:
                sums.append(torch.zeros_like(rows[0]))
                squares.append(torch.zeros_like(rows[0]))
            sums[n] += rows.sum(dim=0)
            squares[n] += rows.square().sum(dim=0)
            counts[n] += rows.shape[0]
    statistics = []
    for total, square, count in zip(sums, squares, counts, strict=True):
        mean = total / count
        deviation = (square / count - mean.square()).clamp(min=0).sqrt()
        deviation = deviation.clamp(min=float(deviation.median()) * 1e-3).clamp(min=1e-12)
        statistics.append((mean.float(), deviation.float()))
    return statistics


@dataclass(frozen=True)
class MatchingTerms:
    """The three terms of each group, and the features and logits that one step has computed on the way."""

    l1: list[Tensor]
    l2: list[Tensor]
    l3: list[Tensor]
    student_features: list[Tensor]
    student_logits: Tensor
    teacher_logits: Tensor

    def total(self, recipe: BBMRecipe) -> Tensor:
        """``1 / (3N) * sum_n (w1 L1_n + w2 L2_n + w3 L3_n)``, groups weighted as the recipe says."""
        n_groups = len(self.l1)
        weights = recipe.group_weights or (1.0,) * n_groups
        if len(weights) != n_groups:
            raise ValueError(f"{len(weights)} group weights for {n_groups} groups")
        total = torch.zeros((), device=self.l1[0].device)
        for weight, l1, l2, l3 in zip(weights, self.l1, self.l2, self.l3, strict=True):
            total = total + weight * (recipe.w1 * l1 + recipe.w2 * l2 + recipe.w3 * l3)
        return total / (3 * n_groups)


class BlockMatching(nn.Module):
    """Student, frozen teacher and the 2N maps between them.

    Parameters
    ----------
    boundaries
        Pairs (teacher unit, student unit) after which features are matched, ascending; the last pair is the
        end of both encoders.
    shapes
        For each group the ``(time, depth)`` of the student's and of the teacher's features; time is only
        used where the two differ.
    """

    def __init__(
        self,
        student: Encoder,
        teacher: FrozenTeacher,
        boundaries: Boundaries,
        shapes: list[tuple[tuple[int, int], tuple[int, int]]],
        recipe: BBMRecipe,
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.recipe = student, teacher, recipe
        self.stops = tuple(s for _, s in boundaries)
        linear_only = recipe.resize == "linear"
        self.to_teacher = nn.ModuleList(
            Transformation(f, g, bias=recipe.h_bias, linear_only=linear_only) for f, g in shapes
        )
        self.to_student = nn.ModuleList(
            Transformation(g, f, bias=recipe.h_bias, linear_only=linear_only) for f, g in shapes
        )

    def _student_group(self, n: int, z: Tensor) -> Tensor:
        return self.student.segment(z, self.stops[n - 1] if n else 0, self.stops[n])

    def _error(self, a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
        squares = (a.float() - b.float()).square()
        if self.recipe.reduction == "mean":
            return masked_mean(squares, mask)
        valid = squares if mask is None else squares * mask.unsqueeze(-1)
        return masked_mean(valid.sum(dim=(1, 2)), None)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, teacher_x: Tensor | None = None
    ) -> MatchingTerms:
        """All terms for one batch.

        ``mask`` ``(batch, time)`` is 1 on valid rows. ``teacher_x`` shows the teacher another input (the
        shuffled-pairing control); by default it sees the same tensor.
        """
        z_g, teacher_logits = self.teacher.features(x if teacher_x is None else teacher_x)
        raw = self.student.boundary_features(x, self.stops)
        z_f = [self.student.matched_tokens(z) for z in raw]
        l1, l2, l3 = [], [], []
        for n in range(len(self.stops)):
            l3.append(self._error(self.to_teacher[n](z_f[n]), z_g[n], mask))
            if n == 0:
                seen_by_teacher, l2_n = z_g[0], l3[0]
            else:
                z = z_f[n - 1].detach() if self.recipe.detach_block_inputs else z_f[n - 1]
                seen_by_teacher = self.teacher.group(n, self.to_teacher[n - 1](z))
                on_teacher_input = self._student_group(n, self.to_student[n - 1](z_g[n - 1]))
                l2_n = self._error(self.to_teacher[n](on_teacher_input), z_g[n], mask)
            l2.append(l2_n)
            output = z_f[n]
            if n and self.recipe.detach_block_inputs:
                output = self.student.matched_tokens(self._student_group(n, raw[n - 1].detach()))
            if self.recipe.l1_norm == "layernorm":
                output = F.layer_norm(output, output.shape[-1:])
            l1.append(self._error(output, self.to_student[n](seen_by_teacher), mask))
        return MatchingTerms(l1, l2, l3, z_f, self.student.head(raw[-1]), teacher_logits)
