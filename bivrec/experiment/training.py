"""Models trained on folds."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from bivrec.data.domain import Domain, Features, check_variants
from bivrec.data.types import Fold
from bivrec.experiment.checkpoints import describe_run, load_checkpoint
from bivrec.experiment.registry import FAMILIES, Trained, build_model, check_own
from bivrec.experiment.workers import run_jobs
from bivrec.outputs import output_folder
from bivrec.settings import vary
from bivrec.training.loop import fit
from bivrec.training.seeds import derive_seed
from bivrec.training.watch import on_evaluate


def train_model(
    domain: Domain, name: str, seed: int, fold: Fold | None = None, features: Features | None = None
) -> Trained:
    """One model on the fold of its seed; a study may replace the fold or the features, and is then
    neither resumed nor watched.
    """
    model = build_model(domain, name, seed, features)
    if not isinstance(model, torch.nn.Module):
        return Trained(name, seed, model)
    settings = vary(domain.settings, domain.variant(name), name)
    metric, as_it_is = settings.studies.primary_metric, fold is None and features is None
    path = resume_path(domain, name, seed, metric) if as_it_is else None
    torch.manual_seed(derive_seed(seed, name, "noise"))
    batch_seed = derive_seed(seed, "batches")
    fold = fold or domain.fold(seed)
    watch = on_evaluate() if as_it_is else None
    tell = partial(watch, domain.name, name, seed) if watch else None
    record = fit(model, fold, settings.training, batch_seed, metric, None, path, tell)
    return Trained(name, seed, model, record)


def resume_path(domain: Domain, name: str, seed: int, metric: str) -> Path | None:
    """Where the pipeline saves a training under way, named after all that determines it; None
    outside the pipeline.
    """
    if not (folder := output_folder("partial")):
        return None
    run = hashlib.sha256((describe_run(domain, name, seed) + metric).encode()).hexdigest()
    return folder / f"{run}.safetensors"


def _train_work(job: tuple[Domain, str, int]) -> Trained:
    return train_model(*job)


def train_models(
    domain: Domain, names: Sequence[str], seeds: Sequence[int] | None = None, fresh: bool = False
) -> list[Trained]:
    """Every model on every seed, trained in parallel, or loaded if stage 03 trained it with this
    code and these settings. Refused settings are named before the first training.

    `seeds=None` means those of `studies.seeds`; `fresh` loads none. Planted has no checkpoints.
    """
    seeds = domain.settings.studies.seeds if seeds is None else seeds
    jobs = [(name, seed) for name in names for seed in seeds]
    loaded = {} if fresh else {job: load_checkpoint(domain, *job) for job in jobs}
    trained = {job: Trained(*job, model) for job, model in loaded.items() if model is not None}
    order = list(FAMILIES)
    if missing := [job for job in jobs if job not in trained]:
        check_variants(domain, domain.sequences.num_items, names)
        check_own(domain, [name for name, _ in missing], seeds[0])
    families = {name: domain.variant(name).family for name, _ in missing}
    missing.sort(key=lambda job: order.index(families[job[0]]) if families[job[0]] in order else -1)
    new = run_jobs(_train_work, [(domain, *job) for job in missing], domain)
    trained |= dict(zip(missing, new))
    return [trained[job] for job in jobs]
