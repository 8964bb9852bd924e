"""The field: every model by its name, trained side by side, kept, ranked, compared and tuned alike."""

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

import pandas as pd
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from bivrec.baselines import DIFSR, FDSA, MMMLP, NOVA, ComiRecSA, GRU4Rec, ItemNeighbours, MMSRec, Popularity, SASRec, SummedSASRec
from bivrec.domains import Domain, Features
from bivrec.evaluation import paired_test, rank_cases, user_metrics
from bivrec.model import BivRec, pad
from bivrec.results import kept_folder, progress
from bivrec.sequences import Cases, DataError, Parts
from bivrec.settings import Settings, SettingsError, grid_of, profile_folder, training_profile, vary
from bivrec.training import Fit, choose_device, draw_batches, fit, num_workers, seed_of

RUN_COLUMNS = ["profile", "dataset", "protocol", "study", "condition", "model", "view", "seed", "split", "metric", "value"]

FAMILIES = {  # the slower to train, the earlier
    "bivrec": BivRec, "sasrec-sum": SummedSASRec, "fdsa": FDSA, "mmmlp": MMMLP, "dif-sr": DIFSR, "nova": NOVA, "mmsrec": MMSRec,
    "gru4rec": GRU4Rec, "sasrec": SASRec, "comirec-sa": ComiRecSA, "itemknn": ItemNeighbours, "popularity": Popularity,
}  # fmt: skip
CODE = ("sequences", "features", "processes", "recommendation", "embedding", "decomposition", "cross_view", "model", "baselines", "training")


@dataclass(frozen=True)
class Trained:
    """A model ready to rank, and the record of its training (None where nothing is trained by gradients)."""

    name: str
    seed: int
    model: Any
    record: Fit | None = None

    def __reduce__(self):
        """A model on a GPU travels between processes by way of the CPU."""
        device = getattr(self.model, "device", torch.device("cpu"))
        model = self.model if device.type == "cpu" else copy.deepcopy(self.model).cpu()
        return _arrive, (self.name, self.seed, model, self.record, device)

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters()) if self.record else 0


def _arrive(name: str, seed: int, model: Any, record: Fit | None, device: torch.device) -> Trained:
    return Trained(name, seed, model if device.type == "cpu" else model.to(device), record)


def build_model(domain: Domain, name: str, seed: int, features: Features | None = None, num_items: int | None = None):
    """A model of the field before training, its weights drawn from the seed and the model's name."""
    variant, sequences = domain.variant(name), domain.sequences
    settings = vary(domain.settings, variant, name)
    num_items = num_items or sequences.num_items
    if settings.model.num_interests > num_items:
        raise SettingsError(
            f"params.yaml: model.num_interests (K) is {settings.model.num_interests}, more than the {num_items} items of {domain.name}; lower it"
        )
    if variant.family == "popularity":
        return Popularity(domain.parts(seed).train, num_items)
    if variant.family == "itemknn":
        return ItemNeighbours(settings.itemknn, domain.parts(seed).train, num_items)
    torch.manual_seed(seed_of(seed, name, "weights"))
    return FAMILIES[variant.family](settings, num_items, features or domain.features(seed)).to(choose_device(settings.machine))


def train_model(domain: Domain, name: str, seed: int, parts: Parts | None = None, features: Features | None = None) -> Trained:
    """One model on one fold; a study may hand in the fold or the features otherwise than they are."""
    model = build_model(domain, name, seed, features)
    if not isinstance(model, torch.nn.Module):
        return Trained(name, seed, model)
    settings = vary(domain.settings, domain.variant(name), name)
    metric, folder = settings.studies.primary_metric, kept_folder("partial")
    torch.manual_seed(seed_of(seed, name, "noise"))
    usual = folder and parts is None and features is None
    kept = folder / f"{hashlib.sha256((describe_run(domain, name, seed) + metric).encode()).hexdigest()}.safetensors" if usual else None
    return Trained(name, seed, model, fit(model, parts or domain.parts(seed), settings.training, seed_of(seed, "batches"), metric, kept=kept))


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
    profile = training_profile(domain.profile, domain.settings.studies)
    path = path or profile_folder("build", profile) / "03_training" / domain.name / f"{name}-{seed}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("run") != describe_run(domain, name, seed):
                return None
            state = {key: file.get_tensor(key) for key in file.keys()}
        model = build_model(domain, name, seed, features)
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError):
        raise DataError(f"the checkpoint {path.name} is damaged; remove it and run `make repro`") from None
    return model.eval()


def _begin_worker() -> None:
    """One thread and no bars; and the worker ends when the notebook's kernel does, however that ended."""
    os.environ["BIVREC_TERMINAL"] = ""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def side_by_side(work: Callable, jobs: Sequence, domain: Domain) -> list:
    """The jobs' results in order, one job a process and one thread each; with one worker, here."""
    torch.set_num_threads(1)
    workers = min(num_workers(domain.settings.machine), len(jobs))
    told = work.__name__.strip("_").removesuffix("_work")
    if workers < 2:
        return [work(job) for job in progress(jobs, told, "jobs")]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
        return list(progress(pool.map(work, jobs), told, "jobs", len(jobs)))


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
    for trained in progress(models, "ranking", "models"):
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


UNKNOWN_TO_COUNTER = {  # operators of ours that PyTorch's counter passes over: the same products in place, and attention on a CPU
    torch.ops.aten.addmm_: lambda _, a, b, out_shape=None, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v),
}


def count_costs(domain: Domain, name: str, num_batches: int = 10) -> dict[str, float]:
    """What a training step costs on any machine. flops_per_step: floating-point operations of all matrix products that
    PyTorch's own operators take, forward and backward, the mean over a few batches, since rows of like length go together.
    memory_mb: weights, gradients, the optimiser's two moments, the average, frozen features, and the most that any of the
    batches keeps for its backward pass; what is let go at once is not counted."""
    model, settings = build_model(domain, name, 0).train(), vary(domain.settings, domain.variant(name), name).training
    batches = draw_batches(domain.parts(0).train, settings, model.max_length, model.multiple, 0, model.device)
    weights = sum(p.nbytes for p in model.parameters())
    lasting = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.buffers()}
    still, most = {p.untyped_storage().data_ptr() for p in model.parameters()} | lasting.keys(), 0
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        for batch in itertools.islice(batches, num_batches):
            held: dict[int, torch.UntypedStorage] = {}  # themselves, so that no place is given out twice

            def hold(tensor: torch.Tensor, held: dict = held) -> torch.Tensor:
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
                loss = model.loss(batch)
            most = max(most, sum(storage.nbytes() for place, storage in held.items() if place not in still))
            loss.backward()
    return {"flops_per_step": counter.get_total_flops() / num_batches, "memory_mb": (5 * weights + sum(lasting.values()) + most) / 1e6}


def cost_runs(domain: Domain, models: Sequence[Trained], study: str, seconds: bool = False) -> pd.DataFrame:
    """What each training cost: parameters, operations and memory of a step, targets seen, epochs, best step; and seconds
    (all, of an epoch, to the best step), which no two runs agree on: apart in the default profile, whose runs are the same bytes each time, and with
    the rest in the others."""
    names = dict.fromkeys(trained.name for trained in models if trained.record)
    rows, counted = [], {name: {} if seconds else count_costs(domain, name) for name in names}
    for trained in models:
        if trained.record:
            record, targets = trained.record, sum(len(row) - 1 for row in domain.parts(trained.seed).train)
            figures = {
                "parameters": trained.num_parameters,
                **counted[trained.name],
                "targets": record.num_targets,
                "epochs": record.num_targets / targets,
                "best_step": record.best_step,
            }
            to_best = record.curve.loc[record.curve["step"] == record.best_step, "seconds"].iloc[0]
            clock = {"seconds": round(record.seconds, 1), "seconds_to_best": round(to_best, 1)}
            clock["seconds_per_epoch"] = round(record.seconds / figures["epochs"], 2)
            for metric, value in (clock if seconds else figures if domain.profile == "default" else figures | clock).items():
                rows.append((domain.profile, domain.name, domain.settings.split.protocol, study, "", trained.name, "", trained.seed, "train", metric, value))
    return pd.DataFrame(rows, columns=RUN_COLUMNS)


def compare(ranks: pd.DataFrame, ours: tuple[str, str], theirs: tuple[str, str], metric: str) -> dict[str, Any]:
    """The paired test of two (model, view) pairs over the same users."""
    users = user_metrics(ranks)
    tables = [users[(users["model"] == model) & (users["view"] == view)][["seed", "user", metric]] for model, view in (ours, theirs)]
    return {"ours": " ".join(ours), "theirs": " ".join(theirs), "metric": metric, **paired_test(*tables, metric)}


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
    jobs = [(domain, name, number, seed, trial) for name in names for number, trial in enumerate(grid_of(settings.grid)) for seed in settings.seeds]
    return pd.DataFrame([row for rows in side_by_side(_tuning_work, jobs, domain) for row in rows])
