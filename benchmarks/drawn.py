"""`make bench-drawn`: what a cheaper softmax, over drawn items or for the nearest interest alone, does to the quality of BivRec,
into drawn.csv and README.md.

The shares of the catalogue are those that `bench.py` draws of its two sets, under either supervision; each training is that
of the study on the films but for this. Needs `make repro` to have prepared them.

    python benchmarks/drawn.py [SUPERVISION ...]
"""

import re
import sys
from pathlib import Path

import pandas as pd
import torch
from workloads import SIZES

from bivrec.data.domain import Domain
from bivrec.evaluation import bootstrap_interval, paired_test, user_metrics
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models
from bivrec.settings import load_settings

HERE = Path(__file__).resolve().parent
DATASET, METRIC, DRAWN = "movies-modern", "ndcg@20", 1024
REPEATS = 2  # initialisations of each of the study's seeds
SHARES = {"every_position": SIZES["ml-1m-size"], "one_target": SIZES["baby-size"]}


def main(supervisions: list[str]) -> None:
    settings, num_items, variants = load_settings(DATASET), Domain(DATASET).sequences.num_items, {}
    for supervision in supervisions:
        known = settings.models[
            "bivrec" if supervision == "every_position" else "bivrec-one-target"
        ].settings
        share = DRAWN / SHARES[supervision][1]
        for drawn, readout in ((0, "log_sum_exp"), (1, "log_sum_exp"), (1, "hard"), (2, "hard")):
            changes = {
                "training.num_negatives": round(drawn * share * num_items),
                "model.readout": readout,
            }
            for repeat in range(REPEATS):  # another name, another initialisation
                variants[supervision, changes["training.num_negatives"], readout, repeat] = {
                    "family": "bivrec",
                    "settings": known | changes,
                }
    names = {"-".join(map(str, key)): key for key in variants}
    domain = Domain(DATASET, {"ablations": dict(zip(names, variants.values()))})
    models, users = train_models(domain, list(names), fresh=True), []
    for split in ("validation", "test"):
        users.append(user_metrics(rank_models(domain, models, split)).query("view == 'both'"))
        keys = pd.DataFrame(
            users[-1]["model"].map(names).tolist(),
            users[-1].index,
            ["supervision", "drawn", "readout", "repeat"],
        )
        users[-1] = (
            users[-1]
            .join(keys)
            .groupby(["supervision", "drawn", "readout", "seed", "user"])[METRIC]
            .mean()
        )
    rows, device = [], torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    for supervision, drawn, readout, *_ in dict.fromkeys(key[:3] for key in variants):
        rows.append(
            {"supervision": supervision, "drawn": drawn, "readout": readout, "items": num_items}
        )
        rows[-1] |= {"device": device, "trainings": REPEATS * len(settings.studies.seeds)}
        for split, values in zip(("validation", "test"), users):
            own, full = (
                values[supervision, *which].reset_index()
                for which in ((drawn, readout), (0, "log_sum_exp"))
            )
            value, low, high = bootstrap_interval(own[METRIC].to_numpy())
            rows[-1] |= {f"{split} {METRIC}": value, f"{split} low": low, f"{split} high": high}
            if drawn:
                test = paired_test(own, full, METRIC)
                rows[-1] |= {
                    f"{split} {name}": test[found]
                    for name, found in (
                        ("difference", "mean"),
                        ("from", "low"),
                        ("to", "high"),
                        ("p", "p"),
                    )
                }
    path, rows = HERE / "drawn.csv", pd.DataFrame(rows)
    if path.is_file() and len(supervisions) < len(SHARES):
        kept = pd.read_csv(path)
        rows = pd.concat([kept[~kept["supervision"].isin(supervisions)], rows])
    rows.to_csv(path, index=False, float_format="%.4f")
    write_table()


def write_table() -> None:
    """The table of drawn.csv, into README.md."""
    rows = pd.read_csv(HERE / "drawn.csv", dtype={"trainings": "Int64"})
    lines = [
        f"| supervision | items drawn of {rows['items'][0]:,} | readout | trainings | test users' {METRIC} | 95 % | less the full softmax's | 95 % | p | on the validation users | 95 % |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.to_dict("records"):
        known = {
            name: "" if pd.isna(value) else f"{value:+.4f}"
            for name, value in row.items()
            if not isinstance(value, str)
        }
        cells = [
            row["supervision"],
            str(row["drawn"] or "all"),
            row["readout"],
            f"{row['trainings']}, {row['device']}",
        ]
        cells += [
            f"{row[f'test {METRIC}']:.4f}",
            f"{row['test low']:.4f} to {row['test high']:.4f}",
        ]
        for split in ("test", "validation"):
            cells += [
                known[f"{split} difference"],
                " to ".join(filter(None, (known[f"{split} {end}"] for end in ("from", "to")))),
            ]
            if split == "test":
                cells.append("" if pd.isna(row["test p"]) else f"{row['test p']:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    readme = HERE / "README.md"
    readme.write_text(
        re.sub(
            r"<!-- drawn -->.*<!-- /drawn -->",
            "<!-- drawn -->\n" + "\n".join(lines) + "\n<!-- /drawn -->",
            readme.read_text(),
            flags=re.DOTALL,
        )
    )


if __name__ == "__main__":
    write_table() if sys.argv[1:] == ["tables"] else main(sys.argv[1:] or list(SHARES))
