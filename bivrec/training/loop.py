"""The training loop."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bivrec.data.types import Fold
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.model.base import SequentialModel
from bivrec.outputs import progress
from bivrec.settings import Training
from bivrec.training.batches import draw_batches
from bivrec.training.distributed import agree, average_gradients, num_processes, place
from bivrec.training.resume import _load_run, _save_run
from bivrec.training.seeds import derive_seed

SMALL = (
    1 << 22
)  # numbers in the vectors of a batch's items, under which a GPU waits for the host and records encoders


@dataclass(frozen=True)
class Fit:
    """A training's record: the learning curve (validation metrics by view; step, loss, targets and seconds so far) and its cost."""

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
) -> Fit:
    """Trains on the training users; keeps the averaged weights whose validation metric is best.

    The metric is the mean over the model's views, so that no view is left behind; AdamW, a linear warm-up, then a linear
    decay to a tenth. Processes that share the training average their gradients. All that changes is written to the file
    `checkpoint_path` at every look at the validation users (weights, moments, averages, random generators), and a training that finds
    it goes on from there, to the same last bit.
    """
    num_steps, started = (
        num_steps or round(settings.num_steps * settings.step_factor),
        time.perf_counter(),
    )
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    values = [p.data for p in parameters]
    averages = [value.clone() for value in values]
    optimiser = torch.optim.AdamW(
        parameters,
        settings.learning_rate,
        (0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    warm = max(1, min(settings.warmup_steps, num_steps))
    multiple = model.multiple
    if (
        model.device.type == "cuda"
        and settings.batch_size * model.max_length * model.settings.model.dim <= SMALL
    ):
        lengths = range(multiple, model.max_length + 1, multiple)
        multiple = min(
            (
                length
                for length in lengths
                if not model.max_length % length and model.max_length <= 6 * length
            ),
            default=multiple,
        )
    batches = draw_batches(fold.train, settings, model.max_length, multiple, seed, model.device)
    noise: list = []
    if num_processes() > 1:
        checkpoint_path = checkpoint_path and checkpoint_path.with_name(
            f"{place()}-of-{num_processes()}-{checkpoint_path.name}"
        )
    if place():
        torch.manual_seed(derive_seed(seed, f"process {place()}"))
        for number, generator in enumerate(noise):
            generator.state = np.random.SFC64(
                derive_seed(seed, f"process {place()}", str(number))
            ).state
    told, tensors = _load_run(checkpoint_path) if checkpoint_path else ({}, {})
    if not agree(told.get("step", 0), model.device):
        told, tensors = {}, {}
    told = told or {
        "step": 0,
        "best": -1.0,
        "best_step": 0,
        "num_targets": 0,
        "seconds": 0.0,
        "curve": [],
    }
    best = tensors.get("best", [])
    if 0 < told["step"] < num_steps:
        torch._foreach_copy_(values, tensors["values"])
        torch._foreach_copy_(averages, tensors["averages"])
        moments = zip(told["moved"], tensors["counts"], tensors["first"], tensors["second"])
        state = {
            number: {"step": count, "exp_avg": first, "exp_avg_sq": second}
            for number, count, first, second in moments
        }
        optimiser.load_state_dict(
            {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
        )
        torch.set_rng_state(tensors["random"][0])
        if model.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random"][1])
        for generator, state in zip(noise, told["noise"]):
            generator.state = {
                **state,
                "state": {"state": np.array(state["state"]["state"], dtype="uint64")},
            }
        for _ in range(told["step"]):
            next(batches)
    losses, counts, before = [], [], told["seconds"]
    for step in progress(range(told["step"] + 1, num_steps + 1), "training", "steps"):
        batch = next(batches)
        model.anneal(step / num_steps)
        optimiser.param_groups[0]["lr"] = settings.learning_rate * min(
            step / warm, 1 - 0.9 * (step - 1) / num_steps
        )
        optimiser.zero_grad()  # before the loss: the last step's gradients, of a large catalogue, are not checkpoint_path beside it
        loss = model.loss(batch)
        loss.backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimiser.step()
        decay = min(settings.average_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, values, 1 - decay)
        losses.append(loss.detach())
        counts.append(batch.supervised.sum())
        if step % settings.evaluate_every == 0 or step == num_steps:
            mean_loss = float(torch.stack(losses).mean())
            told["num_targets"] += int(torch.stack(counts).sum())
            if not np.isfinite(mean_loss):
                raise ValueError(
                    f"training diverged before step {step}; lower training.learning_rate in params.yaml"
                )
            trained = [value.clone() for value in values]
            torch._foreach_copy_(values, averages)
            figures = mean_metrics(rank_cases(model, fold.validation))
            told["step"], told["seconds"] = step, before + time.perf_counter() - started
            told["curve"] += figures.assign(
                step=step, loss=mean_loss, targets=told["num_targets"], seconds=told["seconds"]
            ).to_dict("records")
            judged = figures.loc[figures["metric"] == metric, "value"].mean()
            if judged > told["best"]:
                told["best"], told["best_step"], best = (
                    float(judged),
                    step,
                    [average.clone() for average in averages],
                )
            torch._foreach_copy_(values, trained)
            losses, counts = [], []
            if checkpoint_path and step < num_steps:
                told["noise"] = [
                    {
                        **generator.state,
                        "state": {"state": generator.state["state"]["state"].tolist()},
                    }
                    for generator in noise
                ]
                told["moved"] = [
                    number for number, p in enumerate(parameters) if optimiser.state[p]
                ]  # the rest no loss reaches
                states = [optimiser.state[parameters[number]] for number in told["moved"]]
                moments = {
                    name: [state[key] for state in states]
                    for name, key in (
                        ("counts", "step"),
                        ("first", "exp_avg"),
                        ("second", "exp_avg_sq"),
                    )
                }
                random = [
                    torch.get_rng_state(),
                    *([torch.cuda.get_rng_state()] if model.device.type == "cuda" else []),
                ]
                _save_run(
                    checkpoint_path,
                    told,
                    values=values,
                    averages=averages,
                    best=best,
                    random=random,
                    **moments,
                )
            elif checkpoint_path:
                _save_run(checkpoint_path, told, best=best)
    torch._foreach_copy_(values, best)
    model.eval()
    return Fit(pd.DataFrame(told["curve"]), told["best_step"], told["num_targets"], told["seconds"])
