"""Measures of RecTools (in its own environment): training steps at every position.

The forms are its SASRec and, of its `fast_transformers`, the flat SASRec, both with the full
softmax, and eSASRec with the loss and the negatives of its paper. Its networks and losses run in a
plain loop, without Lightning's overhead.

python rectools_peer.py train WORKLOAD JSON     prints one JSON object
"""

import itertools
import json
import resource
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

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
from workloads import load

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


def prepare_model(workload, options):
    """The loss of a batch, the batches and the optimiser of SASRecModel in one of its forms."""
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
        **NET,
        **FORMS[options["form"]],
    )
    model._build_model_from_dataset(Dataset.construct(table))
    module, loader = model.lightning_model.train(), model.data_preparator.get_dataloader_train()

    def loss_of(batch):
        return module.loss_calculator(module.get_batch_logits(batch), batch["y"], batch["yw"])

    return loss_of, loader, module.configure_optimizers()


def prepare_flat(workload, options):
    """The same of the flat SASRec; RecTools leaves its training loop to the user."""
    x, y, items, _ = build_sequences(
        *map(torch.from_numpy, workload.interactions()), options["max_length"]
    )
    net = FlatSASRecNet(len(items), session_max_len=options["max_length"], **NET).train()
    loader = DataLoader(SequenceBatchDataset(x, y), options["batch_size"], shuffle=True)

    def loss_of(batch):
        return cross_entropy(net(batch).flatten(0, 1), batch["y"].flatten() - 1, ignore_index=-1)

    return loss_of, loader, torch.optim.Adam(net.parameters())


def run_train(workload, options) -> dict:
    prepare = prepare_flat if options["form"] == "flat" else prepare_model
    loss_of, loader, optimiser = prepare(workload, options)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    seconds, targets = [], []
    for number in range(options["warm"] + options["steps"]):
        started = time.process_time()
        batch = next(batches)
        optimiser.zero_grad()
        loss_of(batch).backward()
        optimiser.step()
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
    _, path, told = sys.argv[1:]
    options = json.loads(told)
    torch.set_num_threads(options.get("threads", 1))
    print(
        json.dumps(
            run_train(load(Path(path)), options)
            | {name: version(name) for name in ("rectools", "torch", "numpy")}
        )
    )
