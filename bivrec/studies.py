"""Studies: domains opened, models of the field trained side by side, histories and features disturbed, figures recorded."""

import copy
import ctypes
import hashlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bivrec.baselines import DIFSR, FDSA, MMMLP, NOVA, ComiRecSA, GRU4Rec, ItemNeighbours, MMSRec, Popularity, SASRec, SummedSASRec
from bivrec.domains import Domain, Features
from bivrec.embedding import ItemTable
from bivrec.evaluation import paired_test, rank_cases, user_metrics
from bivrec.model import BivRec, pad
from bivrec.results import kept_folder
from bivrec.sequences import Cases, DataError
from bivrec.settings import Settings, profile_folder, vary
from bivrec.training import Fit, choose_device, fit, num_workers, seed_of

RUN_COLUMNS = ["profile", "dataset", "protocol", "study", "condition", "model", "view", "seed", "split", "metric", "value"]

FAMILIES = {  # the slower to train, the earlier
    "bivrec": BivRec, "sasrec-sum": SummedSASRec, "fdsa": FDSA, "mmmlp": MMMLP, "dif-sr": DIFSR, "nova": NOVA, "mmsrec": MMSRec,
    "gru4rec": GRU4Rec, "sasrec": SASRec, "comirec-sa": ComiRecSA, "itemknn": ItemNeighbours, "popularity": Popularity,
}  # fmt: skip
CODE = ("sequences", "features", "recommendation", "embedding", "decomposition", "cross_view", "model", "baselines", "training")


@dataclass(frozen=True)
class Trained:
    """A model ready to rank, and the record of its training (None where nothing is trained by gradients)."""

    name: str
    seed: int
    model: Any
    record: Fit | None = None

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters()) if self.record else 0


def build_model(domain: Domain, name: str, seed: int, features: Features | None = None, num_items: int | None = None):
    """A model of the field before training, its weights drawn from the seed and the model's name."""
    variant, sequences = domain.variant(name), domain.sequences
    settings = vary(domain.settings, variant, name)
    num_items = num_items or sequences.num_items
    if variant.family == "popularity":
        return Popularity(domain.parts(seed).train, num_items)
    if variant.family == "itemknn":
        return ItemNeighbours(settings.itemknn, domain.parts(seed).train, num_items)
    torch.manual_seed(seed_of(seed, name, "weights"))
    return FAMILIES[variant.family](settings, num_items, features or domain.features(seed)).to(choose_device(settings.machine))


def train_model(domain: Domain, name: str, seed: int) -> Trained:
    """One model on one fold."""
    model = build_model(domain, name, seed)
    if not isinstance(model, torch.nn.Module):
        return Trained(name, seed, model)
    settings = vary(domain.settings, domain.variant(name), name)
    torch.manual_seed(seed_of(seed, name, "noise"))
    return Trained(name, seed, model, fit(model, domain.parts(seed), settings.training, seed_of(seed, "batches"), settings.studies.primary_metric))


def describe_run(domain: Domain, name: str, seed: int) -> str:
    """What a checkpoint must match to be used: code, dataset, model, seed, and every setting that the training read."""
    settings = TypeAdapter(Settings).dump_python(vary(domain.settings, domain.variant(name), name), mode="json")
    read = {key: settings[key] for key in ("split", "features", "model", "cross_view", "baseline", "training")}
    code = hashlib.sha256(b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in CODE)).hexdigest()
    return json.dumps({"code": code, "dataset": domain.name, "model": name, "seed": seed, "settings": read}, sort_keys=True)


def save_checkpoint(domain: Domain, trained: Trained, path: Path) -> None:
    """Weights and their description as safetensors, put in place whole."""
    state = {key: value.contiguous().cpu() for key, value in trained.model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path.with_suffix(".part"), {"run": describe_run(domain, trained.name, trained.seed)})
    os.replace(path.with_suffix(".part"), path)


def load_checkpoint(domain: Domain, name: str, seed: int, path: Path | None = None, features: Features | None = None):
    """A trained model from its checkpoint, or None when there is none for these settings."""
    path = path or profile_folder("build", domain.profile) / "03_training" / domain.name / f"{name}-{seed}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("run") != describe_run(domain, name, seed):
                return None
            state = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError:
        raise DataError(f"the checkpoint {path.name} is damaged; remove it and run `make repro`") from None
    model = build_model(domain, name, seed, features)
    model.load_state_dict(state)
    return model.eval()


def _begin_worker() -> None:
    """One thread; and the worker ends when the notebook's kernel does, however that ended."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def side_by_side(work: Callable, jobs: Sequence, domain: Domain) -> list:
    """The jobs' results in order, one job a process and one thread each; with one worker, here."""
    torch.set_num_threads(1)
    workers = min(num_workers(domain.settings.machine), len(jobs))
    if workers < 2:
        return [work(job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
        return list(pool.map(work, jobs))


def _train_work(job: tuple[Domain, str, int]) -> Trained:
    return train_model(*job)


def train_models(domain: Domain, names: Sequence[str], seeds: Sequence[int] | None = None, fresh: bool = False) -> list[Trained]:
    """Every model on every seed, side by side. Unless `fresh`, what 03 trained with this code and these settings is
    loaded instead; planted has no checkpoints and is always trained."""
    seeds = domain.settings.studies.seeds if seeds is None else seeds
    jobs = [(name, seed) for name in names for seed in seeds]
    loaded = {} if fresh else {job: load_checkpoint(domain, *job) for job in jobs}
    trained = {job: Trained(*job, model) for job, model in loaded.items() if model is not None}
    wanted = sorted((job for job in jobs if job not in trained), key=lambda job: list(FAMILIES).index(domain.variant(job[0]).family))
    trained |= dict(zip(wanted, side_by_side(_train_work, [(domain, *job) for job in wanted], domain)))
    return [trained[job] for job in jobs]


def keep_checkpoints(domain: Domain, models: Sequence[Trained]) -> None:
    """Every trained model's weights, for the later stages."""
    if folder := kept_folder("build"):
        for trained in models:
            if trained.record:
                save_checkpoint(domain, trained, folder / f"{trained.name}-{trained.seed}.safetensors")


def learning_curves(models: Sequence[Trained]) -> pd.DataFrame:
    """Loss and validation metrics by step, of every model that was trained by gradients here."""
    return pd.concat([t.record.curve.assign(model=t.name, seed=t.seed) for t in models if t.record], ignore_index=True)


def rank_models(domain: Domain, models: Sequence[Trained], split: str = "test", **labels: str) -> pd.DataFrame:
    """The ranks of every target of the split's users, by model, seed and view, with further labels as columns."""
    tables = []
    for trained in models:
        ranks = rank_cases(trained.model, getattr(domain.parts(trained.seed), split))
        tables.append(ranks.assign(model=trained.name, seed=trained.seed, split=split, **labels))
    return pd.concat(tables, ignore_index=True)


def to_runs(domain: Domain, study: str, ranks: pd.DataFrame) -> pd.DataFrame:
    """Means over users in the columns of runs.csv; `condition` is empty unless the ranks carry one."""
    ranks = ranks if "condition" in ranks else ranks.assign(condition="")
    keys = ["condition", "model", "view", "seed", "split"]
    table = user_metrics(ranks)
    names = [name for name in table.columns if "@" in name]
    table = table.groupby(keys, sort=True)[names].mean().reset_index().melt(keys, var_name="metric", value_name="value")
    table = table.assign(profile=domain.profile, dataset=domain.name, protocol=domain.settings.split.protocol, study=study)
    return table[RUN_COLUMNS].sort_values(RUN_COLUMNS[:-1]).reset_index(drop=True)


def cost_runs(domain: Domain, models: Sequence[Trained], study: str, seconds: bool = False) -> pd.DataFrame:
    """What each training cost: parameters, targets seen, epochs, best step; and seconds, which no two runs agree on: apart in the
    default profile, whose runs are the same bytes each time, and with the rest in the others."""
    rows = []
    for trained in models:
        if trained.record:
            record, targets = trained.record, sum(len(row) - 1 for row in domain.parts(trained.seed).train)
            figures = {
                "parameters": trained.num_parameters,
                "targets": record.num_targets,
                "epochs": record.num_targets / targets,
                "best_step": record.best_step,
            }
            clock = {"seconds": round(record.seconds, 1)}
            for metric, value in (clock if seconds else figures if domain.profile == "default" else figures | clock).items():
                rows.append((domain.profile, domain.name, domain.settings.split.protocol, study, "", trained.name, "", trained.seed, "train", metric, value))
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


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


def name_groups(counts: Sequence[int | np.integer], edges: Sequence[int]) -> pd.Categorical:
    """Counts in groups that end at the edges, named in order."""
    lows = [0, *(edge + 1 for edge in edges)]
    names = [f"{low}-{high}" for low, high in zip(lows, edges)] + [f"> {edges[-1]}"]
    return pd.Categorical.from_codes(np.searchsorted(edges, counts), names, ordered=True)


def order_groups(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of kinds as they come, and within a kind of the groups' first number."""
    first = table["group"].astype(str).str.extract(r"(\d+)")[0].astype(int) + table["group"].astype(str).str.startswith(">")
    kind = table["kind"].map({name: place for place, name in enumerate(dict.fromkeys(table["kind"]))})
    return table.iloc[np.lexsort([first, kind])].reset_index(drop=True)


def compare(ranks: pd.DataFrame, ours: tuple[str, str], theirs: tuple[str, str], metric: str) -> dict[str, Any]:
    """The paired test of two (model, view) pairs over the same users."""
    users = user_metrics(ranks)
    tables = [users[(users["model"] == model) & (users["view"] == view)][["seed", "user", metric]] for model, view in (ours, theirs)]
    return {"ours": " ".join(ours), "theirs": " ".join(theirs), "metric": metric, **paired_test(*tables, metric)}


def compare_losses(ranks: pd.DataFrame, ours: tuple[str, str], theirs: tuple[str, str], metric: str, noisy: str, clean: str) -> dict[str, Any]:
    """The paired test of what two (model, view) pairs lose from condition `clean` to `noisy`; above 0: ours loses less."""
    users, tables = user_metrics(ranks), []
    for model, view in (ours, theirs):
        part = users[(users["model"] == model) & (users["view"] == view)].pivot(index=["seed", "user"], columns="condition", values=metric)
        tables.append((part[noisy] - part[clean]).rename(metric).reset_index())
    return {"ours": " ".join(ours), "theirs": " ".join(theirs), "metric": metric, **paired_test(*tables, metric)}


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


def rank_cut(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Test ranks of all users with histories cut to their newest items (columns kind, group)."""
    tables = []
    for trained in models:
        for length in domain.settings.cold_start.history_cuts:
            cases = cut_history(domain.parts(trained.seed).test, length)
            tables.append(rank_cases(trained.model, cases).assign(model=trained.name, seed=trained.seed, kind="history cut to the newest", group=str(length)))
    return pd.concat(tables, ignore_index=True).assign(split="test")


@torch.no_grad()
def read_interests(trained: Trained, cases: Cases) -> dict[str, dict[str, torch.Tensor]]:
    """By view: each user's final interests [case interest dim], the shares of patches [scale case position interest], and
    the items' vectors; beside them the rows of items and their mask. Noise-free."""
    model = trained.model.eval()
    items, mask = (part.to(model.device) for part in pad(cases.histories, model.max_length, model.multiple))
    tables, last = model.tables(), mask.sum(1) - 1
    read = model.read(items, mask, tables)
    rows = torch.arange(len(items))
    return {
        view: {"interests": interests[rows, last], "shares": allocation.softmax(-1), "table": tables[view], "items": items, "mask": mask}
        for view, (interests, allocation) in read.items()
    }


def interest_recovery(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Adjusted mutual information between the interest an item of a test history is given to and its kind (planted: the
    true one; films: the first genre), by model, view and seed. 1: the same grouping, 0: no better than chance."""
    from sklearn.metrics import adjusted_mutual_info_score

    kinds, rows = domain.kinds, []
    for trained in models:
        pooled = vary(domain.settings, domain.variant(trained.name), trained.name).model.pooling
        for view, read in read_interests(trained, domain.parts(trained.seed).test).items():
            given = read["shares"][0][read["mask"]].argmax(-1).cpu().numpy() * (pooled == "cluster")
            agreement = adjusted_mutual_info_score(kinds[read["items"][read["mask"]].cpu().numpy()], given)
            rows.append((trained.name, view, trained.seed, agreement))
    return pd.DataFrame(rows, columns=["model", "view", "seed", "agreement"])


def _tuning_work(job: tuple[Domain, str, int, int, dict[str, Any]]) -> list[dict[str, Any]]:
    domain, name, number, seed, trial = job
    settings = {**domain.variant(name).settings, **trial, "training.num_steps": domain.settings.tuning.num_steps}
    record = train_model(replace(domain, changes={**domain.changes, f"models.{name}.settings": settings}), name, seed).record
    metric, curve = domain.settings.studies.primary_metric, record.curve
    best = curve[(curve["step"] == record.best_step) & (curve["metric"] == metric)]
    shared = {"dataset": domain.name, "model": name, "trial": number, **trial, "seed": seed, "best_step": record.best_step}
    return [shared | {"view": row.view, "metric": metric, "value": row.value} for row in best.itertuples()]


def tune(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """The same grid for every model (params.yaml: tuning), judged by the validation users of folds that test nothing: one
    row a model, trial, seed and view."""
    settings = domain.settings.tuning
    trials = [dict(zip(settings.grid, values)) for values in itertools.product(*settings.grid.values())]
    jobs = [(domain, name, number, seed, trial) for name in names for number, trial in enumerate(trials) for seed in settings.seeds]
    return pd.DataFrame([row for rows in side_by_side(_tuning_work, jobs, domain) for row in rows])
