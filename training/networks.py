"""Networks as recipes describe them."""

from __future__ import annotations

from ibt_deploy.classes import N_CLASSES
from ibt_deploy.errors import RecipeError
from training.models.deit import EcgDeiT, StayDeiT, StayTwoHeads
from training.models.encoder import Encoder
from training.models.lstm import ResidualLSTM
from training.models.resnet import HannunResNet
from training.models.transformer import EcgTransformer, StayTransformer
from training.recipe import Recipe

ECG_DEPTH, EHR_DEPTH = 8, 3


def build_teacher(recipe: Recipe, n_inputs: int) -> Encoder:
    """The teacher of the recipe's task for ``n_inputs`` leads or features."""
    if recipe.task == "arrhythmia":
        r = recipe.resnet
        return HannunResNet(
            n_leads=n_inputs,
            n_classes=N_CLASSES,
            n_blocks=r.n_blocks,
            base_filters=r.base_filters,
            kernel=r.kernel,
            dropout=r.dropout,
            pad_to=r.pad_to,
        )
    lstm = recipe.lstm
    return ResidualLSTM(
        n_features=n_inputs,
        hidden=lstm.hidden,
        n_layers=lstm.n_layers,
        dropout=lstm.dropout,
        projection=lstm.projection,
    )


def build_student(recipe: Recipe, n_inputs: int, samples: int) -> Encoder:
    """The student of the recipe's task and method."""
    s = recipe.student
    if recipe.task == "arrhythmia":
        ecg = EcgDeiT if recipe.method == "deit" else EcgTransformer
        return ecg(
            n_leads=n_inputs,
            samples=samples,
            patch=s.patch,
            n_classes=N_CLASSES,
            dim=s.dim,
            depth=s.depth or ECG_DEPTH,
            heads=s.heads,
            mlp_ratio=s.mlp_ratio,
            dropout=s.dropout,
            readout=s.readout,
        )
    stay: type[StayTransformer] = StayTransformer
    if recipe.method == "deit":
        stay = StayDeiT if recipe.deit.ehr == "queries" else StayTwoHeads
    return stay(
        n_features=n_inputs,
        dim=s.dim,
        depth=s.depth or EHR_DEPTH,
        heads=s.heads,
        mlp_ratio=s.mlp_ratio,
        dropout=s.dropout,
        max_hours=recipe.data.max_hours,
        embedding_scale=s.embedding_scale,
    )


def build_network(recipe: Recipe, n_inputs: int, samples: int) -> Encoder:
    """The network that the recipe trains."""
    if recipe.method == "teacher":
        return build_teacher(recipe, n_inputs)
    return build_student(recipe, n_inputs, samples)


def boundaries(recipe: Recipe, n_teacher: int, n_student: int) -> tuple[tuple[int, int], ...]:
    """Pairs (teacher unit, student unit) after which features are matched, as even as the units divide."""
    n = recipe.bbm.groups or (4 if recipe.task == "arrhythmia" else 3)
    if n_teacher % n or n_student % n:
        raise RecipeError(
            f"bbm.groups: {n} groups divide neither {n_teacher} teacher nor {n_student} student units evenly"
        )
    return tuple((n_teacher // n * i, n_student // n * i) for i in range(1, n + 1))
