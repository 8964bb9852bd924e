"""Users and items in groups; items nobody has met."""

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
from bivrec.experiment.workers import run_jobs
from bivrec.settings import vary
from bivrec.training.loop import fit
from bivrec.training.seeds import derive_seed


def name_groups(counts: Sequence[int | np.integer], edges: Sequence[int]) -> pd.Categorical:
    """Counts in groups that end at the edges, named in order."""
    lows = [0, *(edge + 1 for edge in edges)]
    names = [f"{low}-{high}" for low, high in zip(lows, edges)] + [f"> {edges[-1]}"]
    return pd.Categorical.from_codes(np.searchsorted(edges, counts), names, ordered=True)


def group_by_history(domain: Domain, ranks: pd.DataFrame, edges: Sequence[int]) -> pd.DataFrame:
    """The ranks with each user's group: how many items the model was given (`0-10`, `11-20`, ...)."""
    given = {
        (seed, int(user)): len(history)
        for seed in ranks["seed"].unique()
        for cases in [domain.fold(int(seed)).test]
        for user, history in zip(cases.users, cases.histories)
    }
    counts = [given[key] for key in zip(ranks["seed"], ranks["user"])]
    return ranks.assign(kind="items in the history", group=name_groups(counts, edges))


def group_by_popularity(domain: Domain, ranks: pd.DataFrame, edges: Sequence[int]) -> pd.DataFrame:
    """The ranks with each target's group: its number of training interactions; a user's targets are counted in the group."""
    counts = {
        int(seed): np.bincount(
            np.concatenate(domain.fold(int(seed)).train), minlength=domain.sequences.num_items
        )
        for seed in ranks["seed"].unique()
    }
    ranks = ranks.assign(
        kind="training interactions of the target",
        group=name_groups(
            [counts[seed][item] for seed, item in zip(ranks["seed"], ranks["item"])], edges
        ),
    )
    return ranks.assign(
        num_targets=ranks.groupby(["model", "view", "seed", "user", "group"])["item"].transform(
            "size"
        )
    )


def rank_cut(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Test ranks of all users with histories cut to their newest items (columns kind, group)."""
    tables = []
    for trained in models:
        for length in domain.settings.cold_start.history_cuts:
            cases = domain.fold(trained.seed).test
            cases = replace(
                cases, histories=tuple(history[-length:] for history in cases.histories)
            )
            tables.append(
                rank_cases(trained.model, cases).assign(
                    model=trained.name,
                    seed=trained.seed,
                    kind="history cut to the newest",
                    group=str(length),
                )
            )
    return pd.concat(tables, ignore_index=True).assign(split="test")


def order_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of kinds as they come, and within a kind of the groups' first number."""
    first = table["group"].astype(str).str.extract(r"(\d+)")[0].astype(int) + table["group"].astype(
        str
    ).str.startswith(">")
    kind = table["kind"].map(
        {name: place for place, name in enumerate(dict.fromkeys(table["kind"]))}
    )
    return table.iloc[np.lexsort([first, kind])].reset_index(drop=True)


def new_items(domain: Domain) -> Bool[ndarray, "catalogue"]:
    """The items that are held out of training altogether: a share of the catalogue, by a fixed hash of the item."""
    ids = domain.sequences.catalogue["item"].to_numpy()
    return fold_of_users(ids, 1000) < 1000 * domain.settings.cold_start.new_items_share


def without_new_items(parts: Fold, new: Bool[ndarray, "catalogue"]) -> Fold:
    """The fold as it is before the new items come: in no training sequence, no history and no target of validation; the
    test's targets are the new items alone. Who has none left is left out."""

    def cases(part: EvalCases, wanted: Bool[ndarray, "catalogue"]) -> EvalCases:
        rows = [
            (u, h[~new[h]], t[wanted[t]])
            for u, h, t in zip(part.users, part.histories, part.targets)
        ]
        rows = [row for row in rows if len(row[1]) and len(row[2])]
        return EvalCases(
            np.array([row[0] for row in rows], dtype="int64"),
            *(tuple(row[place] for row in rows) for place in (1, 2)),
        )

    train = tuple(row[~new[row]] for row in parts.train)
    return replace(
        parts, train=train, validation=cases(parts.validation, ~new), test=cases(parts.test, new)
    )


def train_before(domain: Domain, name: str, seed: int, new: Bool[ndarray, "catalogue"]) -> Trained:
    """A model trained when the new items did not exist: they are in no sequence and in no softmax, so that nothing pushes
    them down. Then the catalogue grows: their features are read as any other's, their ID vectors are as initialised."""
    known, number = np.flatnonzero(~new), np.cumsum(~new) - 1
    parts, settings = without_new_items(domain.fold(seed), new), domain.settings
    train, histories, targets = (
        tuple(number[row] for row in rows)
        for rows in (parts.train, parts.validation.histories, parts.validation.targets)
    )
    before = replace(
        parts,
        train=train,
        validation=replace(parts.validation, histories=histories, targets=targets),
    )
    features = {
        kind: (values[known], mask[known]) for kind, (values, mask) in domain.features(seed).items()
    }
    small, whole = (
        build_model(domain, name, seed, features, len(known)),
        build_model(domain, name, seed),
    )
    torch.manual_seed(derive_seed(seed, name, "noise"))
    training = vary(settings, domain.variant(name), name).training
    record = fit(
        small, before, training, derive_seed(seed, "batches"), settings.studies.primary_metric
    )
    state = whole.state_dict()
    for key, value in small.state_dict().items():
        if state[key].shape == value.shape:
            state[key] = value
        else:
            state[key][torch.from_numpy(known)] = value
    whole.load_state_dict(state)
    return Trained(name, seed, whole.eval(), record)


def lend_vectors(trained: Trained, new: Bool[ndarray, "catalogue"]) -> Trained:
    """BivRec whose new items take their ID vectors from the multimodal view: an item's projected features, which training
    has made alike to its ID vector, at the mean length of the known items' ID vectors."""
    model, chosen = copy.deepcopy(trained.model), torch.from_numpy(new)
    with torch.no_grad():
        ids, projected = model.items["id"].ids, model.items["multimodal"]()
        ids[chosen] = (
            torch.nn.functional.normalize(projected[chosen], dim=-1)
            * ids[~chosen].norm(dim=-1).mean()
        )
    return replace(trained, name=f"{trained.name}, lent", model=model)


def _new_items_work(job: tuple[Domain, str, int]) -> pd.DataFrame:
    domain, name, seed = job
    trained = train_before(domain, name, seed, new := new_items(domain))
    cases = without_new_items(domain.fold(seed), new).test
    tables = [rank_cases(trained.model, cases).assign(model=name)]
    if name == "bivrec":
        lent = rank_cases((lender := lend_vectors(trained, new)).model, cases).assign(
            model=lender.name
        )
        tables.append(lent[lent["view"] != "multimodal"])  # which reads no ID vector
    return pd.concat(tables).assign(seed=seed, split="test")


def rank_new_items(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Ranks of items that no training, validation or history has met, in the full catalogue; of BivRec also with ID vectors
    lent to them (`lend_vectors`)."""
    jobs = [
        (domain, name, seed) for name in names for seed in domain.settings.studies.retrained_seeds
    ]
    return pd.concat(run_jobs(_new_items_work, jobs, domain), ignore_index=True)


def interest_use(domain: Domain, models: Sequence[Trained], edges: Sequence[int]) -> pd.DataFrame:
    """How each test user's patches are shared among the interests, by model, view and length of the history: the
    effective number of interests in use (the exponential of the entropy of their shares, 1 to K), and how clearly a patch
    belongs to one (its largest share)."""
    rows = []
    for trained in models:
        cases = domain.fold(trained.seed).test
        groups = name_groups([len(history) for history in cases.histories], edges)
        for view, read in read_interests(trained, cases).items():
            weights = (
                read["mask"][None, :, :, None]
                / read["mask"].sum(1)[None, :, None, None]
                / len(read["shares"])
            )
            used = (read["shares"] * weights).sum((0, 2))
            table = pd.DataFrame(
                {"group": groups, "interests in use": (-(used * used.log()).sum(-1)).exp().cpu()}
            )
            table["clearest share"] = (read["shares"].amax(-1) * weights[..., 0]).sum((0, 2)).cpu()
            rows.append(table.assign(model=trained.name, view=view, seed=trained.seed))
    return pd.concat(rows, ignore_index=True)
