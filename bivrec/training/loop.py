"""The training loop."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bivrec.data.types import EvalCases, Fold
from bivrec.errors import Diverged
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.kernels.cuda_graphs import record_encoders
from bivrec.model.base import Batch, SequentialModel
from bivrec.outputs import progress
from bivrec.settings import Training
from bivrec.training.batches import draw_batches
from bivrec.training.distributed import (
    average_gradients,
    num_processes,
    rank,
    same_on_all,
    shared_loss,
)
from bivrec.training.resume import load_state, save_state
from bivrec.training.seeds import derive_seed

Weights = dict[str, Tensor]  # by the parameter's name
OnEvaluate = Callable[[int, dict[str, float]], object]

SMALL_BATCH = 1 << 22  # numbers in a batch's item vectors, below which a GPU waits for the host


@dataclass(frozen=True)
class Fit:
    """A training's record: its cost, and its learning curve.

    The curve has validation metrics by view; step, mean loss, targets and seconds so far.
    """

    curve: pd.DataFrame
    best_step: int
    num_targets: int
    seconds: float


def fit(
    model: SequentialModel,
    fold: Fold,
    settings: Training,
    seed: int,
    metric: str,
    num_steps: int | None = None,
    checkpoint_path: Path | None = None,
    on_evaluate: OnEvaluate | None = None,
) -> Fit:
    """Trains on a fold; leaves the averaged weights whose validation metric is best.

    The metric is the mean over the model's views, `both` included. The training state is saved to
    `checkpoint_path` at each validation; a training that finds the file resumes from it with
    bit-identical results. After each validation `on_evaluate` gets the step, the mean loss and the
    metrics: `{"loss": ..., "id/ndcg@20": ...}`. After `training.patience` validations without a
    better metric the training stops; its learning rates are those of `num_steps`. Under torchrun
    the processes share each batch. Raises ValueError if the loss is not finite.
    """
    num_steps = num_steps or max(1, round(settings.num_steps * settings.step_factor))
    if rank():
        torch.manual_seed(derive_seed(seed, f"process {rank()}"))
    run = Run(model.train(), settings, num_steps, checkpoint_path)
    run.resume()
    record_graphs = is_small(model, settings.batch_size)
    multiple = few_lengths(model.max_length, model.multiple) if record_graphs else model.multiple
    batches = draw_batches(fold.train, settings, model.max_length, multiple, seed, model.device)
    batches = itertools.islice(batches, run.record["step"], None)
    steps = range(run.record["step"] + 1, num_steps + 1)
    until_done = itertools.takewhile(lambda _: not run.done, steps)
    with record_encoders(model) if record_graphs else nullcontext():
        for step in progress(until_done, "training", "steps", len(steps)):
            run.train_step(step, next(batches))
            if step % settings.evaluate_every == 0 or step == num_steps:
                figures = run.validate(step, fold.validation, metric)
                run.save()
                if on_evaluate and rank() == 0:
                    on_evaluate(step, figures)
    return run.finish()


def is_small(model: SequentialModel, batch_size: int) -> bool:
    """Whether batches are so small that a GPU waits for the host, and CUDA graphs pay."""
    size = batch_size * model.max_length * model.settings.model.dim
    return model.device.type == "cuda" and size <= SMALL_BATCH


def few_lengths(max_length: int, multiple: int, most: int = 6) -> int:
    """The least multiple of `multiple` that gives rows at most `most` different lengths.

    Each length takes another CUDA graph. `multiple` itself if none divides the longest row.
    """
    multiples = range(multiple, max_length + 1, multiple)
    few = (size for size in multiples if not max_length % size and max_length <= most * size)
    return next(few, multiple)


def learning_rate(settings: Training, step: int, num_steps: int) -> float:
    """A linear warm-up, and a linear decay to a tenth."""
    warmup_steps = max(1, min(settings.warmup_steps, num_steps))
    return settings.learning_rate * min(step / warmup_steps, 1 - 0.9 * (step - 1) / num_steps)


def clone(weights: Weights) -> Weights:
    """A detached copy."""
    return {name: value.detach().clone() for name, value in weights.items()}


@torch.no_grad()
def overwrite(weights: Weights, values: Weights) -> None:
    """Sets the weights to the values, in place."""
    for name, weight in weights.items():
        weight.copy_(values[name])


class Run:
    """A training under way: model, averaged and best weights, optimiser, record so far."""

    def __init__(
        self, model: SequentialModel, settings: Training, num_steps: int, path: Path | None
    ):
        self.model, self.settings, self.num_steps = model, settings, num_steps
        if path and num_processes() > 1:
            path = path.with_name(f"{rank()}-of-{num_processes()}-{path.name}")
        self.path = path
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages, self.best = clone(self.weights), {}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(),
            settings.learning_rate,
            (0.9, 0.98),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.record: dict[str, Any] = {"step": 0, "best": -1.0, "best_step": 0, "num_targets": 0}
        self.record |= {"seconds": 0.0, "curve": []}
        self.losses: list[Tensor] = []  # since the last validation, as are the counts
        self.counts: list[Tensor] = []
        self.started = time.perf_counter()

    @property
    def done(self) -> bool:
        """Whether no step is left, or patience is exhausted."""
        step, patience = self.record["step"], self.settings.patience
        waited = (step - self.record["best_step"]) // self.settings.evaluate_every
        return step >= self.num_steps or (patience is not None and waited >= patience)

    def train_step(self, step: int, batch: Batch) -> None:
        """One step of AdamW, and of the moving average of the weights."""
        self.model.anneal(step / self.num_steps)
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.settings, step, self.num_steps)
        self.optimizer.zero_grad()  # before the loss: old gradients take no memory beside it
        loss = shared_loss(self.model, batch)
        loss.backward()
        average_gradients(self.weights.values())
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip_norm)
        self.optimizer.step()
        average = get_ema_multi_avg_fn(min(self.settings.average_decay, (1 + step) / (10 + step)))
        average([*self.averages.values()], [*self.weights.values()], None)
        self.losses.append(loss.detach())
        self.counts.append(batch.supervised.sum())

    def validate(self, step: int, cases: EvalCases, metric: str) -> dict[str, float]:
        """Adds the averaged weights' metrics to the learning curve; saves them if they are best.

        Returns the mean loss and the metrics."""
        record, mean_loss = self.record, float(torch.stack(self.losses).mean())
        record["num_targets"] += int(torch.stack(self.counts).sum())
        self.losses, self.counts = [], []
        if not np.isfinite(mean_loss):
            problem = f"training diverged before step {step}"
            raise Diverged(f"{problem}; lower training.learning_rate in params.yaml")
        with self.averaged():
            table = mean_metrics(rank_cases(self.model, cases))
        record["step"], record["seconds"] = step, time.perf_counter() - self.started
        point = {"step": step, "loss": mean_loss, "targets": record["num_targets"]}
        table = table.assign(**point, seconds=record["seconds"])
        record["curve"] += table.to_dict("records")
        value = float(table.loc[table["metric"] == metric, "value"].mean())
        if value > record["best"]:
            record["best"], record["best_step"], self.best = value, step, clone(self.averages)
        names = table["view"] + "/" + table["metric"]
        return {"loss": mean_loss, **dict(zip(names, table["value"]))}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged weights, for as long as the context lasts."""
        trained = clone(self.weights)
        overwrite(self.weights, self.averages)
        yield
        overwrite(self.weights, trained)

    def save(self) -> None:
        """Writes what a resumed training needs; of a finished one, record and best weights."""
        if not self.path:
            return
        tensors = {"best": self.best}
        if not self.done:
            random = {"cpu": torch.get_rng_state()}
            if self.model.device.type == "cuda":
                random["cuda"] = torch.cuda.get_rng_state()
            moments = self.optimizer.state_dict()["state"]
            moments = {str(number): state for number, state in moments.items()}
            tensors |= {"weights": self.weights, "averages": self.averages}
            tensors |= {"moments": moments, "random": random}
        save_state(self.path, self.record, tensors)

    def resume(self) -> None:
        """Continues from the saved state, if there is one that all processes share."""
        record, tensors = load_state(self.path) if self.path else ({}, {})
        if not same_on_all(record.get("step", 0), self.model.device) or not record:
            return
        self.record, self.best = record, tensors["best"]
        self.started -= record["seconds"]
        if not self.done:
            overwrite(self.weights, tensors["weights"])
            overwrite(self.averages, tensors["averages"])
            moments = {int(number): state for number, state in tensors["moments"].items()}
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            torch.set_rng_state(tensors["random"]["cpu"])
            if self.model.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["random"]["cuda"])

    def finish(self) -> Fit:
        """Puts the best weights into the model."""
        overwrite(self.weights, self.best)
        self.model.eval()
        record = self.record
        curve = pd.DataFrame(record["curve"])
        return Fit(curve, record["best_step"], record["num_targets"], record["seconds"])
