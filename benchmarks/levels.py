"""Levels of baselines on a prepared dataset under leave-one-out, beside published ones.

Each user's second-to-last item is the validation target, by which the step is chosen, and the last
the test target; the whole catalogue is ranked, with and without the history's own items. Adds rows
to peers.csv and writes the table of README.md to the dataset's folder here. Stages 01 and 02 must
have run.

    python benchmarks/levels.py DATASET FOLDER MODEL SEED

MODEL is a key of FORMS. The published UniSRec is the form that adds ID vectors to the text.
"""

import sys
import time
from dataclasses import replace

import pandas as pd
import torch
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.experiment.training import train_model
from bivrec.studies.report import to_markdown

STEPS = 6000
SETTINGS = {
    "split.protocol": "leave_one_out",
    "features.modality": "text",
    "model.max_length": 50,
    "model.scales": [1],
    "grids.scales": {"model.scales": [[1]]},  # 4 and 8 do not divide 50
    "training.batch_size": 128,
    "training.num_steps": STEPS,
    "training.warmup_steps": 200,
    "training.evaluate_every": 250,
}
SHOWN = ["recall@10", "ndcg@10"]
OWN = {  # what the models' entries of params.yaml set for other budgets
    "training.learning_rate": 0.002,
    "training.step_factor": 1.0,
    "model.dropout": 0.2,
}

FORMS = {  # a model of params.yaml, and its inputs
    "tedrec": ("tedrec", {}),
    "unisrec, text": ("unisrec", {}),
    "unisrec, text and IDs": ("unisrec", {"baseline.inputs": "fused"}),
}


def measure(dataset: str, form: str, seed: int) -> list[dict]:
    """The test metrics at the best step, with the history masked and not."""
    domain, (model, inputs) = Domain(dataset, SETTINGS), FORMS[form]
    own = domain.variant(model).settings | OWN | inputs
    domain = replace(domain, changes=SETTINGS | {f"models.{model}.settings": own})
    started = time.process_time()
    trained = train_model(domain, model, seed)
    seconds, rows = time.process_time() - started, []
    for masked in (True, False):
        cases = replace(domain.fold(seed).test, mask_history=masked)
        metrics = mean_metrics(rank_cases(trained.model, cases), (10,))
        row = {
            "model": form,
            "seed": seed,
            "steps": STEPS,
            "history": "masked" if masked else "not masked",
        }
        row |= dict(zip(metrics["metric"], metrics["value"]))
        rows.append(row | {"best_step": trained.record.best_step, "seconds": round(seconds)})
    return rows


def main(dataset: str, folder: str, form: str, seed: int) -> None:
    torch.set_num_threads(1)
    path = HERE / folder / "peers.csv"
    known = pd.read_csv(path).to_dict("records") if path.is_file() else []
    now = form, seed, STEPS
    known = [row for row in known if (row["model"], row["seed"], row["steps"]) != now]
    table = pd.DataFrame(known + measure(dataset, form, seed)).sort_values(
        ["model", "seed", "steps", "history"]
    )
    columns = ["model", "seed", "steps", "history", *SHOWN, "best_step", "seconds"]
    table[columns].to_csv(path, index=False, float_format="%.4f")
    shown = table[columns].round(4).astype(str)
    fill("peers", [to_markdown(shown)], HERE / folder / "README.md")


if __name__ == "__main__":
    dataset, folder, form, seed = sys.argv[1:]
    main(dataset, folder, form, int(seed))
