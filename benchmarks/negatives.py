"""`make bench-negatives`: what a cheaper softmax costs BivRec in quality.

Cheaper are a softmax over sampled negatives and one of the nearest interest alone. The shares of
the catalogue are those of 1,024 and 2,048 items of bench.py's two sets, under either supervision;
otherwise each training is that of the study on the films. Needs `make repro` to have prepared them.
Writes negatives.csv and README.md.

    python benchmarks/negatives.py [SUPERVISION ...]
    python benchmarks/negatives.py tables      negatives.csv into README.md
"""

import sys

import pandas as pd
import torch
from record import HERE, fill
from workloads import SIZES

from bivrec.data.domain import Domain
from bivrec.evaluation import estimate_mean, paired_test, user_metrics
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models
from bivrec.settings import load_settings

DATASET, METRIC, NUM_NEGATIVES = "movies-modern", "ndcg@20", 1024
REPEATS = 2  # initialisations of each of the study's seeds
SHARES = {"every_position": SIZES["ml-1m-size"], "one_target": SIZES["baby-size"]}
VARIANTS = ((0, "log_sum_exp"), (1, "log_sum_exp"), (1, "hard"), (2, "hard"))
KEYS = ["supervision", "negatives", "readout"]


def list_variants(supervisions: list[str], num_items: int) -> dict[tuple, dict]:
    """By supervision, number of negatives, readout and repeat: the model that is trained."""
    models, variants = load_settings(DATASET).models, {}
    for supervision in supervisions:
        name = "bivrec" if supervision == "every_position" else "bivrec-one-target"
        share = NUM_NEGATIVES / SHARES[supervision][1]
        for times, readout in VARIANTS:
            negatives = round(times * share * num_items)
            changes = {"training.num_negatives": negatives, "model.readout": readout}
            settings = models[name].settings | changes
            for repeat in range(REPEATS):  # another name, another initialisation
                key = supervision, negatives, readout, repeat
                variants[key] = {"family": "bivrec", "settings": settings}
    return variants


def metric_by_user(domain: Domain, models: list, split: str, names: dict[str, tuple]) -> pd.Series:
    """The metric of both views by variant, fold, seed and user, the mean over repeats."""
    users = user_metrics(rank_models(domain, models, split)).query("view == 'both'")
    keys = pd.DataFrame(users["model"].map(names).tolist(), users.index, [*KEYS, "repeat"])
    return users.join(keys).groupby([*KEYS, "fold", "seed", "user"])[METRIC].mean()


def judge(split: str, values: pd.DataFrame, full: pd.DataFrame | None) -> dict:
    """One variant on a split: mean and interval, and the difference from the full softmax."""
    value, low, high = estimate_mean(values, METRIC)[:3]
    figures = {METRIC: value, "low": low, "high": high}
    if full is not None:
        test = paired_test(values, full, METRIC)
        figures |= {"difference": test["mean"], "from": test["low"], "to": test["high"]}
        figures["p"] = test["p"]
    return {f"{split} {name}": figure for name, figure in figures.items()}


def main(supervisions: list[str]) -> None:
    num_items = Domain(DATASET).sequences.num_items
    variants = list_variants(supervisions, num_items)
    names = {"-".join(map(str, key)): key for key in variants}
    domain = Domain(DATASET, {"ablations": dict(zip(names, variants.values()))})
    models = train_models(domain, list(names), fresh=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    about = {"items": num_items, "device": device}
    about["trainings"] = REPEATS * len(domain.settings.studies.seeds)
    users = {
        split: metric_by_user(domain, models, split, names) for split in ("validation", "test")
    }
    rows = []
    for supervision, negatives, readout in dict.fromkeys(key[:3] for key in variants):
        rows.append(dict(zip(KEYS, (supervision, negatives, readout))) | about)
        for split, values in users.items():
            full = values[supervision, 0, "log_sum_exp"].reset_index() if negatives else None
            variant = values[supervision, negatives, readout].reset_index()
            rows[-1] |= judge(split, variant, full)
    path, table = HERE / "negatives.csv", pd.DataFrame(rows)
    if path.is_file() and len(supervisions) < len(SHARES):
        known = pd.read_csv(path)
        table = pd.concat([known[~known["supervision"].isin(supervisions)], table])
    table.to_csv(path, index=False, float_format="%.4f")
    write_table()


def write_table() -> None:
    """The table of negatives.csv, into README.md."""
    table = pd.read_csv(HERE / "negatives.csv", dtype={"trainings": "Int64"})
    columns = [
        "supervision",
        f"negatives of {table['items'][0]:,}",
        "readout",
        "trainings",
        f"test users' {METRIC}",
        "95 %",
        "less the full softmax's",
        "95 %",
        "p",
        "on the validation users",
        "95 %",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in table.to_dict("records"):
        cells = [row["supervision"], str(row["negatives"] or "all"), row["readout"]]
        cells += [f"{row['trainings']}, {row['device']}", f"{row[f'test {METRIC}']:.4f}"]
        cells.append(f"{row['test low']:.4f} to {row['test high']:.4f}")
        cells += difference_cells(row, "test")
        cells.append("" if pd.isna(row["test p"]) else f"{row['test p']:.3f}")
        cells += difference_cells(row, "validation")
        lines.append(f"| {' | '.join(cells)} |")
    fill("negatives", lines)


def difference_cells(row: dict, split: str) -> list[str]:
    """The difference from the full softmax and its interval; empty for the full softmax itself."""
    if pd.isna(row[f"{split} difference"]):
        return ["", ""]
    interval = f"{row[f'{split} from']:+.4f} to {row[f'{split} to']:+.4f}"
    return [f"{row[f'{split} difference']:+.4f}", interval]


if __name__ == "__main__":
    write_table() if sys.argv[1:] == ["tables"] else main(sys.argv[1:] or list(SHARES))
