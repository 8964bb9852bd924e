"""Training: packed sequences, one budget for every model, the validation users choose the weights."""

import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bivrec.embedding import Dropout
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.model import Batch, SequentialModel
from bivrec.processes import agree, average_gradients, join_processes, num_processes, place
from bivrec.results import progress
from bivrec.sequences import Parts
from bivrec.settings import Machine, SettingsError, Training

BATCHES_AHEAD = 16  # drawn at a time under one_target
SMALL = 1 << 22  # numbers in the vectors of a batch's items, under which a GPU waits for the host and records encoders


def seed_of(seed: int, *names: str) -> int:
    """A random source's own seed, from the run's seed and the source's name: adding a model moves no other's numbers."""
    return zlib.crc32("/".join((str(seed), *names)).encode())


def choose_device(settings: Machine) -> torch.device:
    """The device that `machine.device` names; `auto` is the GPU where there is one, for each process of a machine its own,
    which repeats itself to the last bit, more slowly, where `machine.deterministic` asks for it."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("params.yaml: machine.device: 'cuda' is set, but PyTorch finds no GPU; set 'auto' or 'cpu'")
    if settings.device == "cpu" or not torch.cuda.is_available():
        join_processes("gloo")
        return torch.device("cpu")
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    join_processes("nccl")
    return device


def draw_batches(
    train: Sequence[Int64[ndarray, "_"]], settings: Training, max_length: int, multiple: int, seed: int, device: torch.device | None = None
) -> Iterator[Batch]:
    """Batches without end, cut on the device, which holds all sequences; only rows' places go there.

    every_position: each epoch cuts every sequence, from a random place on, into windows of at most `max_length`
    targets; every position is supervised. one_target: a random user and a random cut, as the paper samples; one target a
    row. Rows of like length go together, of an epoch or of some batches drawn ahead.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    packed, lengths = torch.from_numpy(np.concatenate(train)).to(device), np.array([len(row) for row in train])
    starts, usable = np.cumsum(lengths) - lengths, np.flatnonzero(lengths >= 2)
    if not len(usable):
        raise ValueError("no training sequence has two items; nothing can be predicted")

    def gather(first: Int64[ndarray, "row"], size: Int64[ndarray, "row"], every: bool) -> Batch:
        """Rows of `size` inputs from place `first` of the packed items; the target of a position is the item after it."""
        position = torch.arange(-(-size.max() // multiple) * multiple, device=device)
        probe = (generator.random(len(size)) * size).astype("int64") if every else size - 1
        first, size, probe = torch.from_numpy(np.stack([first, size, probe])).to(device)
        mask = position < size[:, None]
        spot = (first[:, None] + position).clamp_max(len(packed) - 2)
        return Batch(packed[spot] * mask, mask, packed[spot + 1] * mask, mask if every else position == size[:, None] - 1, probe)

    every = settings.supervision == "every_position"
    while True:
        if every:
            cut, end = generator.integers(max_length, size=len(usable)), lengths[usable] - 1
            windows = np.maximum(0, -((cut - end) // max_length)) + (cut > 0)
            user = np.repeat(np.arange(len(usable)), windows)
            number = np.arange(len(user)) - (np.cumsum(windows) - windows)[user] + (cut == 0)[user]
            begin = np.maximum(0, cut[user] + (number - 1) * max_length)
            first, size = starts[usable][user] + begin, np.minimum(end[user], cut[user] + number * max_length) - begin
        else:
            user = generator.choice(usable, size=BATCHES_AHEAD * settings.batch_size)
            cut = 1 + (generator.random(len(user)) * (lengths[user] - 1)).astype("int64")
            size = np.minimum(cut, max_length)
            first = starts[user] + cut - size
        order = np.argsort(size + generator.random(len(size)), kind="stable")
        groups = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
        for group in generator.permutation(len(groups)):
            yield gather(first[groups[group]], size[groups[group]], every)


@dataclass(frozen=True)
class Fit:
    """A training's record: the learning curve (validation metrics by view; step, loss, targets and seconds so far) and its cost."""

    curve: pd.DataFrame
    best_step: int
    num_targets: int
    seconds: float


def _save_run(path: Path, told: dict[str, Any], **tensors: Sequence[Tensor]) -> None:
    """A training under way, put in place whole."""
    flat = {f"{name}.{number}": tensor.contiguous().cpu() for name, group in tensors.items() for number, tensor in enumerate(group)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(flat, path.with_suffix(".part"), {"told": json.dumps(told)})
    os.replace(path.with_suffix(".part"), path)


def _load_run(path: Path) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """What `_save_run` wrote; nothing where there is no such file, or a damaged one: the training begins anew."""
    try:
        with safe_open(path, "pt") as file:
            told, tensors = json.loads(file.metadata()["told"]), {}
            for key in sorted(file.keys(), key=lambda key: int(key.split(".")[1])):
                tensors.setdefault(key.split(".")[0], []).append(file.get_tensor(key))
        return told, tensors
    except (FileNotFoundError, SafetensorError):
        return {}, {}


def fit(model: SequentialModel, parts: Parts, settings: Training, seed: int, metric: str, num_steps: int | None = None, kept: Path | None = None) -> Fit:
    """Trains on the training users; keeps the averaged weights whose validation metric is best.

    The metric is the mean over the model's views, so that no view is left behind; AdamW, a linear warm-up, then a linear
    decay to a tenth. Processes that share the training average their gradients. All that changes is written to the file
    `kept` at every look at the validation users (weights, moments, averages, random generators), and a training that finds
    it goes on from there, to the same last bit.
    """
    num_steps, started = num_steps or round(settings.num_steps * settings.step_factor), time.perf_counter()
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    values = [p.data for p in parameters]
    averages = [value.clone() for value in values]
    optimiser = torch.optim.AdamW(parameters, settings.learning_rate, (0.9, 0.98), weight_decay=settings.weight_decay, fused=True)
    warm = max(1, min(settings.warmup_steps, num_steps))
    multiple = model.multiple
    if model.device.type == "cuda" and settings.batch_size * model.max_length * model.settings.model.dim <= SMALL:
        lengths = range(multiple, model.max_length + 1, multiple)
        multiple = min((length for length in lengths if not model.max_length % length and model.max_length <= 6 * length), default=multiple)
        model.record_encoders(True)  # of few lengths
    batches = draw_batches(parts.train, settings, model.max_length, multiple, seed, model.device)
    noise = [part.generator.bit_generator for part in model.modules() if isinstance(part, Dropout)]
    if num_processes() > 1:
        kept = kept and kept.with_name(f"{place()}-of-{num_processes()}-{kept.name}")
    if place():
        torch.manual_seed(seed_of(seed, f"process {place()}"))
        for number, generator in enumerate(noise):
            generator.state = np.random.SFC64(seed_of(seed, f"process {place()}", str(number))).state
    told, tensors = _load_run(kept) if kept else ({}, {})
    if not agree(told.get("step", 0), model.device):
        told, tensors = {}, {}
    told = told or {"step": 0, "best": -1.0, "best_step": 0, "num_targets": 0, "seconds": 0.0, "curve": []}
    best = tensors.get("best", [])
    if 0 < told["step"] < num_steps:
        torch._foreach_copy_(values, tensors["values"])
        torch._foreach_copy_(averages, tensors["averages"])
        moments = zip(told["moved"], tensors["counts"], tensors["first"], tensors["second"])
        state = {number: {"step": count, "exp_avg": first, "exp_avg_sq": second} for number, count, first, second in moments}
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["random"][0])
        if model.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random"][1])
        for generator, state in zip(noise, told["noise"]):
            generator.state = {**state, "state": {"state": np.array(state["state"]["state"], dtype="uint64")}}
        for _ in range(told["step"]):
            next(batches)
    losses, counts, before = [], [], told["seconds"]
    for step in progress(range(told["step"] + 1, num_steps + 1), "training", "steps"):
        batch = next(batches)
        model.anneal(step / num_steps)
        optimiser.param_groups[0]["lr"] = settings.learning_rate * min(step / warm, 1 - 0.9 * (step - 1) / num_steps)
        optimiser.zero_grad()  # before the loss: the last step's gradients, of a large catalogue, are not kept beside it
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
                raise ValueError(f"training diverged before step {step}; lower training.learning_rate in params.yaml")
            trained = [value.clone() for value in values]
            torch._foreach_copy_(values, averages)
            figures = mean_metrics(rank_cases(model, parts.validation))
            told["step"], told["seconds"] = step, before + time.perf_counter() - started
            told["curve"] += figures.assign(step=step, loss=mean_loss, targets=told["num_targets"], seconds=told["seconds"]).to_dict("records")
            judged = figures.loc[figures["metric"] == metric, "value"].mean()
            if judged > told["best"]:
                told["best"], told["best_step"], best = float(judged), step, [average.clone() for average in averages]
            torch._foreach_copy_(values, trained)
            losses, counts = [], []
            if kept and step < num_steps:
                told["noise"] = [{**generator.state, "state": {"state": generator.state["state"]["state"].tolist()}} for generator in noise]
                told["moved"] = [number for number, p in enumerate(parameters) if optimiser.state[p]]  # the rest no loss reaches
                states = [optimiser.state[parameters[number]] for number in told["moved"]]
                moments = {name: [state[key] for state in states] for name, key in (("counts", "step"), ("first", "exp_avg"), ("second", "exp_avg_sq"))}
                random = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if model.device.type == "cuda" else [])]
                _save_run(kept, told, values=values, averages=averages, best=best, random=random, **moments)
            elif kept:
                _save_run(kept, told, best=best)
    torch._foreach_copy_(values, best)
    model.record_encoders(False)
    model.eval()
    return Fit(pd.DataFrame(told["curve"]), told["best_step"], told["num_targets"], told["seconds"])


def num_workers(settings: Machine) -> int:
    """How many trainings run side by side: `machine.num_workers`, or one a core, on a GPU one; one where several processes share each."""
    usual = 1 if choose_device(settings).type == "cuda" else len(os.sched_getaffinity(0))
    return 1 if num_processes() > 1 else settings.num_workers or usual
