"""How a user's interests differ, and what the recommendations owe to them."""

import copy
from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.evaluation import estimate_groups, rank_cases
from bivrec.experiment.registry import Trained
from bivrec.experiment.runs import RUN_COLUMNS, compare_pairs, label_run
from bivrec.model.base import LastInterests, pad
from bivrec.model.bivrec import BivRec
from bivrec.model.clusters import ClusterAttention
from bivrec.model.losses import combine, read_out
from bivrec.training.seeds import derive_seed

TOP = 20  # length of the lists that are compared
COLLAPSED = 0.9  # mean overlap of these lists above which the interests recommend the same items
RANKED = "view fold user num_targets item rank model seed split condition".split()
ROWS_AT_ONCE = 256  # histories whose scores are held together

UserValues = dict[str, Float[Tensor, "batch"]]


def has_structure(trained: Trained) -> bool:
    """Whether a model allocates patches to several interests."""
    settings = getattr(getattr(trained.model, "settings", None), "model", None)
    several = bool(settings) and settings.pooling == "cluster" and settings.num_interests > 1
    return several and isinstance(trained.model, BivRec)


def interest_structure(trained: Trained, cases: EvalCases) -> pd.DataFrame:
    """How the interests of each user differ, one row per user and view.

    cosine: mean over pairs of the user's interests. overlap: share of items that the top 20 of two
    interests have in common, mean over pairs. effective_interests: the exponential of the entropy
    of the interests to which its patches are nearest, 1 to K. other_interests: share of the final
    top 20 (of both views together, if there are two) whose best interest is not the one that is
    best for most of them; NaN in a view whose interests have collapsed, where chance decides which
    is best. same_interest: share of the patches that both views allocate to the same interest.
    """
    tables = []
    for start in range(0, len(cases), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        for view, values in _measure(trained.model.eval(), cases.histories[rows]).items():
            columns = {name: x.cpu().numpy() for name, x in values.items()}
            tables.append(pd.DataFrame({"view": view, "user": cases.users[rows], **columns}))
    table = pd.concat(tables, ignore_index=True)
    collapsed = table.groupby("view")["overlap"].transform("mean") > COLLAPSED
    return table.assign(other_interests=table["other_interests"].mask(collapsed))


@torch.inference_mode()
def _measure(model: BivRec, histories: Sequence[Int64[ndarray, "_"]]) -> dict[str, UserValues]:
    items, mask = (x.to(model.device) for x in pad(histories, model.max_length, model.multiple))
    tables = model.tables()
    encoded = model.encode_rows(items, mask, tables)
    owned = torch.cat(model.patch_masks(mask, every_prefix=False), 1)
    scores = {
        view: parts["interests"][:, 0] @ tables[view].T for view, parts in encoded.items()
    }  # batch interest catalogue
    for row, history in enumerate(histories):
        for x in scores.values():
            x[row, :, torch.from_numpy(history)] = -torch.inf
    together = {view: read_out(x, model.readout) for view, x in scores.items()}
    final = combine(together) if len(together) == 2 else next(iter(together.values()))
    length = min(TOP, final.shape[1])
    final = final.topk(length, 1).indices
    nearest = {view: parts["logits"].argmax(-1) for view, parts in encoded.items()}
    measured = {}
    for view, parts in encoded.items():
        unit = normalize(parts["interests"][:, 0], dim=-1)
        listed = scores[view].topk(length, 2)
        top = torch.zeros_like(scores[view])
        top.scatter_(2, listed.indices, listed.values.isfinite().to(top.dtype))
        measured[view] = {
            "cosine": mean_of_pairs(unit @ unit.mT),
            "overlap": mean_of_pairs(top @ top.mT / top.sum(2).clamp_min(1)[..., None]),
            "effective_interests": effective_number(nearest[view], owned, top.shape[1]),
            "other_interests": share_of_others(scores[view].argmax(1).gather(1, final)),
        }
        if len(nearest) == 2:
            same = nearest["id"] == nearest["multimodal"]
            measured[view]["same_interest"] = (same & owned).sum(1) / owned.sum(1)
    return measured


def mean_of_pairs(x: Float[Tensor, "batch interest interest"]) -> Float[Tensor, "batch"]:
    """The mean over the pairs of different interests."""
    first, second = torch.triu_indices(*x.shape[1:], offset=1)
    return x[:, first, second].mean(1)


def effective_number(
    nearest: Int64[Tensor, "batch patch"], owned: Bool[Tensor, "batch patch"], num_interests: int
) -> Float[Tensor, "batch"]:
    """The exponential of the entropy of the interests to which a history's patches are nearest."""
    usage = (one_hot(nearest, num_interests) * owned[..., None]).sum(1)
    return torch.special.entr(usage / usage.sum(1, keepdim=True)).sum(1).exp()


def share_of_others(interest: Int64[Tensor, "batch item"]) -> Float[Tensor, "batch"]:
    """The share of items whose interest is not the most frequent one of its row."""
    return 1 - one_hot(interest).sum(1).amax(1) / interest.shape[1]


class PooledZeroed(ClusterAttention):
    """Interests without the pooled patches; the newest patches remain."""

    def pool_patches(self, *given):
        return torch.zeros_like(super().pool_patches(*given))


class AllocationRandomised(ClusterAttention):
    """Each patch goes to F interests at random, by draws that follow from `draw`."""

    def allocate(self, logits):
        generator = torch.Generator().manual_seed(self.draw)
        chosen = torch.rand(logits.shape, generator=generator).topk(self.settings.num_nearest, -1)
        return torch.zeros_like(logits).scatter_(-1, chosen.indices.to(logits.device), 1.0)


class InterestsMerged(BivRec):
    """A user's interests replaced by their mean."""

    def encode_last(self, *rows) -> LastInterests:
        return {view: u.mean(1, keepdim=True) for view, u in super().encode_last(*rows).items()}


CONTROLS = {
    "pooled patches zeroed": PooledZeroed,
    "allocation randomised": AllocationRandomised,
    "interests merged": InterestsMerged,
}


def apply_control(model: BivRec, control: str, seed: int = 0) -> BivRec:
    """A copy of a trained model with one part removed; draws follow from seed and view."""
    model = copy.deepcopy(model)
    if issubclass(CONTROLS[control], BivRec):
        model.__class__ = CONTROLS[control]
    else:
        for name, view in model.views.items():
            view.clusters.__class__ = CONTROLS[control]
            view.clusters.draw = derive_seed(seed, control, name)
    return model


def rank_controls(domain: Domain, models: Sequence[Trained], split: str = "test") -> pd.DataFrame:
    """Ranks under each control, whose name is the condition; rows as in `rank_models`."""
    tables = []
    for trained in filter(has_structure, models):
        cases = getattr(domain.fold(trained.seed), split)
        labels = {"model": trained.name, "seed": trained.seed, "split": split}
        for control in CONTROLS:
            ranks = rank_cases(apply_control(trained.model, control, trained.seed), cases)
            tables.append(ranks.assign(**labels, condition=control))
    return pd.concat(tables or [pd.DataFrame(columns=RANKED)], ignore_index=True)


def as_models(controls: pd.DataFrame) -> pd.DataFrame:
    """The ranks of `rank_controls` with the control in the model's name."""
    return controls.assign(model=controls["model"] + ", " + controls["condition"])


def compare_controls(ranks: pd.DataFrame, controls: pd.DataFrame, metric: str) -> pd.DataFrame:
    """How much of a metric each control removes: each model minus itself under the control."""
    if not len(controls):
        return compare_pairs(ranks, [], metric)
    under = as_models(controls)
    keys = pd.DataFrame({"model": controls["model"], "under": under["model"]})
    keys = keys.assign(view=controls["view"]).drop_duplicates()
    pairs = [((row.model, row.view), (row.under, row.view)) for row in keys.itertuples()]
    return compare_pairs(pd.concat([ranks, under[ranks.columns]]), pairs, metric)


def structure_of_users(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """The measures of `interest_structure`, long, for the test users of each model that has them:
    model, seed, view, fold, user, measure, value."""
    keys, tables = ["model", "seed", "view", "fold", "user"], []
    for trained in filter(has_structure, models):
        cases = domain.fold(trained.seed).test
        labels = {"model": trained.name, "seed": trained.seed, "fold": cases.fold}
        tables.append(interest_structure(trained, cases).assign(**labels))
    users = pd.concat(tables) if tables else pd.DataFrame(columns=keys)
    return users.melt(keys, var_name="measure").dropna(ignore_index=True)


def structure_runs(domain: Domain, users: pd.DataFrame, study: str) -> pd.DataFrame:
    """Means of `structure_of_users` in the columns of runs.csv."""
    keys = ["model", "seed", "view", "measure"]
    means = (
        users.groupby(keys, as_index=False)["value"].mean().rename(columns={"measure": "metric"})
    )
    return means.assign(**label_run(domain, study), condition="", split="test")[RUN_COLUMNS]


def summarise_structure(users: pd.DataFrame, num_interests: int) -> pd.DataFrame:
    """Means of `structure_of_users`, and whether they meet their bounds.

    Bounds: an overlap of at most 0.5, effective interests of at least K / 2, at least a quarter of
    the list from other interests. The verdict is *holds* or *fails* where the whole 95 % interval
    lies on one side of the bound, else *open*; "" without a bound."""
    bounds = {"overlap": (-1, 0.5), "effective_interests": (1, num_interests / 2)}
    bounds["other_interests"] = (1, 0.25)  # the side on which the mean must lie, and the bound
    rows, keys = [], ["model", "view", "measure"]
    table = estimate_groups(users.sort_values(keys, kind="stable"), "value", keys)
    for model, view, measure, mean, low, high in table.itertuples(index=False):
        side, bound = bounds.get(measure, (0, 0))
        ends = (low, high) if low == low else (mean, mean)  # equal values have no interval
        worst, best = sorted(side * (x - bound) for x in ends)
        verdict = "holds" if worst >= 0 else "fails" if best < 0 else "open"
        rows.append((model, view, measure, mean, low, high, verdict if side else ""))
    return pd.DataFrame(rows, columns="model view measure mean low high verdict".split())
