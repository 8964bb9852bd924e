"""Failure signatures of a trained model."""

from dataclasses import replace

import pandas as pd
import torch

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.evaluation import rank_cases, user_metrics
from bivrec.experiment.registry import Trained
from bivrec.studies.noise import disturbed


def view_balance(trained: Trained, cases: EvalCases, k: int = 20) -> dict[str, float]:
    """How the two views share in what is recommended together: the part of the combined top k that each view's own top k
    holds, and the part that both views' hold of each other's. A view near 0 is not heard; views near 1 are copies."""
    top = {
        view: scores.topk(k, -1).indices
        for view, scores in trained.model.score(cases.histories).items()
    }

    def common(a: str, b: str) -> float:
        return float((top[a][:, :, None] == top[b][:, None]).any(-1).float().mean())

    return {
        "id in both": common("both", "id"),
        "multimodal in both": common("both", "multimodal"),
        "id in multimodal": common("id", "multimodal"),
    }


@torch.inference_mode()
def diagnose(domain: Domain, trained: Trained, metric: str = "ndcg@20") -> pd.DataFrame:
    """The failure signatures that the paper's summary names, of one trained model, by view: what is left of the metric with
    the newest three items alone (cold-start users), with 30 % of the history replaced or of the features swapped (noise),
    and what part of the combined top 20 each view's own holds (imbalance; a view near 0 is not heard). Columns
    diagnostic, view, value."""
    cases = domain.fold(trained.seed).test
    met = {
        "clean": (trained, cases),
        "kept with the newest 3 items": (
            trained,
            replace(cases, histories=tuple(history[-3:] for history in cases.histories)),
        ),
        "kept with 30 % of the items replaced": disturbed(domain, trained, "replace", 0.3),
        "kept with 30 % of the features swapped": disturbed(domain, trained, "swap", 0.3),
    }
    means = {
        name: user_metrics(rank_cases(model.model, asked)).groupby("view")[metric].mean()
        for name, (model, asked) in met.items()
    }
    rows = [
        (name, view, value / means["clean"][view])
        for name in list(met)[1:]
        for view, value in means[name].items()
    ]
    if "both" in means["clean"] and "id" in means["clean"]:
        shares = view_balance(trained, cases)
        rows += [
            ("part of the combined top 20", view, shares[f"{view} in both"])
            for view in ("id", "multimodal")
        ]
    return pd.DataFrame(rows, columns=["diagnostic", "view", "value"])
