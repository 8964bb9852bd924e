"""Measures of RecBole (in its own environment): training steps, and evaluation by full ranking.

python recbole_peer.py TASK WORKLOAD JSON     prints one JSON object
"""

import itertools
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from workloads import load


def prepare(workload, options, folder):
    place = Path(folder) / workload.name
    place.mkdir()
    users, items, times = workload.interactions()
    with open(place / f"{workload.name}.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        file.writelines(f"{user}\t{item}\t{at}\n" for user, item, at in zip(users, items, times))
    settings = {
        "data_path": folder,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": options["max_length"],
        "train_batch_size": options["batch_size"],
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "hidden_size": 64,
        "embedding_size": 64,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "topk": [10, 20],
        "checkpoint_dir": folder,
    } | options.get("changes", {})
    config = Config(model=options["model"], dataset=workload.name, config_dict=settings)
    init_seed(0, True)
    torch.set_num_threads(options.get("threads", 1))
    train, _, test = data_preparation(config, dataset := create_dataset(config))
    model = get_model(config["model"])(config, train.dataset)
    torch.autograd.set_detect_anomaly(False)  # importing RecBole's SINE switches it on for all
    return config, dataset, train, test, model


def run_train(workload, options, folder) -> dict:
    config, _, train, _, model = prepare(workload, options, folder)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    model.train()
    seconds, batches = [], itertools.chain.from_iterable(itertools.repeat(train))
    for number in range(options["warm"] + options["steps"]):
        started = time.process_time()
        interaction = next(batches)
        trainer.optimizer.zero_grad()
        loss = model.calculate_loss(interaction)
        loss.backward()
        trainer.optimizer.step()
        if number >= options["warm"]:
            seconds.append(time.process_time() - started)
    rows = options["batch_size"]  # one target a row
    return {
        "step_ms_best": 1000 * min(seconds),
        "step_ms_median": 1000 * float(np.median(seconds)),
        "targets_per_second_best": rows / min(seconds),
        "targets_per_second_median": rows / float(np.median(seconds)),
        "targets_per_second": rows * len(seconds) / sum(seconds),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run_evaluate(workload, options, folder) -> dict:
    config, _, _, test, model = prepare(workload, options, folder)
    trainer, seconds = get_trainer(config["MODEL_TYPE"], config["model"])(config, model), []
    for _ in range(options["rounds"]):
        started = time.process_time()
        trainer.evaluate(test, load_best_model=False, show_progress=False)
        seconds.append(time.process_time() - started)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds_best": min(seconds),
        "seconds_median": float(np.median(seconds)),
        "rss_mb": memory,
    }


if __name__ == "__main__":
    task, path, told = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        found = {"train": run_train, "evaluate": run_evaluate}[task](
            load(Path(path)), json.loads(told), folder
        )
    print(
        json.dumps(
            found
            | {"recbole": recbole.__version__, "torch": torch.__version__, "numpy": np.__version__}
        )
    )
