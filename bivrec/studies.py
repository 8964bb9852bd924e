"""Studies: histories and features disturbed, users and items in groups, a view carried to another domain."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from bivrec.domains import Domain, Features
from bivrec.embedding import ItemTable
from bivrec.evaluation import paired_test, rank_cases, user_metrics
from bivrec.field import Trained, build_model, rank_models, side_by_side, train_models
from bivrec.sequences import Cases
from bivrec.training import fit, seed_of


def replace_history(cases: Cases, share: float, num_items: int, seed: int) -> Cases:
    """Each history with a share of its items replaced by random items that are neither in it nor among its targets."""
    generator = np.random.Generator(np.random.PCG64(seed_of(seed, "replace", str(share))))
    histories = []
    for history, targets in zip(cases.histories, cases.targets):
        noisy = history.copy()
        places = np.flatnonzero(generator.random(len(history)) < share)
        strangers = np.setdiff1d(np.arange(num_items), np.concatenate([history, targets]))
        noisy[places] = generator.choice(strangers, size=len(places), replace=False)
        histories.append(noisy)
    return replace(cases, histories=tuple(histories))


def cut_history(cases: Cases, length: int) -> Cases:
    """Each history's newest `length` items."""
    return replace(cases, histories=tuple(history[-length:] for history in cases.histories))


def blur_features(features: Features, scale: float, seed: int) -> Features:
    """Gaussian noise added to every present feature, in units of that feature's standard deviation over the catalogue."""
    generator = torch.Generator().manual_seed(seed_of(seed, "blur", str(scale)))
    blurred = {}
    for name, (values, mask) in features.items():
        spread = values[mask].std(0, keepdim=True)
        noise = torch.randn(values.shape, generator=generator) * spread * scale
        blurred[name] = (values + noise * mask[:, None], mask)
    return blurred


def with_features(trained: Trained, features: Features) -> Trained:
    """A copy of a trained model that reads other features for the same catalogue."""
    model = copy.deepcopy(trained.model)
    for module in model.modules():
        if isinstance(module, ItemTable) and hasattr(module, "maps"):
            module.set_features({name: tuple(part.to(trained.model.device) for part in pair) for name, pair in features.items()})
    return replace(trained, model=model)


def rank_noisy(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Test ranks under each level of noise in `params.yaml`: `condition` is `history=share` or `features=scale`."""
    settings, tables = domain.settings.noise, []
    for trained in models:
        cases, features = domain.parts(trained.seed).test, domain.features(trained.seed)
        for share in settings.history_shares:
            noisy = replace_history(cases, share, domain.sequences.num_items, trained.seed)
            tables.append(rank_cases(trained.model, noisy).assign(model=trained.name, seed=trained.seed, condition=f"history={share}"))
        for scale in settings.feature_scales:
            blurred = with_features(trained, blur_features(features, scale, trained.seed))
            tables.append(rank_cases(blurred.model, cases).assign(model=trained.name, seed=trained.seed, condition=f"features={scale}"))
    return pd.concat(tables, ignore_index=True).assign(split="test")


def compare_losses(ranks: pd.DataFrame, ours: tuple[str, str], theirs: tuple[str, str], metric: str, noisy: str, clean: str) -> dict[str, Any]:
    """The paired test of what two (model, view) pairs lose from condition `clean` to `noisy`; above 0: ours loses less."""
    users, tables = user_metrics(ranks), []
    for model, view in (ours, theirs):
        part = users[(users["model"] == model) & (users["view"] == view)].pivot(index=["seed", "user"], columns="condition", values=metric)
        tables.append((part[noisy] - part[clean]).rename(metric).reset_index())
    return {"ours": " ".join(ours), "theirs": " ".join(theirs), "metric": metric, **paired_test(*tables, metric)}


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
        for cases in [domain.parts(int(seed)).test]
        for user, history in zip(cases.users, cases.histories)
    }
    counts = [given[key] for key in zip(ranks["seed"], ranks["user"])]
    return ranks.assign(kind="items in the history", group=name_groups(counts, edges))


def group_by_popularity(domain: Domain, ranks: pd.DataFrame, edges: Sequence[int]) -> pd.DataFrame:
    """The ranks with each target's group: its number of training interactions; a user's targets are counted in the group."""
    counts = {int(seed): np.bincount(np.concatenate(domain.parts(int(seed)).train), minlength=domain.sequences.num_items) for seed in ranks["seed"].unique()}
    ranks = ranks.assign(
        kind="training interactions of the target", group=name_groups([counts[seed][item] for seed, item in zip(ranks["seed"], ranks["item"])], edges)
    )
    return ranks.assign(num_targets=ranks.groupby(["model", "view", "seed", "user", "group"])["item"].transform("size"))


def rank_cut(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Test ranks of all users with histories cut to their newest items (columns kind, group)."""
    tables = []
    for trained in models:
        for length in domain.settings.cold_start.history_cuts:
            cases = cut_history(domain.parts(trained.seed).test, length)
            tables.append(rank_cases(trained.model, cases).assign(model=trained.name, seed=trained.seed, kind="history cut to the newest", group=str(length)))
    return pd.concat(tables, ignore_index=True).assign(split="test")


def order_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of kinds as they come, and within a kind of the groups' first number."""
    first = table["group"].astype(str).str.extract(r"(\d+)")[0].astype(int) + table["group"].astype(str).str.startswith(">")
    kind = table["kind"].map({name: place for place, name in enumerate(dict.fromkeys(table["kind"]))})
    return table.iloc[np.lexsort([first, kind])].reset_index(drop=True)


def carry_view(source: Domain, target: Domain, name: str, seed: int) -> Trained:
    """The multimodal view of a model trained on the source, placed before the target's catalogue, whose features are
    read in the source's space. Nothing of it depends on item ids."""
    donor = train_models(source, [name], [seed])[0].model
    model = build_model(target, "pure-mm", seed, target.features(seed, basis=source))
    model.load_state_dict({key: value for key, value in donor.state_dict().items() if ".multimodal." in key})
    return Trained(f"{name} of {source.name}", seed, model)


def adapt(target: Domain, trained: Trained, share: float, num_steps: int) -> Trained:
    """The model trained further on a share of the target's training users; the same users for every model of a seed."""
    parts, model = target.parts(trained.seed), copy.deepcopy(trained.model)
    generator = np.random.Generator(np.random.PCG64(seed_of(trained.seed, "adapt")))
    chosen = generator.permutation(len(parts.train))[: max(1, round(share * len(parts.train)))]
    few = replace(parts, train=tuple(parts.train[user] for user in sorted(chosen)))
    torch.manual_seed(seed_of(trained.seed, "adapt", "noise"))
    settings = target.settings
    record = fit(model, few, settings.training, seed_of(trained.seed, "adapt", "batches"), settings.studies.primary_metric, num_steps)
    return replace(trained, model=model, record=record)


def _transfer_work(job: tuple[Domain, Domain, str, int, float]) -> pd.DataFrame:
    source, target, start, seed, share = job
    if start == "from scratch":
        trained = Trained(start, seed, build_model(target, "pure-mm", seed, target.features(seed, basis=source)))
    else:
        trained = carry_view(source, target, start.split(" of ")[0], seed)
    if share:
        trained = adapt(target, trained, share, target.settings.transfer.num_steps)
    return rank_models(target, [trained]).assign(model=start, share=share)


def transfer(source: Domain, target: Domain) -> pd.DataFrame:
    """Ranks of the target's test users by a multimodal view that starts from the source (BivRec's, PureMM's) or from
    scratch, zero-shot (share 0) and after training on shares of the target's users (column `share`)."""
    settings = target.settings
    starts = ["bivrec of source", "pure-mm of source", "from scratch"]
    jobs = [
        (source, target, start, seed, share)
        for share in (0.0, *settings.transfer.shares)
        for start in starts
        for seed in settings.studies.retrained_seeds
        if share or start != "from scratch"
    ]
    return pd.concat(side_by_side(_transfer_work, jobs, target), ignore_index=True)
