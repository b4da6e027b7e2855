"""Training objectives: the supervised loss, DeiT's mixture, block-by-block matching (BBM), masked patches.

Each objective is a module that holds the networks and everything that exists in training only, so that one
loop, with or without DistributedDataParallel, serves all of them.

BBM has three terms (Lee, Kwon and Jo, Eq. 1-4). For group ``n`` with student ``f``, teacher ``g`` and
transformations ``h`` (Eq. 1)::

    L1_n = || f_n(z_f) - h_gf_n(g_n(h_fg_{n-1}(z_f))) ||^2     on the student's inputs     (Eq. 2)
    L2_n = || g_n(z_g) - h_fg_n(f_n(h_gf_{n-1}(z_g))) ||^2     on the teacher's inputs     (Eq. 3)
    L3_n = || h_fg_n(f_n(...f_1(x))) - g_n(...g_1(x)) ||^2     along the way from the input (Eq. 4)

``z_0 = x`` for both and ``h_0`` is the identity, so stem and embedding belong to group 1 and ``L2_1 = L3_1``.
The maps ``h`` exist in training only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ibt_deploy.errors import RecipeError
from training.models import Encoder
from training.models.students import EcgDeiT, EcgMasked, StayDeiT, StayTwoHeads
from training.recipe import N_GROUPS, BBMRecipe, DeiTRecipe, Recipe
from training.tasks.base import Batch


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def global_mean_scale(count: Tensor) -> Tensor:
    """Factor that turns a local sum into this process's share of the global mean.

    DistributedDataParallel averages gradients over processes; with the sum divided by
    ``global count / processes`` that average is the gradient of the mean over all processes' elements.
    """
    total = count.detach().clone().to(torch.float64)
    dist.all_reduce(total)
    return (dist.get_world_size() / total.clamp(min=1)).to(torch.float32)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``values`` where ``mask`` (broadcast over trailing axes) is 1, accumulated in float32.

    Processes sum mask counts, not element counts: if they draw different BBM groups in a step, the terms in
    the same place have the same number of rows but different widths.
    """
    values = values.float()
    if mask is None:
        if not _is_distributed():
            return values.mean()
        mask = torch.ones(len(values), device=values.device)
    mask = mask.float()
    elements = values.numel() / mask.numel()
    while mask.dim() < values.dim():
        mask = mask.unsqueeze(-1)
    total = (values * mask).sum()
    if not _is_distributed():
        return total * (1.0 / (mask.sum() * elements).clamp(min=1))
    return total * global_mean_scale(mask.sum()) / elements


Boundaries = tuple[tuple[int, int], ...]


@cache
def resize_matrix(
    source: int,
    target: int,
    *,
    linear_only: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Matrix ``(target, source)`` that resizes the time axis.

    Lengthening interpolates linearly between half-pixel centres. Shortening averages areas, because plain
    interpolation would skip most source steps; ``linear_only`` interpolates anyway (ablation).
    """
    identity = torch.eye(source).unsqueeze(0)
    if target > source or linear_only:
        resized = F.interpolate(identity, size=target, mode="linear", align_corners=False)
    else:
        resized = F.adaptive_avg_pool1d(identity, target)
    return resized[0].T.contiguous().to(device, dtype)


class Transformation(nn.Module):
    """Eq. 1, ``h(z) = I(z) W``: resize time, project depth; ``(batch, t, d)`` to ``(batch, t', d')``.

    Parameters
    ----------
    source, target
        Depths ``d`` and ``d'``.
    resizes
        Whether the two networks differ in time steps; if not, lengths are left unchanged.
    """

    def __init__(
        self, source: int, target: int, *, resizes: bool, bias: bool = False, linear_only: bool = False
    ) -> None:
        super().__init__()
        self.resizes, self.linear_only = resizes, linear_only
        self.weight = nn.Parameter(torch.empty(source, target))
        self.bias = nn.Parameter(torch.zeros(target)) if bias else None
        nn.init.xavier_uniform_(self.weight)

    def forward(self, z: Tensor, time: int) -> Tensor:
        """Resize to ``time`` steps and project, in whichever order costs less (they commute)."""
        source = z.shape[1]
        resize = None
        if self.resizes and time != source:
            resize = resize_matrix(source, time, linear_only=self.linear_only, device=z.device, dtype=z.dtype)
        if resize is not None and time < source:
            z = torch.matmul(resize, z)
        z = torch.matmul(z, self.weight)
        if resize is not None and time > source:
            z = torch.matmul(resize, z)
        return z if self.bias is None else z + self.bias


View = tuple[list[Tensor], Tensor]
"""A teacher's output for a batch: standardised features of every group, and logits."""
LARGEST_MEMORY = 4 << 30
"""Most bytes of features to keep; beyond that they are recomputed in every step."""


class Memory:
    """A teacher's output for stays, computed once, because stays are neither cropped nor augmented.

    Padded rows get arbitrary stored rows. They are masked in every loss, and students attend only to earlier
    rows.

    Parameters
    ----------
    views
        Batches, each with the teacher's view of it.
    rows
        Total hours of all batches, without padding.
    """

    def __init__(self, views: Iterable[tuple[Batch, View]], rows: int) -> None:
        items, lengths, kept, done = [], [], list[Tensor](), 0
        for batch, (features, logits) in views:
            assert batch.items is not None
            assert batch.rows is not None
            there = batch.rows.bool()
            items.append(batch.items)
            lengths.append(there.sum(dim=1))
            found = [values[there] for values in (*features, logits)]
            if not kept:
                kept = [values.new_empty((rows, *values.shape[1:])) for values in found]
            for whole, values in zip(kept, found, strict=True):
                whole[done : done + len(values)] = values
            done += len(found[-1])
        *self.features, self.logits = kept
        length, stays = torch.cat(lengths), torch.cat(items)
        self.first = torch.full((int(stays.max()) + 1,), -1, dtype=torch.int64, device=stays.device)
        self.first[stays] = length.cumsum(0) - length

    def view(self, items: Tensor, hours: int) -> View:
        """View of a batch of ``items`` padded to ``hours``."""
        rows = self.first[items][:, None] + torch.arange(hours, device=items.device)
        rows = rows.clamp_(max=len(self.logits) - 1)
        return [values[rows] for values in self.features], self.logits[rows]


class FrozenTeacher(nn.Module):
    """A frozen teacher cut into groups; gradients flow through it, but its weights never change.

    Features are in standardised coordinates: with ``S_n`` the affine map that gives every channel of group
    ``n`` mean 0 and standard deviation 1, each group is ``S_n o g_n o S_{n-1}^{-1}``. This reparametrises the
    teacher without changing its function.

    The weights are frozen rather than the graph cut, because Eq. 2 needs the gradient with respect to a
    group's *input*. LSTM modules stay in training mode, because cuDNN refuses the backward pass of an RNN in
    evaluation mode; this changes nothing for a layer without dropout of its own.
    """

    def __init__(
        self, teacher: Encoder, stops: tuple[int, ...], statistics: list[tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.stops = stops
        self.n_groups = len(statistics)
        self.memory: Memory | None = None
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)
        for n, (mean, deviation) in enumerate(statistics):
            self.register_buffer(f"mean_{n}", mean)
            self.register_buffer(f"deviation_{n}", deviation)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in evaluation mode, regardless of the student's mode."""
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
        """Standardised features of every group for the input ``x``, and the teacher's logits; no graph."""
        raw = self.teacher.boundary_features(x, self.stops)
        standardised = []
        for n, z in enumerate(raw):
            mean, deviation = self._statistics(n)
            standardised.append((z - mean) / deviation)
        return standardised, self.teacher.head(raw[-1])

    def has_room(self, rows: int) -> bool:
        """Whether the output for ``rows`` hours fits into :data:`LARGEST_MEMORY`."""
        width = 1 + sum(len(self._statistics(n)[0]) for n in range(self.n_groups))
        return 4 * width * rows <= LARGEST_MEMORY

    def remember(self, batches: Iterable[Batch], rows: int) -> None:
        """Run the teacher once over stays totalling ``rows`` hours, and keep its output."""
        self.memory = Memory(((batch, self._look(batch.inputs)) for batch in batches), rows)

    def view(self, batch: Batch) -> View:
        """Features and logits of a batch, from memory if there is one; no graph."""
        if self.memory is not None and batch.items is not None:
            return self.memory.view(batch.items, batch.inputs.shape[1])
        return self._look(batch.inputs)

    @torch.no_grad()
    def _look(self, x: Tensor) -> View:
        return self.features(x) if self.n_groups else ([], self.teacher(x))


@torch.no_grad()
def channel_statistics(
    teacher: Encoder,
    stops: tuple[int, ...],
    batches: list[tuple[Tensor, Tensor | None]],
    floor: float = 1e-3,
) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every channel of every group over unaugmented training data.

    ``batches`` holds inputs and, for padded rows, a mask ``(batch, time)``. Deviations are at least ``floor``
    times the group's median deviation.
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
        deviation = deviation.clamp(min=float(deviation.median()) * floor).clamp(min=1e-12)
        statistics.append((mean.float(), deviation.float()))
    return statistics


@dataclass(frozen=True)
class MatchingTerms:
    """The three terms of each group, and the features and logits computed in the same step."""

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
        For each group the ``(time, depth)`` of the student's and of the teacher's features for one input;
        time is resized where the two differ.
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

        def maps(ends: Iterable[tuple[tuple[int, int], tuple[int, int]]]) -> nn.ModuleList:
            return nn.ModuleList(
                Transformation(
                    a[1],
                    b[1],
                    resizes=a[0] != b[0],
                    bias=recipe.h_bias,
                    linear_only=recipe.resize == "linear",
                )
                for a, b in ends
            )

        self.to_teacher, self.to_student = maps(shapes), maps((g, f) for f, g in shapes)

    def _student_group(self, n: int, z: Tensor) -> Tensor:
        return self.student.segment(z, self.stops[n - 1] if n else 0, self.stops[n])

    def _error(self, a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
        squares = (a.float() - b.float()).square()
        if self.recipe.reduction == "mean":
            return masked_mean(squares, mask)
        valid = squares if mask is None else squares * mask.unsqueeze(-1)
        return masked_mean(valid.sum(dim=(1, 2)), None)

    def forward(self, x: Tensor, mask: Tensor | None = None, seen: View | None = None) -> MatchingTerms:
        """All terms for one batch.

        ``mask`` ``(batch, time)`` is 1 on valid rows. ``seen`` is the teacher's view, by default
        that of ``x``.
        """
        z_g, teacher_logits = self.teacher.features(x) if seen is None else seen
        raw = self.student.boundary_features(x, self.stops)
        z_f = [self.student.matched_tokens(z) for z in raw]
        times = [(f.shape[1], g.shape[1]) for f, g in zip(z_f, z_g, strict=True)]
        drawn = self._drawn_groups()
        l1, l2, l3 = [], [], []
        for n, (t_f, t_g) in enumerate(times):
            l3.append(self._error(self.to_teacher[n](z_f[n], t_g), z_g[n], mask))
            if n not in drawn:
                l1.append(torch.zeros_like(l3[n]))
                l2.append(torch.zeros_like(l3[n]))
                continue
            if n == 0:
                seen_by_teacher, l2_n = z_g[0], l3[0]
            else:
                z = z_f[n - 1].detach() if self.recipe.detach_block_inputs else z_f[n - 1]
                seen_by_teacher = self.teacher.group(n, self.to_teacher[n - 1](z, times[n - 1][1]))
                on_teacher_input = self._student_group(n, self.to_student[n - 1](z_g[n - 1], times[n - 1][0]))
                l2_n = self._error(self.to_teacher[n](on_teacher_input, t_g), z_g[n], mask)
            output = z_f[n]
            if n and self.recipe.detach_block_inputs:
                output = self.student.matched_tokens(self._student_group(n, raw[n - 1].detach()))
            if self.recipe.l1_norm == "layernorm":
                output = F.layer_norm(output, output.shape[-1:])
            l1.append(drawn[n] * self._error(output, self.to_student[n](seen_by_teacher, t_f), mask))
            l2.append(drawn[n] * l2_n)
        return MatchingTerms(l1, l2, l3, z_f, self.student.head(raw[-1]), teacher_logits)

    def _drawn_groups(self) -> dict[int, float]:
        """Groups for which this step computes Eq. 2 and 3, each with the factor that keeps the sum unbiased.

        The first group needs no second pass through a network and is always included.
        """
        n_later = len(self.stops) - 1
        wanted = self.recipe.groups_per_step
        if not self.training or wanted == 0 or wanted >= n_later:
            return dict.fromkeys(range(n_later + 1), 1.0)
        later = torch.randperm(n_later)[:wanted] + 1
        return {0: 1.0} | {int(n): n_later / wanted for n in later}


Terms = dict[str, Tensor]


def bce(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Unweighted binary cross-entropy, averaged over known labels."""
    return masked_mean(
        F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none"), known
    )


def supervised(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy on the batch's labels, weighted if the batch has weights."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), batch.labels, reduction="none")
    return masked_mean(losses if batch.weights is None else losses * batch.weights, batch.known)


class Objective(nn.Module, ABC):
    """Base class of all objectives: ``forward`` returns named terms, including ``"loss"``."""

    @property
    @abstractmethod
    def network(self) -> Encoder:
        """The network that is trained."""

    @abstractmethod
    def forward(self, batch: Batch, progress: float) -> Terms:
        """Terms of one batch; ``progress`` is the share of the planned steps already done."""

    def undecayed(self) -> list[nn.Parameter]:
        """Parameters exempt from weight decay besides biases, norms, positions and tokens."""
        return []


class Supervised(Objective):
    """Cross-entropy on the labels, for teachers and the plain transformer."""

    def __init__(self, model: Encoder) -> None:
        super().__init__()
        self.model = model

    @property
    def network(self) -> Encoder:
        """The network that is trained."""
        return self.model

    def forward(self, batch: Batch, progress: float) -> Terms:
        """See :meth:`Objective.forward`."""
        del progress
        return {"loss": supervised(self.model(batch.inputs), batch)}


class MaskedPatches(Objective):
    """Reconstruction of hidden patches of single leads from all that is shown, without labels.

    As SimMIM (Xie et al. 2022), but hidden samples are zero, in place of a learnt token, and the loss is the
    mean squared error, in units of the variance of the training records. A patch is hidden in some leads and
    shown in others: with all leads hidden, a student of 2,183 ECGs answered zeros for five epochs.

    Parameters
    ----------
    model
        The network to pretrain.
    share
        Share of the patches of all leads that are hidden.
    """

    def __init__(self, model: EcgMasked, share: float) -> None:
        super().__init__()
        self.model, self.share = model, share

    @property
    def network(self) -> Encoder:
        """The network that is trained."""
        return self.model

    def forward(self, batch: Batch, progress: float) -> Terms:
        """See :meth:`Objective.forward`."""
        del progress
        return {"loss": masked_mean(*hidden_errors(self.model, batch.inputs, self.share))}


def hidden_errors(
    network: EcgMasked, signal: Tensor, share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Errors of a network that does not see some patches of some leads.

    Parameters
    ----------
    network
        The network.
    signal
        ``(batch, leads, samples)``.
    share
        Share of the patches of all leads that are hidden, drawn for each ECG; at least one, and never all.
    generator
        Draws them; by default PyTorch's own does.

    Returns
    -------
    Squared errors ``(batch, leads, time, patch)``, and 1 where a patch was hidden, ``(batch, leads, time)``.
    """
    batch, leads, samples = signal.shape
    patches = signal.view(batch, leads, -1, network.patch)
    n = leads * samples // network.patch
    n_hidden = min(max(round(share * n), 1), n - 1)
    order = torch.rand(batch, n, generator=generator).argsort(dim=1)
    hidden = (order < n_hidden).to(signal.device).view(patches.shape[:3])
    shown = (patches * ~hidden.unsqueeze(-1)).flatten(2)
    found = network.reconstructed(shown).float().view(batch, -1, leads, network.patch).transpose(1, 2)
    return (found - patches.float()).square(), hidden


def response_distillation(
    logits: Tensor, teacher_logits: Tensor, known: Tensor, recipe: DeiTRecipe, thresholds: Tensor
) -> Tensor:
    """Multi-label response distillation.

    Soft: ``tau^2 * mean BCE(s / tau, sigma(t / tau))``. Hard: cross-entropy against the teacher's decisions
    at its validation-tuned ``thresholds`` (probabilities, one per class), never at 0.5, where a rare event
    would hardly ever be positive.
    """
    teacher_logits = teacher_logits.float()
    if recipe.variant == "hard":
        return bce(logits, (teacher_logits.sigmoid() >= thresholds).float(), known)
    tau = recipe.tau
    return tau**2 * bce(logits / tau, (teacher_logits / tau).sigmoid(), known)


class DeiT(Objective):
    """``(1 - alpha) * supervised(class head) + alpha * distillation(distillation head)``."""

    teacher_thresholds: Tensor

    def __init__(
        self,
        model: EcgDeiT | StayDeiT | StayTwoHeads,
        teacher: FrozenTeacher,
        recipe: DeiTRecipe,
        teacher_thresholds: Tensor,
    ) -> None:
        super().__init__()
        self.model, self.teacher, self.recipe = model, teacher, recipe
        self.register_buffer("teacher_thresholds", teacher_thresholds, persistent=False)

    @property
    def network(self) -> Encoder:
        """The network that is trained."""
        return self.model

    def forward(self, batch: Batch, progress: float) -> Terms:
        """See :meth:`Objective.forward`."""
        del progress
        _, teacher_logits = self.teacher.view(batch)
        class_logits, distilled_logits = self.model.both_logits(batch.inputs)
        task = supervised(class_logits, batch)
        everywhere = torch.ones_like(batch.known) if batch.rows is None else batch.known
        distillation = response_distillation(
            distilled_logits, teacher_logits, everywhere, self.recipe, self.teacher_thresholds
        )
        alpha = self.recipe.alpha
        return {
            "loss": (1 - alpha) * task + alpha * distillation,
            "task": task.detach(),
            "distillation": distillation.detach(),
        }


class BBM(Objective):
    """``L_task + lambda / (3N) * sum_n (L1_n + L2_n + L3_n)``, the head trained by the task loss alone."""

    def __init__(self, matching: BlockMatching, recipe: BBMRecipe) -> None:
        super().__init__()
        self.matching, self.recipe = matching, recipe

    @property
    def network(self) -> Encoder:
        """The network that is trained."""
        return self.matching.student

    def undecayed(self) -> list[nn.Parameter]:
        """The maps: decay on them would scale the student's features up and its targets down."""
        return [*self.matching.to_teacher.parameters(), *self.matching.to_student.parameters()]

    def weights(self, progress: float) -> tuple[float, float]:
        """Weights of the task and of the matching terms at ``progress``."""
        if self.recipe.schedule == "two_stage":
            return (0.0, self.recipe.weight) if progress < 0.5 else (1.0, 0.0)
        if self.recipe.schedule == "cosine_to_zero":
            return 1.0, self.recipe.weight * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return 1.0, self.recipe.weight

    def forward(self, batch: Batch, progress: float) -> Terms:
        """See :meth:`Objective.forward`."""
        rows, shown = batch.rows, batch
        if self.recipe.pairing == "shuffled":
            items = None if batch.items is None else batch.items.roll(1, dims=0)
            shown = replace(batch, inputs=batch.inputs.roll(1, dims=0), items=items)
            rows = None if rows is None else rows * rows.roll(1, dims=0)
        terms = self.matching(batch.inputs, rows, self.matching.teacher.view(shown))
        task = supervised(terms.student_logits, batch)
        matching = terms.total(self.recipe)
        w_task, w_matching = self.weights(progress)
        loss = w_task * task + w_matching * matching
        if self.recipe.alpha_kd:
            everywhere = torch.ones_like(batch.known) if batch.rows is None else batch.known
            loss = loss + self.recipe.alpha_kd * bce(
                terms.student_logits, terms.teacher_logits.float().sigmoid(), everywhere
            )
        named = {"loss": loss, "task": task.detach(), "matching": matching.detach()}
        for name, values in (("L1", terms.l1), ("L2", terms.l2), ("L3", terms.l3)):
            for n, value in enumerate(values, start=1):
                named[f"{name}_{n}"] = value.detach()
        for n, z in enumerate(terms.student_features, start=1):
            named[f"rms_{n}"] = masked_mean(z.detach().float().square(), batch.rows).sqrt()
        return named


def boundaries(recipe: Recipe, n_teacher: int, n_student: int) -> tuple[tuple[int, int], ...]:
    """Pairs (teacher unit, student unit) after which features are matched, evenly spaced."""
    n = recipe.bbm.groups or N_GROUPS[recipe.task]
    if n_teacher % n or n_student % n:
        raise RecipeError(
            f"bbm.groups: {n} groups do not divide {n_teacher} teacher and {n_student} student units evenly"
        )
    return tuple((n_teacher // n * i, n_student // n * i) for i in range(1, n + 1))
