"""How far a patch's scale decides its interest, in the models that stage 03 trained on a dataset.

The entropy of the interests to which a test user's patches are nearest has two parts: between the
scales, and within them. *within a scale*: the exponential of the second, as effective_interests is
that of the whole. *decided by scale*: the share of the first. *by chance*: the same share where each
history's interests are dealt to its patches at random, which is large in short histories. Writes
scales.csv and the table of README.md to the dataset's folder here.

    python benchmarks/scales.py DATASET FOLDER
"""

import sys

import numpy as np
import pandas as pd
import torch
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.evaluation import estimate_groups
from bivrec.experiment.checkpoints import load_checkpoint
from bivrec.model.base import pad
from bivrec.model.bivrec import BivRec
from bivrec.studies.report import to_markdown

ROWS_AT_ONCE = 256
MEASURES = ("effective interests", "within a scale", "decided by scale", "by chance")


def entropy(counts: np.ndarray) -> np.ndarray:
    """Of the last axis, in nats; 0 where nothing is counted."""
    shares = counts / counts.sum(-1, keepdims=True).clip(1)
    return -(shares * np.log(shares.clip(1e-12))).sum(-1)


@torch.inference_mode()
def count_patches(
    model: BivRec, histories: tuple, generator: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How many patches of each scale each interest has, by view: row, scale, interest; and the same
    with the interests of each row shuffled among its patches."""
    items, mask = pad(histories, model.max_length, model.multiple)
    owned = torch.cat(model.patch_masks(mask, every_prefix=False), 1).numpy()
    scales = model.settings.model.scales
    sizes = [items.shape[1] // scale for scale in scales]
    of_scale = np.repeat(np.eye(len(scales)), sizes, 0)  # patch scale
    counts = {}
    for view, parts in model.encode_rows(items, mask, model.tables()).items():
        nearest, eye = parts["logits"].argmax(-1).numpy(), np.eye(parts["logits"].shape[-1])
        shuffled = nearest.copy()
        for row, own in zip(shuffled, owned):
            row[own] = generator.permutation(row[own])
        counts[view] = tuple(
            np.einsum("bpk,ps->bsk", eye[interest] * owned[..., None], of_scale)
            for interest in (nearest, shuffled)
        )
    return counts


def share_of_scale(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row: the whole entropy, that within the scales, and the share between them."""
    weights = counts.sum(2) / counts.sum((1, 2))[:, None]
    whole, within = entropy(counts.sum(1)), (weights * entropy(counts)).sum(1)
    return whole, within, np.where(whole > 0, 1 - within / whole.clip(1e-12), 0)


def measure_users(model: BivRec, cases: EvalCases, seed: int) -> pd.DataFrame:
    """One row per user, view and measure."""
    tables, generator = [], np.random.default_rng(seed)
    for start in range(0, len(cases), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        counted = count_patches(model, cases.histories[rows], generator)
        for view, (counts, shuffled) in counted.items():
            whole, within, share = share_of_scale(counts)
            values = (np.exp(whole), np.exp(within), share, share_of_scale(shuffled)[2])
            columns = dict(zip(MEASURES, values))
            known = {"view": view, "fold": cases.fold, "user": cases.users[rows], "seed": seed}
            tables.append(pd.DataFrame(known | columns))
    return pd.concat(tables).melt(["view", "fold", "user", "seed"], var_name="measure")


def main(dataset: str, folder: str) -> None:
    torch.set_num_threads(1)
    domain, tables = Domain(dataset), []
    for seed in domain.settings.studies.seeds:
        model = load_checkpoint(domain, "bivrec", seed).eval()
        tables.append(measure_users(model, domain.fold(seed).test, seed))
    users = pd.concat(tables, ignore_index=True)
    table = estimate_groups(users, "value", ["view", "measure"]).assign(dataset=dataset)
    columns = ["dataset", "view", "measure", "mean", "low", "high"]
    table[columns].to_csv(HERE / folder / "scales.csv", index=False, float_format="%.4f")
    shown = table.assign(
        value=[f"{m:.2f} ({a:.2f} to {b:.2f})" for m, a, b in table[["mean", "low", "high"]].values]
    )
    shown = shown.pivot(index=["dataset", "view"], columns="measure", values="value")
    fill("scales", [to_markdown(shown[[*MEASURES]].reset_index())], HERE / folder / "README.md")


if __name__ == "__main__":
    main(*sys.argv[1:])
