"""Models trained on folds."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from pydantic import TypeAdapter

from bivrec.data.domain import Domain, Features, check_variants
from bivrec.data.types import Fold
from bivrec.errors import Diverged, SettingsError
from bivrec.experiment.checkpoints import SECTIONS, load_checkpoint
from bivrec.experiment.code import training_code
from bivrec.experiment.own import errors_of, own_code
from bivrec.experiment.registry import FAMILIES, Trained, build_model, check_own
from bivrec.experiment.workers import run_jobs
from bivrec.model.base import SequentialModel
from bivrec.outputs import output_folder
from bivrec.settings import Settings, vary
from bivrec.training.loop import Fit, OnEvaluate, fit
from bivrec.training.seeds import derive_seed
from bivrec.training.watch import on_evaluate


def train_model(
    domain: Domain, name: str, seed: int, fold: Fold | None = None, features: Features | None = None
) -> Trained:
    """One model on the fold of its seed; a study may replace the fold or the features, and is then
    not watched. Raises ValueError, with the model's name, if the loss is not finite.
    """
    model = build_model(domain, name, seed, features)
    if not isinstance(model, torch.nn.Module):
        return Trained(name, seed, model)
    settings = vary(domain.settings, domain.variant(name), name)
    watch = on_evaluate() if fold is None and features is None else None
    report = partial(watch, domain.name, name, seed) if watch else None
    torch.manual_seed(derive_seed(seed, name, "noise"))
    fold, batch_seed = fold or domain.fold(seed), derive_seed(seed, "batches")
    try:
        with errors_of(domain.variant(name).family):
            record = resume_fit(model, settings, fold, batch_seed, None, report)
    except SettingsError:
        raise
    except ValueError as error:
        kind = Diverged if isinstance(error, Diverged) else ValueError
        raise kind(f"{name}, seed {seed}: {error}") from error
    return Trained(name, seed, model, record)


def resume_fit(
    model: SequentialModel,
    settings: Settings,
    fold: Fold,
    seed: int,
    num_steps: int | None = None,
    on_evaluate: OnEvaluate | None = None,
) -> Fit:
    """`fit` on the primary metric. In the pipeline it continues what the stage's last run saved of
    the same training: a stage that runs again after a change of its text or figures trains nothing.
    """
    metric, path = settings.studies.primary_metric, None
    if folder := output_folder("partial"):
        described = describe_fit(model, settings, fold, seed, num_steps)
        path = folder / f"{described}.safetensors"
    return fit(model, fold, settings.training, seed, metric, num_steps, path, on_evaluate)


def describe_fit(
    model: SequentialModel, settings: Settings, fold: Fold, seed: int, num_steps: int | None
) -> str:
    """The SHA-256 of all that determines a training: code, settings, device type, initial weights
    and which of them are trained, features, users and random state."""
    ours = type(model).__module__.startswith("bivrec.")
    code = [training_code(), type(model).__name__, "" if ours else own_code()]
    read = TypeAdapter(Settings).dump_python(settings, mode="json")
    read = {key: read[key] for key in SECTIONS} | {"kernels": settings.machine.kernels}
    trained = [name for name, weights in model.named_parameters() if weights.requires_grad]
    run = [code, read, settings.studies.primary_metric, seed, num_steps, trained]
    run.append(model.device.type)  # a training saved on a CPU holds no random state of a GPU
    tensors = [*model.parameters(), *model.buffers(), torch.get_rng_state()]
    cases = [*fold.validation.histories, *fold.validation.targets]
    digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode())
    for values in [*(x.detach().cpu().numpy() for x in tensors), *fold.train, *cases]:
        digest.update(f"{values.shape}".encode())
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def _train_work(job: tuple[Domain, str, int]) -> Trained:
    return train_model(*job)


def train_models(
    domain: Domain, names: Sequence[str], seeds: Sequence[int] | None = None, fresh: bool = False
) -> list[Trained]:
    """Every model on every seed, trained in parallel, or loaded if stage 03 trained it with this
    code and these settings. Refused settings are named before the first training.

    `seeds=None` means those of `studies.seeds`; `fresh` loads none. Outside the profile smoke,
    planted has no checkpoints and is trained.
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
