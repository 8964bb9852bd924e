"""Measures of RecTools' SASRec (in its own environment): steps at every position, full softmax.

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
from rectools.models import SASRecModel
from workloads import load

warnings.filterwarnings("ignore")


def run_train(workload, options) -> dict:
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
        n_factors=64,
        n_blocks=2,
        n_heads=2,
        loss="softmax",
        dataloader_num_workers=0,
        train_min_user_interactions=2,
    )
    model._build_model_from_dataset(Dataset.construct(table))
    module, loader = model.lightning_model.train(), model.data_preparator.get_dataloader_train()
    optimiser, batches = (
        module.configure_optimizers(),
        itertools.chain.from_iterable(itertools.repeat(loader)),
    )
    seconds, targets = [], []
    for number in range(options["warm"] + options["steps"]):
        started = time.perf_counter()
        batch = next(batches)
        optimiser.zero_grad()
        loss = module.loss_calculator(module.get_batch_logits(batch), batch["y"], batch["yw"])
        loss.backward()
        optimiser.step()
        if number >= options["warm"]:
            seconds.append(time.perf_counter() - started)
            targets.append(int((batch["yw"] > 0).sum()))
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
