"""Training loop for teachers, baselines and distillation: schedule, steps, validation, resume, progress."""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from ibt_deploy.errors import DataError, IbtError, RecipeError
from ibt_deploy.files import atomic_write
from training.checkpoint import METRICS, SCHEMA, network_checkpoint, read_checkpoint, save_atomically
from training.device import Place, autocast, chosen_dtype
from training.distil import Objective, hidden_errors
from training.models import Encoder
from training.models.students import EcgMasked
from training.recipe import FitRecipe, Recipe, recipe_from_dict
from training.tasks.base import Batch, Outputs, Source


def learning_rate(done: float, recipe: FitRecipe) -> float:
    """Rate of the step that completes ``done`` epochs: linear warm-up to the peak, then cosine decay."""
    warmup = min(recipe.warmup_epochs, recipe.warmup_fraction * recipe.epochs)
    if done <= warmup:
        return recipe.lr * done / warmup
    share = min((done - warmup) / (recipe.epochs - warmup), 1.0)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return recipe.lr * (recipe.final_lr + (1 - recipe.final_lr) * cosine)


def parameter_groups(objective: Objective, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: weight matrices decay; biases, norms, positions, tokens and BBM maps do not."""
    undecayed = {id(p) for p in objective.undecayed()}
    tables = ("position", "token", "query")
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        is_table = any(word in name.rsplit(".", 1)[-1] for word in tables)
        exempt = parameter.dim() < 2 or is_table or id(parameter) in undecayed
        (no_decay if exempt else decay).append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]


def part_logits(
    network: Encoder,
    source: Source,
    items: npt.NDArray[np.int64],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> npt.NDArray[np.float32]:
    """Logits of ``items`` in their order; the network keeps its mode."""
    return source.gather(items, batch_logits(network, source, items, device, dtype))


@torch.no_grad()
def batch_logits(
    network: Encoder,
    source: Source,
    items: npt.NDArray[np.int64],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Outputs:
    """Logits of ``items`` batch by batch, for :meth:`training.tasks.base.Source.gather`."""
    was_training = network.training
    network.eval()
    outputs = []
    for chosen, batch in source.plain(items):
        with autocast(device, dtype):
            logits = network(batch.inputs.to(device))
        outputs.append((chosen, logits.float().cpu().numpy()))
    network.train(was_training)
    return outputs


QUIET_SECONDS = 60


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """One line for a finished epoch."""
    train = "  ".join(f"{k} {v:.4f}" for k, v in record["train"].items() if not k.startswith(("rms", "norm")))
    valid = "  ".join(f"{k} {v:.4f}" for k, v in record["validation"].items() if k != "selection")
    star = " *" if record["improved"] else ""
    return (
        f"epoch {record['epoch'] + 1:3d}/{epochs}  {record['seconds']:6.1f} s  lr {record['lr']:.2e}  "
        f"{train}  |  validation  {valid}{star}"
    )


class Reporter:
    """Context manager that shows the progress of a run; silent in all processes but the first."""

    def __init__(self, title: str, *, shown: bool) -> None:
        self.console = Console(stderr=True, quiet=not shown, soft_wrap=True, highlight=False)
        self.shown = shown
        self.live = shown and sys.stderr.isatty()
        self.spoke = time.monotonic()
        self.progress = Progress(
            TextColumn(f"[bold]{title}"),
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=self.console,
            disable=not self.live,
        )

    def __enter__(self) -> Reporter:
        self.progress.start()
        self.task = self.progress.add_task("", total=1, epoch="-", terms="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def say(self, line: str) -> None:
        """Print a permanent line."""
        self.console.print(line, markup=False)

    def start_epoch(self, epoch: int, epochs: int, steps: int) -> None:
        """Start the progress bar of an epoch."""
        self.progress.reset(self.task, total=steps, epoch=f"{epoch + 1}/{epochs}", terms="")

    @property
    def wants_terms(self) -> bool:
        """Whether loss terms would be shown now: a bar takes them at any time, a log once per minute."""
        return self.live or (self.shown and time.monotonic() - self.spoke > QUIET_SECONDS)

    def step(self, terms: dict[str, float]) -> None:
        """Advance the bar by one step; ``terms`` are the latest loss terms, empty to keep the shown ones.

        A log, where no bar shows that the run is alive, gets a line with the terms.
        """
        self.progress.update(self.task, advance=1)
        if not terms:
            return
        text = "  ".join(f"{k} {v:.3f}" for k, v in terms.items() if not k.startswith("rms"))
        self.progress.update(self.task, terms=text)
        if not self.live:
            self.spoke = time.monotonic()
            bar = self.progress.tasks[self.task]
            self.say(f"  step {bar.completed:.0f}/{bar.total:.0f}  {text}")


T = TypeVar("T")
LAST, BEST = "last.pt", "best.pt"
TEACHER_WEIGHTS, STATISTICS = ".teacher.teacher.", ".teacher."
"""Keys that ``last.pt`` leaves out (the teacher has its own file), and keys that an older one may lack."""
SHRUNK = 0.1
WARM_UP = 2
"""Number of first steps, which are slower than the rest."""
COUNTED_STEPS = 2
"""Number of steps whose operations are counted."""


class StepCost(NamedTuple):
    """Cost of a training step.

    Attributes
    ----------
    seconds
        Median duration.
    items
        Mean number of ECGs or stays.
    flops
        Mean number of floating-point operations in matrix products and convolutions.
    preparation
        Mean processor time, in seconds, that a thread beside the step needs to crop, augment and pack a
        batch.
    """

    seconds: float
    items: float
    flops: float
    preparation: float


def _lstm_flops(x: torch.Size, weights: Any, *rest: Any, **_: Any) -> int:
    """Operations of an LSTM layer's forward pass, which :class:`FlopCounterMode` cannot count by itself.

    All arguments are shapes; cuDNN takes the weights of the layer as a list, oneDNN one by one.
    """
    from_input, from_state = (weights, rest[0]) if isinstance(weights, torch.Size) else weights[:2]
    return 2 * x[0] * x[1] * int(from_input.numel() + from_state.numel())


def _lstm_backward_flops(*arguments: Any, **named: Any) -> int:
    """As many operations as forward for the gradient of the rows, and again for that of the weights.

    cuDNN's last argument says which of them are wanted.
    """
    wanted = arguments[-1]
    products = 2 if isinstance(wanted, torch.Size) else wanted[0] + wanted[3]
    return products * _lstm_flops(*arguments, **named)


LSTM_FLOPS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._cudnn_rnn: _lstm_flops,
    torch.ops.aten._cudnn_rnn_backward: _lstm_backward_flops,
    torch.ops.aten.mkldnn_rnn_layer: _lstm_flops,
    torch.ops.aten.mkldnn_rnn_layer_backward: _lstm_backward_flops,
}


class DivergedError(IbtError):
    """The loss became infinite or NaN."""


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items``, preparing the next one in a thread while the current one is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


class Fit:
    """A training run in a folder: ``last.pt`` to resume from, ``best.pt`` to use, ``metrics.jsonl`` to read.

    Everything random in an epoch derives from the recipe's seed and the epoch's number, so that on a CPU a
    run that was killed and resumed equals an uninterrupted one. CUDA's algorithms may differ in rounding.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        objective: Objective,
        out: Path,
        device: torch.device,
        *,
        place: Place | None = None,
        learnt_from: Mapping[str, str | None] | None = None,
    ) -> None:
        self.recipe, self.source, self.out, self.device = recipe, source, out, device
        self.place = place or Place()
        self.learnt_from = dict(learnt_from or {})
        self.objective = objective
        self.dtype = chosen_dtype(recipe.fit.precision, device)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(objective, recipe.fit.weight_decay),
            lr=recipe.fit.lr,
            betas=(recipe.fit.beta1, recipe.fit.beta2),
            eps=recipe.fit.eps,
            fused=True,
        )
        self.average = RunningAverage(objective.network, recipe.fit.ema) if recipe.fit.ema else None
        self.history: list[dict[str, Any]] = []
        self.identity = {
            "recipe": recipe.to_dict(),
            "cache_sha256": source.cache.sha256,
            "split_sha256": source.split_sha256,
            "teacher_sha256": None,
            "opinion_sha256": None,
            "initial_sha256": None,
            "also_sha256": None,
            **self.learnt_from,
        }
        self.stepper = self._stepper()

    def _refuse_empty_shares(self, plan: list[npt.NDArray[np.int64]]) -> None:
        if not plan:
            raise DataError("the training part of the split is empty")
        smallest = min(map(len, plan))
        if smallest < self.place.size:
            raise RecipeError(
                f"fit.batch_size: a batch of {smallest} is too small for {self.place.size} processes"
            )

    def _stepper(self) -> nn.Module:
        stepper: nn.Module = self.objective
        wanted = self.recipe.fit.compile
        if wanted == "on" or (wanted == "auto" and self.device.type == "cuda" and self.source.samples > 0):
            stepper = torch.compile(stepper)  # type: ignore[assignment]
        if self.place.size > 1:
            if self.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(self.objective)  # type: ignore[no-untyped-call]
            # maps of groups that a step does not draw, and the head of masked patches, have no gradient
            idle = self.recipe.bbm.groups_per_step > 0 or self.recipe.method == "masked"
            stepper = DistributedDataParallel(stepper, find_unused_parameters=idle)
        return stepper

    @property
    def best(self) -> dict[str, Any] | None:
        """Record of the best epoch so far."""
        improved = [r for r in self.history if r["improved"]]
        return improved[-1] if improved else None

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or patience has run out."""
        fit, best = self.recipe.fit, self.best
        if len(self.history) >= fit.epochs:
            return True
        waited = len(self.history) - 1 - best["epoch"] if best else 0
        return len(self.history) >= fit.min_epochs and waited >= fit.patience

    def run(self, keep_going: Callable[[list[dict[str, Any]]], bool] | None = None) -> dict[str, Any]:
        """Train to the end, resuming from ``last.pt`` if there is one; return the record of the best epoch.

        ``keep_going`` is called before every epoch but the first, with the records of finished epochs; a
        search uses it to stop unpromising runs. After False, the same call asks again.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        resumed = self.resume()
        fit, title = self.recipe.fit, f"{self.recipe.task} {self.recipe.method}"
        with Reporter(title, shown=self.place.is_first) as reporter:
            parameters = sum(p.numel() for p in self.objective.network.parameters())
            reporter.say(
                f"{title}: {parameters:,} parameters, {len(self.source.learnt_items()):,} training items, "
                f"{self.device}, {self.dtype}"
                + (f", resumed after epoch {len(self.history)}" if resumed else "")
            )
            while not self.finished and self._is_wanted(keep_going):
                record = self._epoch(len(self.history), reporter)
                reporter.say(epoch_line(record, fit.epochs))
                self._warn_of_shrinkage(reporter)
        best = self.best
        if best is None:
            raise DataError(f"{self.out}: no epoch was trained; fit.epochs is {fit.epochs}")
        return best

    def _is_wanted(self, keep_going: Callable[[list[dict[str, Any]]], bool] | None) -> bool:
        if keep_going is None or not self.history:
            return True
        wanted: bool = self.place.from_first(lambda: keep_going(self.history))
        return wanted

    def _epoch(self, epoch: int, reporter: Reporter) -> dict[str, Any]:
        fit, source, seed = self.recipe.fit, self.source, self.recipe.seed
        plan = source.plan(seed, epoch)
        self._refuse_empty_shares(plan)
        torch.manual_seed((self.recipe.seed * 10_007 + epoch) * 1_009 + self.place.rank)
        self.objective.train()
        reporter.start_epoch(epoch, fit.epochs, len(plan))
        started, seen = time.perf_counter(), 0
        sums: dict[str, torch.Tensor] = {}
        batches = (source.training_batch(seed, epoch, items, self.place.share) for items in plan)
        for i, batch in enumerate(one_ahead(map(self._placed, batches))):
            terms = self._step(batch.to(self.device), epoch + i / len(plan), epoch + (i + 1) / len(plan))
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value.clone()
            seen += 1
            # reading a term waits for the device
            show = i % 10 == 9 and reporter.wants_terms
            reporter.step({k: float(v) / seen for k, v in sums.items()} if show else {})
        seconds = time.perf_counter() - started
        train = {k: float(v) / seen for k, v in self.place.mean(sums).items()}
        if not all(map(_is_finite, train.values())):
            raise DivergedError(f"{self.out}: the loss became infinite in epoch {epoch + 1}; lower fit.lr")
        validation = self.place.from_first(self._validate)
        if not _is_finite(validation["selection"]):
            raise DataError("the validation part has no positive label: no epoch can be called the best")
        best = self.best
        record = {
            "epoch": epoch,
            "steps": len(plan),
            "lr": learning_rate(epoch + 1, fit),
            "train": train | self._map_norms(),
            "validation": validation,
            "improved": best is None or validation["selection"] > best["validation"]["selection"],
            "seconds": round(seconds, 2),
            "items_per_second": round(len(self.source.learnt_items()) / seconds, 2),
        }
        self.history.append(record)
        if self.place.is_first:
            self._save(record)
        return record

    def _placed(self, batch: Batch) -> Batch:
        """The batch in page-locked memory for a GPU, so that its copy does not hold up the host."""
        return batch.pinned() if self.device.type == "cuda" else batch

    def _step(self, batch: Batch, begun: float, done: float) -> dict[str, torch.Tensor]:
        fit = self.recipe.fit
        rate = learning_rate(done, fit)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with autocast(self.device, self.dtype):
            terms: dict[str, torch.Tensor] = self.stepper(batch, begun / fit.epochs)
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_((p for p in self.objective.parameters() if p.requires_grad), fit.clip_norm)
        self.optimiser.step()
        if self.average is not None:
            self.average.update()
        return {k: v.detach() for k, v in terms.items()}

    def step_cost(self, plan: Sequence[npt.NDArray[np.int64]]) -> StepCost:
        """Cost of the training steps of ``plan`` after the first :data:`WARM_UP`; the weights change.

        Nothing is written: this is for planning, with an object that is then discarded.
        """
        self.objective.train()
        times, counted, prepared = [], list[float](), list[float]()

        def batches() -> Iterator[Batch]:
            for items in plan:
                begun = time.thread_time()
                batch = self.source.training_batch(self.recipe.seed, 0, items)
                prepared.append(time.thread_time() - begun)
                yield self._placed(batch)

        started = time.perf_counter()
        for batch in one_ahead(batches()):
            float(self._step(batch.to(self.device), 0.5, 0.5)["loss"])
            times.append(time.perf_counter() - started)
            started = time.perf_counter()
        for items in plan[-COUNTED_STEPS:]:
            batch = self.source.training_batch(self.recipe.seed, 0, items)
            with FlopCounterMode(display=False, custom_mapping=LSTM_FLOPS) as counter:
                self._step(batch.to(self.device), 0.5, 0.5)
            counted.append(counter.get_total_flops())
        items_per_step = float(np.mean([len(items) for items in plan]))
        return StepCost(
            seconds=float(np.median(times[WARM_UP:] or times)),
            items=items_per_step,
            flops=float(np.mean(counted)),
            preparation=float(np.mean(prepared[WARM_UP:] or prepared)),
        )

    def _validate(self) -> dict[str, float]:
        if self.source.refit:  # data that a network has learnt from cannot validate it
            return {"selection": float(len(self.history))}
        items = self.source.items("validation")
        trained, select = self._trained(), self.recipe.fit.select
        if isinstance(trained, EcgMasked):
            error = self._hidden_error(trained, items)
            return {
                "hidden_error": error,
                "selection": float(len(self.history)) if select == "last" else -error,
            }
        logits = part_logits(trained, self.source, items, self.device, self.dtype)
        scores = self.source.selection_scores("validation", logits)
        if select != "official" and _is_finite(scores["selection"]):
            by = {"auroc": scores["auroc"], "bce": -scores["bce"], "last": float(len(self.history))}
            scores["selection"] = by[select]
        return scores

    @torch.no_grad()
    def _hidden_error(self, network: EcgMasked, items: npt.NDArray[np.int64]) -> float:
        """Mean squared error on hidden patches; the same ones are hidden in every epoch."""
        drawn, share = torch.Generator().manual_seed(0), self.recipe.masked.share
        was_training = network.training
        network.eval()
        total = count = 0.0
        for _, batch in self.source.plain(items):
            with autocast(self.device, self.dtype):
                errors, hidden = hidden_errors(network, batch.inputs.to(self.device), share, drawn)
            total += float(errors[hidden].double().sum())
            count += float(hidden.sum()) * network.patch
        network.train(was_training)
        return total / count

    def _trained(self) -> Encoder:
        """The network that is validated and saved."""
        return self.objective.network if self.average is None else self.average.network

    def _map_norms(self) -> dict[str, float]:
        return {
            f"norm_{i}": float(p.detach().norm())
            for i, p in enumerate(self.objective.undecayed())
            if p.dim() > 1
        }

    def _warn_of_shrinkage(self, reporter: Reporter) -> None:
        """Warn when the student's features have shrunk to a tenth since the warm-up."""
        warmup = int(
            min(self.recipe.fit.warmup_epochs, self.recipe.fit.warmup_fraction * self.recipe.fit.epochs)
        )
        if len(self.history) <= warmup:
            return
        reference, latest = self.history[warmup]["train"], self.history[-1]["train"]
        for name in (n for n in latest if n.startswith("rms")):
            if latest[name] < SHRUNK * reference[name]:
                reporter.say(
                    f"warning: {name} fell from {reference[name]:.3f} to {latest[name]:.3f}; "
                    'the student shrinks its features: try bbm.l1_norm = "layernorm"'
                )

    def _save(self, record: dict[str, Any]) -> None:
        if record["improved"]:
            source = {
                "preprocessing": self.source.preprocessing(),
                "cache_sha256": self.source.cache.sha256,
                "split_sha256": self.source.split_sha256,
                "n_inputs": self.source.n_inputs,
                "samples": self.source.samples,
                "learnt_from": self.learnt_from,
            }
            content = network_checkpoint(
                self._trained(),
                self.recipe,
                epoch=record["epoch"],
                scores=record["validation"],
                source=source,
            )
            save_atomically(content, self.out / BEST)
        state = {k: v for k, v in self.objective.state_dict().items() if TEACHER_WEIGHTS not in f".{k}"}
        content = {
            "schema": SCHEMA,
            "identity": self.identity,
            "objective": state,
            "optimiser": self.optimiser.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "history": self.history,
        }
        save_atomically(content, self.out / LAST)
        self._write_metrics()

    def _write_metrics(self) -> None:
        atomic_write(self.out / METRICS, "".join(json.dumps(r) + "\n" for r in self.history))

    def resume(self) -> bool:
        """Resume the run in the folder if there is one, and return whether there was.

        Raises
        ------
        DataError
            The folder holds a different run, or a damaged one.
        """
        if self.history:
            return True
        path = self.out / LAST
        if not path.is_file():
            return False
        content = read_checkpoint(path, self.device)
        # A run that began before a key existed was trained with the key's default.
        begun = {**content["identity"], "recipe": recipe_from_dict(content["identity"]["recipe"]).to_dict()}
        differing = [k for k, v in self.identity.items() if begun.get(k) != v]
        if differing:
            raise DataError(
                f"{self.out}: holds a run with a different {', '.join(differing)}; choose another folder"
            )
        missing, unexpected = self.objective.load_state_dict(content["objective"], strict=False)
        if unexpected or any(STATISTICS not in f".{k}" for k in missing):
            raise DataError(f"{path}: does not fit the recipe's networks")
        self.optimiser.load_state_dict(content["optimiser"])
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        self.history = content["history"]
        if self.place.is_first:
            self._write_metrics()
        return True


class RunningAverage:
    """Exponential moving average of a network's weights and statistics, with weight ``1 - decay`` per step.

    The decay rises to its value over the first steps, so that the random initial weights are soon forgotten.
    """

    def __init__(self, followed: Encoder, decay: float) -> None:
        self.followed, self.decay, self.steps = followed, decay, 0
        self.network = copy.deepcopy(followed).requires_grad_(False).eval()

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to resume exactly."""
        return {"steps": self.steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.steps = state["steps"]
        self.network.load_state_dict(state["network"])

    @torch.no_grad()
    def update(self) -> None:
        """Take one step towards the followed network."""
        self.steps += 1
        weight = 1 - min(self.decay, self.steps / (self.steps + 10))
        mine, theirs = self.network.state_dict(), self.followed.state_dict()
        moving = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in moving], [theirs[n] for n in moving], weight)
        for name in mine.keys() - set(moving):
            mine[name].copy_(theirs[name])


def _is_finite(value: float) -> bool:
    return value - value == 0
