"""Studies: histories and features disturbed, users and items in groups, a view carried to another domain."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray

from bivrec.domains import Domain, Features
from bivrec.embedding import ItemTable
from bivrec.evaluation import bootstrap_interval, bootstrap_means, paired_test, rank_cases, user_metrics
from bivrec.field import Trained, build_model, rank_models, read_interests, side_by_side, train_model, train_models
from bivrec.sequences import Cases, Parts, fold_of_users
from bivrec.settings import grid_of, vary
from bivrec.training import fit, seed_of

History = Int64[ndarray, "_"]
REACH = 5  # places that a shuffled item may move


def _grid_work(job: tuple[Domain, str, int]) -> pd.DataFrame:
    domain, name, seed = job
    ranks = rank_models(domain, [train_model(domain, name, seed)])
    return user_metrics(ranks)


def train_grid(domain: Domain, name: str, metric: str) -> pd.DataFrame:
    """BivRec under every combination of a grid's settings: one row a trial and view (columns trial, the settings, view,
    value: the metric's mean over test users and seeds, low, high)."""
    trials, seeds = grid_of(domain.settings.grids[name]), domain.settings.studies.retrained_seeds
    label = f"grid-{name}"
    domains = [replace(domain, changes={**domain.changes, "ablations": {f"{label}-{n}": {"family": "bivrec", "settings": t}}}) for n, t in enumerate(trials)]
    jobs = [(changed, f"{label}-{number}", seed) for number, changed in enumerate(domains) for seed in seeds]
    users = pd.concat(side_by_side(_grid_work, jobs, domain), ignore_index=True)
    rows = []
    for (model, view), part in users.groupby(["model", "view"], sort=False):
        number = int(model.rpartition("-")[2])
        value, low, high = bootstrap_interval(part[metric].to_numpy())
        rows.append({"trial": number, **{key: str(value) for key, value in trials[number].items()}, "view": view, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows).sort_values("trial", kind="stable", ignore_index=True)


def _replace(history: History, share: float, strangers: History, generator: np.random.Generator) -> History:
    noisy, places = history.copy(), np.flatnonzero(generator.random(len(history)) < share)
    noisy[places] = generator.choice(strangers, size=len(places), replace=False)
    return noisy


def _insert(history: History, share: float, strangers: History, generator: np.random.Generator) -> History:
    places = np.flatnonzero(generator.random(len(history)) < share)
    return np.insert(history, places, generator.choice(strangers, size=len(places), replace=False))


def _delete(history: History, share: float, strangers: History, generator: np.random.Generator) -> History:
    left = history[generator.random(len(history)) >= share]
    return left if len(left) else history[-1:]


def _shuffle(history: History, share: float, strangers: History, generator: np.random.Generator) -> History:
    moved = generator.random(len(history)) < share
    return history[np.argsort(np.arange(len(history)) + moved * generator.uniform(-REACH, REACH, len(history)), kind="stable")]


HISTORY_NOISE = {"replace": _replace, "insert": _insert, "delete": _delete, "shuffle": _shuffle}


def disturb_histories(histories: Sequence[History], kind: str, share: float, num_items: int, seed: int, targets: Sequence[History] = ()) -> tuple[History, ...]:
    """Each history with a share of its items replaced by random ones, random ones inserted before them, deleted (one
    stays), or moved by up to REACH places. A random item is neither in the history nor among its targets."""
    generator, noisy = np.random.Generator(np.random.PCG64(seed_of(seed, kind, str(share)))), []
    for history, wanted in itertools.zip_longest(histories, targets, fillvalue=np.empty(0, dtype="int64")):
        strangers = np.setdiff1d(np.arange(num_items), np.concatenate([history, wanted]))
        noisy.append(HISTORY_NOISE[kind](history, share, strangers, generator))
    return tuple(noisy)


def disturb_features(features: Features, kind: str, level: float, seed: int) -> Features:
    """Features with Gaussian noise of `level` standard deviations of each over the catalogue (`blur`); or a share of
    the items wearing another item's (`swap`), or without their text or image."""
    generator, changed = torch.Generator().manual_seed(seed_of(seed, kind, str(level))), dict(features)
    chosen = torch.rand(len(next(iter(features.values()))[1]), generator=generator) < level
    places = torch.arange(len(chosen))
    places[chosen] = places[chosen].roll(1)[torch.randperm(int(chosen.sum()), generator=generator)] if kind == "swap" else places[chosen]
    for name, (values, mask) in features.items():
        if kind == "blur":
            noise = torch.randn(values.shape, generator=generator) * values[mask].std(0, keepdim=True) * level
            changed[name] = (values + noise * mask[:, None], mask)
        elif kind == "swap":
            changed[name] = (values[places], mask[places])
        elif kind == f"no_{name}":
            changed[name] = (values * ~chosen[:, None], mask & ~chosen)
    return changed


def disturb(domain: Domain, seed: int, kind: str, level: float, training: bool = False) -> tuple[Parts, Features]:
    """A fold and the features under one kind of noise: of the test histories, or also of all training sequences."""
    parts, features = domain.parts(seed), domain.features(seed)
    for part in kind.split("_and_"):
        if part in HISTORY_NOISE:
            noisy = disturb_histories(parts.test.histories, part, level, domain.sequences.num_items, seed, parts.test.targets)
            parts = replace(parts, test=replace(parts.test, histories=noisy))
            if training:
                parts = replace(parts, train=disturb_histories(parts.train, part, level, domain.sequences.num_items, seed))
        else:
            features = disturb_features(features, part, level, seed)
    return parts, features


def with_features(trained: Trained, features: Features) -> Trained:
    """A copy of a trained model that reads other features for the same catalogue."""
    model = copy.deepcopy(trained.model)
    for module in model.modules() if isinstance(model, torch.nn.Module) else ():
        if isinstance(module, ItemTable) and hasattr(module, "maps"):
            module.set_features({name: tuple(part.to(trained.model.device) for part in pair) for name, pair in features.items()})
    return replace(trained, model=model)


def disturbed(domain: Domain, trained: Trained, kind: str, level: float) -> tuple[Trained, Cases]:
    """A trained model before one kind of noise, and the test cases that it then meets."""
    parts, features = disturb(domain, trained.seed, kind, level)
    return with_features(trained, features), parts.test


def _rank_noisy_work(job: tuple[Domain, Trained]) -> pd.DataFrame:
    domain, trained = job
    clean, tables = rank_cases(trained.model, domain.parts(trained.seed).test), []
    for kind, levels in domain.settings.noise.levels.items():
        for level in levels:
            noisy, cases = disturbed(domain, trained, kind, level)
            tables.append((rank_cases(noisy.model, cases) if level else clean).assign(noise=kind, level=level))
    return pd.concat(tables).assign(model=trained.name, seed=trained.seed, split="test")


def rank_noisy(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Test ranks under each level of each kind of noise in `params.yaml` (columns noise, level)."""
    return pd.concat(side_by_side(_rank_noisy_work, [(domain, trained) for trained in models], domain), ignore_index=True)


def _noisy_work(job: tuple[Domain, str, int, str, float]) -> pd.DataFrame:
    domain, name, seed, kind, level = job
    noisy, features = disturb(domain, seed, kind, level, training=True)
    trained = train_model(domain, name, seed, noisy, features)
    clean = with_features(trained, domain.features(seed)), domain.parts(seed)
    tables = [rank_cases(on.model, parts.test).assign(tested=how) for how, (on, parts) in {"noisy": (trained, noisy), "clean": clean}.items()]
    return pd.concat(tables).assign(model=name, seed=seed, noise=kind, level=level, split="test")


def train_noisy(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Ranks of models trained under noise (`noise.trained`), on test users as noisy and on clean ones (column tested)."""
    settings = domain.settings
    levels = [(kind, level) for kind, levels in settings.noise.trained.items() for level in levels]
    jobs = [(domain, name, seed, *noise) for noise in levels for name in names for seed in settings.studies.retrained_seeds]
    return pd.concat(side_by_side(_noisy_work, jobs, domain), ignore_index=True)


def noise_curves(ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What is kept of the clean metric, by model and view, at each level of each noise: mean over users and seeds, and the
    95 % interval of the ratio over resampled users."""
    rows = []
    for (noise, model, view), users in user_metrics(ranks).groupby(["noise", "model", "view"], sort=False):
        table = users.pivot(index=["seed", "user"], columns="level", values=metric)
        drawn = np.stack([bootstrap_means(table[level].to_numpy(), 2000) for level in table], 1)
        low, high = np.quantile(drawn / drawn[:, :1], [0.025, 0.975], axis=0)
        means = table.mean()
        rows += zip(itertools.repeat(noise), itertools.repeat(model), itertools.repeat(view), means.index, means, means / means.iloc[0], low, high)
    order, names = list(dict.fromkeys(ranks["noise"])), ["noise", "model", "view", "level", "value", "kept", "low", "high"]
    return pd.DataFrame(rows, columns=names).sort_values("noise", key=lambda noise: noise.map(order.index), kind="stable", ignore_index=True)


def breaking_points(curves: pd.DataFrame, least: float = 0.9) -> pd.DataFrame:
    """By model, view and noise: the area under the curve of what is kept, over the levels' span (1: nothing lost), and the
    level, between those tried by a straight line, at which less than `least` is kept (nothing where it never is)."""
    rows = []
    for key, curve in curves.groupby(["noise", "model", "view"], sort=False):
        level, kept = curve.sort_values("level")[["level", "kept"]].to_numpy().T
        after = np.argmax(kept < least) if (kept < least).any() else None
        breaks = np.nan if after is None else np.interp(least, [kept[after], kept[after - 1]], [level[after], level[after - 1]])
        rows.append((*key, np.trapezoid(kept, level) / level[-1], breaks))
    return pd.DataFrame(rows, columns=["noise", "model", "view", "area", "breaks at"])


def view_balance(trained: Trained, cases: Cases, k: int = 20) -> dict[str, float]:
    """How the two views share in what is recommended together: the part of the combined top k that each view's own top k
    holds, and the part that both views' hold of each other's. A view near 0 is not heard; views near 1 are copies."""
    top = {view: scores.topk(k, -1).indices for view, scores in trained.model.score(cases.histories).items()}

    def common(a: str, b: str) -> float:
        return float((top[a][:, :, None] == top[b][:, None]).any(-1).float().mean())

    return {"id in both": common("both", "id"), "multimodal in both": common("both", "multimodal"), "id in multimodal": common("id", "multimodal")}


@torch.inference_mode()
def diagnose(domain: Domain, trained: Trained, metric: str = "ndcg@20") -> pd.DataFrame:
    """The failure signatures that the paper's summary names, of one trained model, by view: what is left of the metric with
    the newest three items alone (cold-start users), with 30 % of the history replaced or of the features swapped (noise),
    and what part of the combined top 20 each view's own holds (imbalance; a view near 0 is not heard). Columns
    diagnostic, view, value."""
    cases = domain.parts(trained.seed).test
    met = {
        "clean": (trained, cases),
        "kept with the newest 3 items": (trained, replace(cases, histories=tuple(history[-3:] for history in cases.histories))),
        "kept with 30 % of the items replaced": disturbed(domain, trained, "replace", 0.3),
        "kept with 30 % of the features swapped": disturbed(domain, trained, "swap", 0.3),
    }
    means = {name: user_metrics(rank_cases(model.model, asked)).groupby("view")[metric].mean() for name, (model, asked) in met.items()}
    rows = [(name, view, value / means["clean"][view]) for name in list(met)[1:] for view, value in means[name].items()]
    if "both" in means["clean"] and "id" in means["clean"]:
        shares = view_balance(trained, cases)
        rows += [("part of the combined top 20", view, shares[f"{view} in both"]) for view in ("id", "multimodal")]
    return pd.DataFrame(rows, columns=["diagnostic", "view", "value"])


def compare_losses(ranks: pd.DataFrame, ours: tuple[str, str], theirs: tuple[str, str], metric: str, noise: str, level: float) -> dict[str, Any]:
    """The paired test of what two (model, view) pairs lose from clean to one level of noise; above 0: ours loses less."""
    users, tables = user_metrics(ranks[(ranks["noise"] == noise) & ranks["level"].isin([0, level])]), []
    for model, view in (ours, theirs):
        part = users[(users["model"] == model) & (users["view"] == view)].pivot(index=["seed", "user"], columns="level", values=metric)
        tables.append((part[level] - part[0]).rename(metric).reset_index())
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
            cases = domain.parts(trained.seed).test
            cases = replace(cases, histories=tuple(history[-length:] for history in cases.histories))
            tables.append(rank_cases(trained.model, cases).assign(model=trained.name, seed=trained.seed, kind="history cut to the newest", group=str(length)))
    return pd.concat(tables, ignore_index=True).assign(split="test")


def order_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of kinds as they come, and within a kind of the groups' first number."""
    first = table["group"].astype(str).str.extract(r"(\d+)")[0].astype(int) + table["group"].astype(str).str.startswith(">")
    kind = table["kind"].map({name: place for place, name in enumerate(dict.fromkeys(table["kind"]))})
    return table.iloc[np.lexsort([first, kind])].reset_index(drop=True)


def new_items(domain: Domain) -> Bool[ndarray, "catalogue"]:
    """The items that are held out of training altogether: a share of the catalogue, by a fixed hash of the item."""
    ids = domain.sequences.catalogue["item"].to_numpy()
    return fold_of_users(ids, 1000) < 1000 * domain.settings.cold_start.new_items_share


def without_new_items(parts: Parts, new: Bool[ndarray, "catalogue"]) -> Parts:
    """The fold as it is before the new items come: in no training sequence, no history and no target of validation; the
    test's targets are the new items alone. Who has none left is left out."""

    def cases(part: Cases, wanted: Bool[ndarray, "catalogue"]) -> Cases:
        rows = [(u, h[~new[h]], t[wanted[t]]) for u, h, t in zip(part.users, part.histories, part.targets)]
        rows = [row for row in rows if len(row[1]) and len(row[2])]
        return Cases(np.array([row[0] for row in rows], dtype="int64"), *(tuple(row[place] for row in rows) for place in (1, 2)))

    train = tuple(row[~new[row]] for row in parts.train)
    return replace(parts, train=train, validation=cases(parts.validation, ~new), test=cases(parts.test, new))


def train_before(domain: Domain, name: str, seed: int, new: Bool[ndarray, "catalogue"]) -> Trained:
    """A model trained when the new items did not exist: they are in no sequence and in no softmax, so that nothing pushes
    them down. Then the catalogue grows: their features are read as any other's, their ID vectors are as initialised."""
    known, number = np.flatnonzero(~new), np.cumsum(~new) - 1
    parts, settings = without_new_items(domain.parts(seed), new), domain.settings
    train, histories, targets = (tuple(number[row] for row in rows) for rows in (parts.train, parts.validation.histories, parts.validation.targets))
    before = replace(parts, train=train, validation=replace(parts.validation, histories=histories, targets=targets))
    features = {kind: (values[known], mask[known]) for kind, (values, mask) in domain.features(seed).items()}
    small, whole = build_model(domain, name, seed, features, len(known)), build_model(domain, name, seed)
    torch.manual_seed(seed_of(seed, name, "noise"))
    training = vary(settings, domain.variant(name), name).training
    record = fit(small, before, training, seed_of(seed, "batches"), settings.studies.primary_metric)
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
        ids[chosen] = torch.nn.functional.normalize(projected[chosen], dim=-1) * ids[~chosen].norm(dim=-1).mean()
    return replace(trained, name=f"{trained.name}, lent", model=model)


def _new_items_work(job: tuple[Domain, str, int]) -> pd.DataFrame:
    domain, name, seed = job
    trained = train_before(domain, name, seed, new := new_items(domain))
    cases = without_new_items(domain.parts(seed), new).test
    tables = [rank_cases(trained.model, cases).assign(model=name)]
    if name == "bivrec":
        lent = rank_cases((lender := lend_vectors(trained, new)).model, cases).assign(model=lender.name)
        tables.append(lent[lent["view"] != "multimodal"])  # which reads no ID vector
    return pd.concat(tables).assign(seed=seed, split="test")


def rank_new_items(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Ranks of items that no training, validation or history has met, in the full catalogue; of BivRec also with ID vectors
    lent to them (`lend_vectors`)."""
    jobs = [(domain, name, seed) for name in names for seed in domain.settings.studies.retrained_seeds]
    return pd.concat(side_by_side(_new_items_work, jobs, domain), ignore_index=True)


def interest_use(domain: Domain, models: Sequence[Trained], edges: Sequence[int]) -> pd.DataFrame:
    """How each test user's patches are shared among the interests, by model, view and length of the history: the
    effective number of interests in use (the exponential of the entropy of their shares, 1 to K), and how clearly a patch
    belongs to one (its largest share)."""
    rows = []
    for trained in models:
        cases = domain.parts(trained.seed).test
        groups = name_groups([len(history) for history in cases.histories], edges)
        for view, read in read_interests(trained, cases).items():
            weights = read["mask"][None, :, :, None] / read["mask"].sum(1)[None, :, None, None] / len(read["shares"])
            used = (read["shares"] * weights).sum((0, 2))
            table = pd.DataFrame({"group": groups, "interests in use": (-(used * used.log()).sum(-1)).exp().cpu()})
            table["clearest share"] = (read["shares"].amax(-1) * weights[..., 0]).sum((0, 2)).cpu()
            rows.append(table.assign(model=trained.name, view=view, seed=trained.seed))
    return pd.concat(rows, ignore_index=True)


def carry_view(source: Domain, target: Domain, name: str, seed: int, into: str = "pure-mm") -> Trained:
    """The multimodal view of a model trained on the source, placed before the target's catalogue, whose features are
    read in the source's space. Nothing of it depends on item ids. `into` bivrec, an untrained ID view stands beside it."""
    donor = train_models(source, [name], [seed])[0].model
    model = build_model(target, into, seed, target.features(seed, basis=source))
    carried = {key: value for key, value in donor.state_dict().items() if ".multimodal." in key}
    model.load_state_dict(model.state_dict() | carried)
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


STARTS = {  # of the cross-dataset study: the source's model (None: fresh weights), the model it is put into, whether its tokens stay
    "bivrec of source": ("bivrec", "pure-mm", False),
    "bivrec of source, tokens kept": ("bivrec", "pure-mm", True),
    "pure-mm of source": ("pure-mm", "pure-mm", False),
    "from scratch": (None, "pure-mm", False),
    "bivrec of source, with ID view": ("bivrec", "bivrec", False),
    "from scratch, with ID view": (None, "bivrec", False),
}


def _transfer_work(job: tuple[Domain, Domain, str, int, float]) -> pd.DataFrame:
    source, target, start, seed, share = job
    name, into, kept = STARTS[start]
    if name is None:
        trained = Trained(start, seed, build_model(target, into, seed, target.features(seed, basis=source)))
    else:
        trained = carry_view(source, target, name, seed, into)
    for view in trained.model.views.values():
        view.clusters.tokens.requires_grad_(not kept)
    if share:
        trained = adapt(target, trained, share, target.settings.transfer.num_steps)
    return rank_models(target, [trained]).assign(model=start, share=share)


def transfer(source: Domain, target: Domain) -> pd.DataFrame:
    """Ranks of the target's test users by models that start from the source or from scratch (`STARTS`), zero-shot (share 0,
    of those that know enough) and after training on shares of the target's users (column `share`)."""
    settings = target.settings
    jobs = [
        (source, target, start, seed, share)
        for share in (0.0, *settings.transfer.shares)
        for start, (name, into, kept) in STARTS.items()
        for seed in settings.studies.retrained_seeds
        if share or (name and into == "pure-mm" and not kept)
    ]
    return pd.concat(side_by_side(_transfer_work, jobs, target), ignore_index=True)


def protocol_domain(domain: Domain, protocol: str) -> Domain:
    """The domain split another way."""
    return domain if protocol == domain.settings.split.protocol else replace(domain, changes={**domain.changes, "split.protocol": protocol})


def rank_protocols(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Test ranks of the same models under each of `studies.protocols` (column protocol)."""
    tables, seeds = [], domain.settings.studies.retrained_seeds
    for protocol in domain.settings.studies.protocols:
        judged = protocol_domain(domain, protocol)
        tables.append(rank_models(judged, train_models(judged, names, seeds), protocol=protocol))
    return pd.concat(tables, ignore_index=True)


def protocol_table(ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Each model and view under each protocol: the metric with its 95 % interval over users, a user's seeds averaged first."""
    users = user_metrics(ranks).groupby(["protocol", "model", "view", "user"], sort=False)[metric].mean()
    groups = users.groupby(["protocol", "model", "view"], sort=False)
    rows = [(*key, *bootstrap_interval(part.to_numpy()), len(part)) for key, part in groups]
    return pd.DataFrame(rows, columns=["protocol", "model", "view", "mean", "low", "high", "users"])
