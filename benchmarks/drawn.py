"""`make bench-drawn`: what a softmax over drawn items does to the quality of BivRec, into drawn.csv and README.md.

The shares of the catalogue are those that `bench.py` draws of its two sets, under either supervision; each training is that
of the study on the films but for this. Needs `make repro` to have prepared them.

    python benchmarks/drawn.py [SEED ...]
"""

import re
import sys

import pandas as pd
from bench import HERE
from workloads import SIZES

from bivrec.domains import Domain
from bivrec.evaluation import bootstrap_interval, paired_test, user_metrics
from bivrec.field import rank_models, train_models
from bivrec.settings import load_settings

DATASET, METRIC, DRAWN = "movies-modern", "ndcg@20", 1024
SHARES = {"every_position": SIZES["ml-1m-size"], "one_target": SIZES["baby-size"]}


def main(seeds: list[int]) -> None:
    known, variants = load_settings(DATASET), {}
    num_items = Domain(DATASET).sequences.num_items
    for supervision, (_, size, *_) in SHARES.items():
        settings = known.models["bivrec" if supervision == "every_position" else "bivrec-one-target"].settings
        for count in (0, round(num_items * DRAWN / size)):
            variants[f"{supervision}-{count}"] = {"family": "bivrec", "settings": {**settings, "training.num_negatives": count}}
    domain = Domain(DATASET, {"ablations": variants})
    users = user_metrics(rank_models(domain, train_models(domain, list(variants), seeds, fresh=True)))
    users, rows = users[users["view"] == "both"], []
    for name in variants:
        supervision, _, count = name.rpartition("-")
        own, full = (users.loc[users["model"] == one, ["seed", "user", METRIC]] for one in (name, f"{supervision}-0"))
        value, low, high = bootstrap_interval(own[METRIC].to_numpy())
        rows.append({"supervision": supervision, "drawn": int(count), "items": num_items, "seeds": len(seeds), METRIC: value, "low": low, "high": high})
        if int(count):
            test = paired_test(own, full, METRIC)
            rows[-1] |= {"less the full softmax": test["mean"], "from": test["low"], "to": test["high"], "p": test["p"]}
    pd.DataFrame(rows).to_csv(HERE / "drawn.csv", index=False, float_format="%.4f")
    write_table()


def write_table() -> None:
    """The table of drawn.csv, into README.md."""
    lines = [
        f"| supervision | items drawn of {{}} | test users' {METRIC}, mean over seeds | 95 % | less the full softmax's | 95 % | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in pd.read_csv(HERE / "drawn.csv").to_dict("records"):
        lines[0] = lines[0].replace("{}", f"{row['items']:,}")
        apart = ["", "", ""] if not row["drawn"] else [f"{row['less the full softmax']:+.4f}", f"{row['from']:+.4f} to {row['to']:+.4f}", f"{row['p']:.3f}"]
        cells = [row["supervision"], f"{row['drawn'] or 'all'}", f"{row[METRIC]:.4f}", f"{row['low']:.4f} to {row['high']:.4f}", *apart]
        lines.append(f"| {' | '.join(cells)} |")
    readme = HERE / "README.md"
    readme.write_text(
        re.sub(r"<!-- drawn -->.*<!-- /drawn -->", "<!-- drawn -->\n" + "\n".join(lines) + "\n<!-- /drawn -->", readme.read_text(), flags=re.DOTALL)
    )


if __name__ == "__main__":
    write_table() if sys.argv[1:] == ["tables"] else main([int(one) for one in sys.argv[1:]] or [0, 1, 2, 3])
