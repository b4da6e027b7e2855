"""What is minimised: the supervised loss alone, DeiT's mixture, or BBM's sum.

Each objective is a module that holds the networks and whatever exists in training only, so that one loop, and
DistributedDataParallel round it, serves all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.batch import Batch
from training.bbm import BlockMatching, FrozenTeacher
from training.models.deit import EcgDeiT, StayDeiT, StayTwoHeads
from training.models.encoder import Encoder
from training.recipe import BBMRecipe, DeiTRecipe
from training.reduction import masked_mean

Terms = dict[str, Tensor]


def bce(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Unweighted binary cross-entropy, averaged over known labels."""
    return masked_mean(
        F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none"), known
    )


def supervised(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy on the batch's labels, weighted where it has weights."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), batch.labels, reduction="none")
    return masked_mean(losses if batch.weights is None else losses * batch.weights, batch.known)


class Objective(nn.Module, ABC):
    """Base of all objectives: ``forward`` gives named terms, ``"loss"`` among them."""

    @property
    @abstractmethod
    def network(self) -> Encoder:
        """The network that is trained."""

    @abstractmethod
    def forward(self, batch: Batch, progress: float) -> Terms:
        """Terms of one batch; ``progress`` is the share of the planned steps already done."""

    def undecayed(self) -> list[nn.Parameter]:
        """Parameters beyond biases, norms, positions and tokens that weight decay must leave alone."""
        return []


class Supervised(Objective):
    """Cross-entropy on the labels: teachers and the plain transformer."""

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
        with torch.no_grad():
            teacher_logits = self.teacher.teacher(batch.inputs)
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
    """``L_task + lambda / (3N) * sum_n (L1_n + L2_n + L3_n)``, the head trained by the task alone."""

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
        teacher_inputs, rows = None, batch.rows
        if self.recipe.pairing == "shuffled":
            teacher_inputs = batch.inputs.roll(1, dims=0)
            rows = None if rows is None else rows * rows.roll(1, dims=0)
        terms = self.matching(batch.inputs, rows, teacher_inputs)
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
