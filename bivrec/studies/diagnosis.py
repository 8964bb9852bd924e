"""Signatures of failure of one trained model."""

import pandas as pd
import torch

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.evaluation import mask_items, rank_cases, user_metrics
from bivrec.experiment.registry import Trained
from bivrec.experiment.structure import COLLAPSED, has_structure, interest_structure
from bivrec.settings import Model
from bivrec.studies.noise import expose_to_noise


def view_balance(trained: Trained, cases: EvalCases, k: int = 20) -> dict[str, float]:
    """Overlap of the views' top k, without the items of the true histories, as means over cases:
    `a in b` is the share of b's list in a's.

    A view near 0 in the combined list has no say; views near 1 in each other are copies."""
    scores = trained.model.score(cases.histories)
    top = {
        view: mask_items(values, cases.masked).topk(min(k, values.shape[-1]), -1).indices
        for view, values in scores.items()
    }
    pairs = [("id", "both"), ("multimodal", "both"), ("id", "multimodal")]
    return {
        f"{a} in {b}": float((top[b][:, :, None] == top[a][:, None]).any(-1).float().mean())
        for a, b in pairs
    }


STRUCTURE = {  # lines of `diagnose` and their measure in `interest_structure`
    "cosine of a user's interests": "cosine",
    "overlap of the interests' top 20": "overlap",
    "effective number of interests": "effective_interests",
    "share of the final top 20 from interests other than the leading one": "other_interests",
}


def _remedies(settings: Model) -> str:
    """The changes to params.yaml that separate interests, except those already made."""
    changes = [f"a larger model.information_weight (now {settings.information_weight:g})"]
    if settings.num_nearest > 1:
        changes.insert(0, f"a smaller model.num_nearest (now {settings.num_nearest})")
    if settings.newest == "all":
        changes.insert(0, "model.newest: owners (now all)")
    return " or ".join(filter(None, [", ".join(changes[:-1]), changes[-1]]))


def _structure_rows(trained: Trained, cases: EvalCases) -> list[tuple[str, str, float]]:
    """The lines of STRUCTURE, means over users by view; prints a sentence where they collapse."""
    means = interest_structure(trained, cases).groupby("view")[list(STRUCTURE.values())].mean()
    remedies = _remedies(trained.model.settings.model)
    for view, overlap in means["overlap"].items():
        if overlap > COLLAPSED:
            print(
                f"WARNING: the interests of {trained.name} have collapsed in the {view} view: the "
                f"top 20 of a user's interests share {overlap:.0%} of their items; in params.yaml, "
                f"{remedies} may separate them."
            )
    return [
        (name, view, float(means.loc[view, measure]))
        for name, measure in STRUCTURE.items()
        for view in means.index
    ]


@torch.inference_mode()
def diagnose(domain: Domain, trained: Trained, metric: str = "ndcg@20") -> pd.DataFrame:
    """The signatures of failure (columns diagnostic, view, value).

    The share of the clean metric that remains when a user has three items only, when 30 % of the
    history is replaced, and when 30 % of the features are swapped; of a model with two views, the
    share of the combined top 20 that each view's own top 20 holds; and of a model with several
    interests, how a user's interests differ (`interest_structure`). Prints a warning where these
    have collapsed."""
    cases = domain.fold(trained.seed).test
    newest = cases.reading(tuple(history[-3:] for history in cases.histories))
    inputs = {
        "clean": (trained, cases),
        "remaining with the newest 3 items": (trained, newest),
        "remaining with 30 % of the items replaced": expose_to_noise(
            domain, trained, "replace", 0.3
        ),
        "remaining with 30 % of the features swapped": expose_to_noise(
            domain, trained, "swap", 0.3
        ),
    }
    means = {
        name: user_metrics(rank_cases(noisy.model, noisy_cases)).groupby("view")[metric].mean()
        for name, (noisy, noisy_cases) in inputs.items()
    }
    clean = means.pop("clean")
    rows = [
        (name, view, value / clean[view])
        for name, values in means.items()
        for view, value in values.items()
    ]
    if "both" in clean and "id" in clean:
        shares, name = view_balance(trained, cases), "part of the combined top 20"
        rows += [(name, view, shares[f"{view} in both"]) for view in ("id", "multimodal")]
    if has_structure(trained):
        rows += _structure_rows(trained, cases)
    return pd.DataFrame(rows, columns=["diagnostic", "view", "value"])
