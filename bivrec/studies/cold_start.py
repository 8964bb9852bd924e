"""Cold start: users and items in groups, histories cut short, and items that training never saw."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from numpy import ndarray

from bivrec.data.domain import Domain
from bivrec.data.splits import fold_of_users
from bivrec.data.types import EvalCases, Fold
from bivrec.evaluation import rank_cases
from bivrec.experiment.interests import read_interests
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.runs import to_runs
from bivrec.experiment.training import resume_fit
from bivrec.experiment.workers import run_jobs
from bivrec.settings import vary
from bivrec.training.seeds import derive_seed


def name_groups(counts: Sequence[int | np.integer], edges: Sequence[int]) -> pd.Categorical:
    """Sorts counts into groups whose largest counts are `edges`: `0-5`, `6-10`, ..., `> 10`."""
    lows = [0, *(edge + 1 for edge in edges)]
    names = [f"{low}-{high}" for low, high in zip(lows, edges)] + [f"> {edges[-1]}"]
    return pd.Categorical.from_codes(np.searchsorted(edges, counts), names, ordered=True)


def group_by_history(domain: Domain, ranks: pd.DataFrame, edges: Sequence[int]) -> pd.DataFrame:
    """The ranks with each user's group by the number of items in the history (kind, group)."""
    lengths = {
        (seed, int(user)): len(history)
        for seed in ranks["seed"].unique()
        for cases in [domain.fold(int(seed)).test]
        for user, history in zip(cases.users, cases.histories)
    }
    counts = [lengths[key] for key in zip(ranks["seed"], ranks["user"])]
    return ranks.assign(kind="items in the history", group=name_groups(counts, edges))


def group_by_popularity(domain: Domain, ranks: pd.DataFrame, edges: Sequence[int]) -> pd.DataFrame:
    """The ranks with each target's group by its number of training interactions (kind, group).

    `num_targets` counts a user's targets in the group alone."""
    num_items = domain.sequences.num_items
    counts = {
        seed: np.bincount(np.concatenate(domain.fold(int(seed)).train), minlength=num_items)
        for seed in ranks["seed"].unique()
    }
    counts = [counts[seed][item] for seed, item in zip(ranks["seed"], ranks["item"])]
    kind = "training interactions of the target"
    ranks = ranks.assign(kind=kind, group=name_groups(counts, edges))
    users = ranks.groupby(["model", "view", "seed", "user", "group"])
    return ranks.assign(num_targets=users["item"].transform("size"))


def rank_cut(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Test ranks with every history cut to its newest items, for each length of
    `cold_start.history_cuts` (columns kind, group)."""
    tables, kind = [], "history cut to the newest"
    for trained in models:
        cases = domain.fold(trained.seed).test
        for length in domain.settings.cold_start.history_cuts:
            cut = cases.reading(tuple(row[-length:] for row in cases.histories))
            ranks = rank_cases(trained.model, cut).assign(model=trained.name, seed=trained.seed)
            tables.append(ranks.assign(kind=kind, group=str(length)))
    return pd.concat(tables, ignore_index=True).assign(split="test")


def order_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The rows by kind, in order of first appearance, then by the first number of their group."""
    groups = table["group"].astype(str)
    first = groups.str.extract(r"(\d+)")[0].astype(int) + groups.str.startswith(">")
    kind = table["kind"].map(list(dict.fromkeys(table["kind"])).index)
    return table.iloc[np.lexsort([first, kind])].reset_index(drop=True)


def new_items(domain: Domain) -> Bool[ndarray, "catalogue"]:
    """The items that training never sees: `cold_start.new_items_share` of the catalogue, chosen
    by a hash of the item."""
    ids = domain.sequences.catalogue["item"].to_numpy()
    return fold_of_users(ids, 1000) < 1000 * domain.settings.cold_start.new_items_share


def _select_targets(
    cases: EvalCases, new: Bool[ndarray, "catalogue"], wanted: Bool[ndarray, "catalogue"]
) -> EvalCases:
    """Removes new items from the histories that the model reads, and unwanted items from the
    targets; drops users left without a history or without targets."""
    rows = [
        (user, history[~new[history]], targets[wanted[targets]], history)
        for user, history, targets in zip(cases.users, cases.histories, cases.targets)
    ]
    rows = [row for row in rows if len(row[1]) and len(row[2])]
    users = np.array([user for user, *_ in rows], dtype="int64")
    histories, chosen, whole = (tuple(row[column] for row in rows) for column in (1, 2, 3))
    return replace(cases, users=users, histories=histories, targets=chosen, whole=whole)


def without_new_items(fold: Fold, new: Bool[ndarray, "catalogue"]) -> Fold:
    """The fold as it is before the new items exist.

    They are in no training sequence, no history and no validation target; the test targets are
    new items only, without those that the user has seen."""
    return replace(
        fold,
        train=tuple(row[~new[row]] for row in fold.train),
        validation=_select_targets(fold.validation, new, ~new),
        test=_select_targets(fold.test, new, new),
    )


def can_hold_out(domain: Domain, seed: int) -> bool:
    """Whether a seed's fold without the new items has sequences to train on, at least K items,
    and cases of both validation and test users."""
    new = new_items(domain)
    fold = without_new_items(domain.fold(seed), new)
    trains = any(len(row) > 1 for row in fold.train)
    enough = (~new).sum() >= domain.settings.model.num_interests
    return bool(trains and enough and len(fold.validation) and len(fold.test))


def _renumber(fold: Fold, number: ndarray) -> Fold:
    """The fold's training sequences and validation cases with other item numbers."""
    train, histories, targets = (
        tuple(number[row] for row in rows)
        for rows in (fold.train, fold.validation.histories, fold.validation.targets)
    )
    validation = replace(fold.validation, histories=histories, targets=targets, whole=None)
    return replace(fold, train=train, validation=validation)


def train_before(domain: Domain, name: str, seed: int, new: Bool[ndarray, "catalogue"]) -> Trained:
    """A model trained before the new items existed, then given the whole catalogue.

    Training has them in no sequence and in no softmax, so that nothing pushes them down. The
    grown model reads their features like any other's, without tags, which nobody has given them;
    their ID vectors are as initialised."""
    known, varied = np.flatnonzero(~new), vary(domain.settings, domain.variant(name), name)
    before = without_new_items(domain.fold(seed), new)
    fold, features = _renumber(before, np.cumsum(~new) - 1), domain.features(seed, fold=before)
    of_known = {key: (values[known], mask[known]) for key, (values, mask) in features.items()}
    small = build_model(domain, name, seed, of_known, len(known))
    whole = build_model(domain, name, seed, features)
    torch.manual_seed(derive_seed(seed, name, "noise"))
    record = resume_fit(small, varied, fold, derive_seed(seed, "batches"))
    state = whole.state_dict()
    for key, value in small.state_dict().items():
        if state[key].shape == value.shape:
            state[key] = value
        else:  # a table with a row per item
            state[key][torch.from_numpy(known)] = value
    whole.load_state_dict(state)
    return Trained(name, seed, whole.eval(), record)


def lend_vectors(trained: Trained, new: Bool[ndarray, "catalogue"]) -> Trained:
    """BivRec whose new items take their ID vectors from the multimodal view.

    A new item's ID vector is its projected features, which training has aligned with ID vectors,
    scaled to the mean norm of the known items' ID vectors."""
    model, rows = copy.deepcopy(trained.model), torch.from_numpy(new)
    with torch.no_grad():
        ids, projected = model.items["id"].ids, model.items["multimodal"]()
        directions = torch.nn.functional.normalize(projected[rows], dim=-1)
        ids[rows] = directions * ids[~rows].norm(dim=-1).mean()
    return replace(trained, name=f"{trained.name}, lent", model=model)


def _rank_new_items(job: tuple[Domain, str, int]) -> pd.DataFrame:
    domain, name, seed = job
    new = new_items(domain)
    trained = train_before(domain, name, seed, new)
    cases = without_new_items(domain.fold(seed), new).test
    tables = [rank_cases(trained.model, cases).assign(model=name)]
    if name == "bivrec":
        lent = lend_vectors(trained, new)
        ranks = rank_cases(lent.model, cases).assign(model=lent.name)
        tables.append(ranks[ranks["view"] != "multimodal"])  # that view reads no ID vector
    return pd.concat(tables).assign(seed=seed, split="test")


def rank_new_items(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Ranks of the new items in the whole catalogue, by models trained without them.

    Of BivRec also with lent ID vectors (model `bivrec, lent`: see `lend_vectors`). Leaves out seeds
    whose folds have too few items: the table may have no rows."""
    seeds = [seed for seed in domain.settings.studies.retrained_seeds if can_hold_out(domain, seed)]
    jobs = [(domain, name, seed) for name in names for seed in seeds]
    if not jobs:
        return pd.DataFrame(columns=["view", "user", "item", "rank", "model", "seed"])
    return pd.concat(run_jobs(_rank_new_items, jobs, domain), ignore_index=True)


def cold_start_runs(domain: Domain, grouped: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """The ranks by group, and those of new items, in the columns of runs.csv."""
    condition = grouped["kind"] + ": " + grouped["group"].astype(str)
    tables = [grouped.assign(condition=condition).drop(columns=["kind", "group"])]
    if len(new):
        tables.append(new.assign(condition="new items"))
    return to_runs(domain, "cold_start", pd.concat(tables))


def interest_use(domain: Domain, models: Sequence[Trained], edges: Sequence[int]) -> pd.DataFrame:
    """How the patches that end at each item of a test user's history, overlapping ones included,
    are shared among the interests, by model, view and history.

    `interests in use`: exp of the entropy of the interests' mean shares, from 1 to K. `clearest
    share`: the mean over patches of their largest share."""
    tables = []
    for trained in models:
        cases = domain.fold(trained.seed).test
        groups = name_groups([len(history) for history in cases.histories], edges)
        for view, read in read_interests(trained, cases).items():
            shares, mask = read["allocation"], read["mask"]  # [scale case position interest]
            weights = mask[None, :, :, None] / mask.sum(1)[None, :, None, None] / len(shares)
            used = (shares * weights).sum((0, 2))  # [case interest]
            in_use = torch.special.entr(used).sum(-1).exp().cpu()
            table = pd.DataFrame({"group": groups, "interests in use": in_use})
            table["clearest share"] = (shares.amax(-1) * weights[..., 0]).sum((0, 2)).cpu()
            tables.append(table.assign(model=trained.name, view=view, seed=trained.seed))
    return pd.concat(tables, ignore_index=True)
