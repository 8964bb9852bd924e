"""Measures of RecTools (in its own environment): training steps at every position.

The forms are its SASRec and, of its `fast_transformers`, the flat SASRec, both with the full
softmax, and eSASRec with the loss and the negatives of its paper. Its networks and losses run in a
plain loop, without Lightning's overhead.

python rectools_peer.py TASK WORKLOAD JSON     prints one JSON object
"""

import itertools
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.fast_transformers.net import FlatSASRecNet
from rectools.fast_transformers.preprocessing import SequenceBatchDataset, build_sequences
from rectools.models import SASRecModel
from rectools.models.nn.transformers.ligr import LiGRLayers
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from workloads import Workload, load

warnings.filterwarnings("ignore")

NET = {"n_factors": 64, "n_blocks": 2, "n_heads": 2}
FORMS = {
    "sasrec": {"loss": "softmax"},
    "esasrec": {
        "loss": "sampled_softmax",
        "n_negatives": 256,
        "transformer_layers_type": LiGRLayers,
    },
}


class Form(NamedTuple):
    """A network in training; `scores` are those of `items` after left-padded histories."""

    loss_of: Callable
    loader: DataLoader
    optimiser: torch.optim.Optimizer
    net: torch.nn.Module
    items: np.ndarray
    scores: Callable


def prepare_model(workload, options) -> Form:
    """SASRecModel in one of its forms, with the initial weights of its trainer."""
    users, items, times = workload.interactions()
    table = pd.DataFrame(
        {
            Columns.User: users,
            Columns.Item: items,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(times, unit="s"),
        }
    )
    model = SASRecModel(
        session_max_len=options["max_length"],
        batch_size=options["batch_size"],
        dataloader_num_workers=0,
        train_min_user_interactions=2,
        lr=options.get("learning_rate", 1e-3),
        dropout_rate=options.get("dropout", 0.2),
        **NET,
        **FORMS[options["form"]],
    )
    model._build_model_from_dataset(Dataset.construct(table))
    module, loader = model.lightning_model.train(), model.data_preparator.get_dataloader_train()
    start_as_trained(module)

    def loss_of(batch):
        return module.loss_calculator(module.get_batch_logits(batch), batch["y"], batch["yw"])

    def scores(x):
        table = module.torch_model.item_model.get_all_embeddings()
        return module.torch_model.encode_sessions({"x": x}, table)[:, -1] @ table[1:].T

    items = model.data_preparator.item_id_map.external_ids[1:].astype("int64")
    return Form(loss_of, loader, module.configure_optimizers(), module, items, scores)


def start_as_trained(net: torch.nn.Module) -> None:
    """RecTools' initial weights, which Lightning sets when a training starts."""
    for weights in net.parameters():
        if weights.dim() > 1:
            torch.nn.init.xavier_normal_(weights.data)


def prepare_flat(workload, options) -> Form:
    """The flat SASRec; RecTools leaves its training loop to the user. The initial weights are
    those of SASRecModel: with PyTorch's, of variance one, it hardly learns."""
    x, y, items, _ = build_sequences(
        *map(torch.from_numpy, workload.interactions()), options["max_length"]
    )
    dropout = options.get("dropout", 0.1)
    net = FlatSASRecNet(
        len(items), session_max_len=options["max_length"], dropout=dropout, **NET
    ).train()
    start_as_trained(net)
    loader = DataLoader(SequenceBatchDataset(x, y), options["batch_size"], shuffle=True)

    def loss_of(batch):
        return cross_entropy(net(batch).flatten(0, 1), batch["y"].flatten() - 1, ignore_index=-1)

    def scores(x):
        return net.encode_last(x) @ net.all_item_embeddings().T

    optimiser = torch.optim.Adam(net.parameters(), options.get("learning_rate", 1e-3))
    return Form(loss_of, loader, optimiser, net, items.numpy(), scores)


def prepare(workload, options) -> Form:
    return (prepare_flat if options["form"] == "flat" else prepare_model)(workload, options)


def step(form: Form, batch: dict) -> None:
    form.optimiser.zero_grad()
    form.loss_of(batch).backward()
    form.optimiser.step()


def ndcg_of_next(workload: Workload, score: Callable, cutoff: int = 10) -> float:
    """Mean NDCG of the users' second-to-last items among those that their histories lack.

    `score` gives all items' scores after each of some histories."""
    all_rows, gains = workload.rows(), []
    for start in range(0, len(all_rows), 64):
        rows = all_rows[start : start + 64]
        histories, targets = [row[:-2] for row in rows], [[int(row[-2])] for row in rows]
        scores = score(histories)
        for one, history in zip(scores, histories):
            one[torch.from_numpy(history)] = -torch.inf
        ranks = (scores >= scores.gather(1, torch.tensor(targets))).sum(1)
        gains.append(torch.where(ranks <= cutoff, 1 / torch.log2(ranks + 1.0), 0.0))
    return torch.cat(gains).mean().item()


def quality(workload, options) -> dict:
    """Trains until the users' second-to-last items are ranked well enough, or time is up.

    The curve holds process seconds of the training alone, its steps, and NDCG@10."""
    torch.manual_seed(options["seed"])
    rows = [row[:-2] for row in workload.rows()]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    train = Workload(workload.name, np.concatenate(rows), starts, workload.num_items, ())
    form = prepare(train, options)
    internal = np.zeros(workload.num_items, dtype="int64")
    internal[form.items] = np.arange(1, len(form.items) + 1)

    @torch.no_grad()
    def score(histories):
        x = torch.zeros(len(histories), options["max_length"], dtype=torch.long)
        for row, history in zip(x, histories):
            newest = internal[history[-options["max_length"] :]]
            row[-len(newest) :] = torch.from_numpy(newest)
        scores = torch.full((len(histories), workload.num_items), -torch.inf)
        scores[:, form.items] = form.scores(x)
        return scores

    batches = itertools.chain.from_iterable(itertools.repeat(form.loader))
    seconds, curve = 0.0, []
    while not curve or (curve[-1][2] < options["ndcg"] and seconds < options["seconds"]):
        started = time.process_time()
        for batch in itertools.islice(batches, options["every"]):
            step(form, batch)
        seconds += time.process_time() - started
        form.net.eval()
        torch.backends.mha.set_fastpath_enabled(
            False
        )  # it gives NaN for rows that begin with padding
        steps = (len(curve) + 1) * options["every"]
        curve.append((seconds, steps, ndcg_of_next(workload, score)))
        form.net.train()
    return {"curve": curve}


def train(workload, options) -> dict:
    form = prepare(workload, options)
    batches = itertools.chain.from_iterable(itertools.repeat(form.loader))
    seconds, targets = [], []
    for number in range(options["warm"] + options["steps"]):
        started = time.process_time()
        batch = next(batches)
        step(form, batch)
        if number >= options["warm"]:
            seconds.append(time.process_time() - started)
            targets.append(int((batch["y"] > 0).sum()))
    rate = [count / second for count, second in zip(targets, seconds)]
    return {
        "step_ms_best": 1000 * min(seconds),
        "step_ms_median": 1000 * float(np.median(seconds)),
        "targets_per_second_best": max(rate),
        "targets_per_second_median": float(np.median(rate)),
        "targets_per_second": sum(targets) / sum(seconds),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    task, path, given = sys.argv[1:]
    options = json.loads(given)
    torch.set_num_threads(options.get("threads", 1))
    print(
        json.dumps(
            {"train": train, "quality": quality}[task](load(Path(path)), options)
            | {name: version(name) for name in ("rectools", "torch", "numpy")}
        )
    )
