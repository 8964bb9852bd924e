"""A view carried to another domain."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from bivrec.data.domain import Domain
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models
from bivrec.experiment.workers import run_jobs
from bivrec.training.loop import fit
from bivrec.training.seeds import derive_seed


def carry_view(
    source: Domain, target: Domain, name: str, seed: int, into: str = "pure-mm"
) -> Trained:
    """The multimodal view of a model trained on the source, placed before the target's catalogue, whose features are
    read in the source's space. Nothing of it depends on item ids. `into` bivrec, an untrained ID view stands beside it."""
    donor = train_models(source, [name], [seed])[0].model
    model = build_model(target, into, seed, target.features(seed, basis=source))
    carried = {key: value for key, value in donor.state_dict().items() if ".multimodal." in key}
    model.load_state_dict(model.state_dict() | carried)
    return Trained(f"{name} of {source.name}", seed, model)


def adapt(target: Domain, trained: Trained, share: float, num_steps: int) -> Trained:
    """The model trained further on a share of the target's training users; the same users for every model of a seed."""
    parts, model = target.fold(trained.seed), copy.deepcopy(trained.model)
    generator = np.random.Generator(np.random.PCG64(derive_seed(trained.seed, "adapt")))
    chosen = generator.permutation(len(parts.train))[: max(1, round(share * len(parts.train)))]
    few = replace(parts, train=tuple(parts.train[user] for user in sorted(chosen)))
    torch.manual_seed(derive_seed(trained.seed, "adapt", "noise"))
    settings = target.settings
    record = fit(
        model,
        few,
        settings.training,
        derive_seed(trained.seed, "adapt", "batches"),
        settings.studies.primary_metric,
        num_steps,
    )
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
        trained = Trained(
            start, seed, build_model(target, into, seed, target.features(seed, basis=source))
        )
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
    return pd.concat(run_jobs(_transfer_work, jobs, target), ignore_index=True)
