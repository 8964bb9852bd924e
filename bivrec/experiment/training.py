"""Models trained on folds."""

import hashlib
from collections.abc import Sequence

import torch

from bivrec.data.domain import Domain, Features
from bivrec.data.types import Fold
from bivrec.experiment.checkpoints import describe_run, load_checkpoint
from bivrec.experiment.registry import FAMILIES, Trained, build_model
from bivrec.experiment.workers import run_jobs
from bivrec.outputs import output_folder
from bivrec.settings import vary
from bivrec.training.loop import fit
from bivrec.training.seeds import derive_seed


def train_model(
    domain: Domain,
    name: str,
    seed: int,
    parts: Fold | None = None,
    features: Features | None = None,
) -> Trained:
    """One model on one fold; a study may hand in the fold or the features otherwise than they are."""
    model = build_model(domain, name, seed, features)
    if not isinstance(model, torch.nn.Module):
        return Trained(name, seed, model)
    settings = vary(domain.settings, domain.variant(name), name)
    metric, folder = settings.studies.primary_metric, output_folder("partial")
    torch.manual_seed(derive_seed(seed, name, "noise"))
    usual = folder and parts is None and features is None
    kept = (
        folder
        / f"{hashlib.sha256((describe_run(domain, name, seed) + metric).encode()).hexdigest()}.safetensors"
        if usual
        else None
    )
    return Trained(
        name,
        seed,
        model,
        fit(
            model,
            parts or domain.fold(seed),
            settings.training,
            derive_seed(seed, "batches"),
            metric,
            kept=kept,
        ),
    )


def _train_work(job: tuple[Domain, str, int]) -> Trained:
    return train_model(*job)


def train_models(
    domain: Domain, names: Sequence[str], seeds: Sequence[int] | None = None, fresh: bool = False
) -> list[Trained]:
    """Every model on every seed, side by side. Unless `fresh`, what 03 trained with this code and these settings is
    loaded instead; planted has no checkpoints and is always trained."""
    seeds = domain.settings.studies.seeds if seeds is None else seeds
    jobs = [(name, seed) for name in names for seed in seeds]
    loaded = {} if fresh else {job: load_checkpoint(domain, *job) for job in jobs}
    trained = {job: Trained(*job, model) for job, model in loaded.items() if model is not None}
    wanted = sorted(
        (job for job in jobs if job not in trained),
        key=lambda job: list(FAMILIES).index(domain.variant(job[0]).family),
    )
    trained |= dict(zip(wanted, run_jobs(_train_work, [(domain, *job) for job in wanted], domain)))
    return [trained[job] for job in jobs]
