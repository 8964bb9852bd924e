"""Transfer: the multimodal view of one domain continues in another."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from bivrec.data.domain import Domain, Features
from bivrec.data.types import Fold
from bivrec.errors import LeftOut
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.runs import rank_models, require_both_views
from bivrec.experiment.training import resume_fit, train_models
from bivrec.experiment.workers import run_jobs
from bivrec.settings import vary
from bivrec.training.seeds import derive_seed


@dataclass(frozen=True)
class Start:
    """A way to begin on the target.

    `donor`: the source's model whose multimodal view is copied; None starts from fresh weights.
    `model`: the target's model. `fixed_tokens`: training leaves the interest tokens as they are."""

    donor: str | None
    model: str
    fixed_tokens: bool = False


def can_start_untrained(start: Start) -> bool:
    """Whether a start ranks the target before any training: every view of its model is carried.
    Fixed tokens are excluded, because they change nothing before training."""
    return start.donor is not None and start.model == "pure-mm" and not start.fixed_tokens


STARTS = {
    "bivrec of source": Start("bivrec", "pure-mm"),
    "bivrec of source, tokens fixed": Start("bivrec", "pure-mm", fixed_tokens=True),
    "pure-mm of source": Start("pure-mm", "pure-mm"),
    "from scratch": Start(None, "pure-mm"),
    "bivrec of source, with ID view": Start("bivrec", "bivrec"),
    "from scratch, with ID view": Start(None, "bivrec"),
}


def shared_items(source: pd.DataFrame, target: pd.DataFrame) -> pd.DataFrame:
    """The target's items that the source has too: with the same id and the same title, since two
    datasets may both number their items from 0."""
    keys = ["item", "title"]
    return target.merge(source.loc[source["title"] != "", keys].drop_duplicates(), on=keys)


def check_common_space(source: Domain, target: Domain) -> None:
    """Raises LeftOut unless both domains have the same modalities, in vectors of the same length:
    only then can the source's view read the target's items."""
    ours, theirs = (domain.settings.features.modalities for domain in (source, target))
    if set(ours) != set(theirs):
        problem = f"{source.name} has {_list(ours)}, {target.name} has {_list(theirs)}"
        raise LeftOut(f"{problem}; set features.modality to what both have")
    seeds = target.settings.studies.retrained_seeds
    for modality in ours:
        ours_long, theirs_long = (
            [domain.item_features(modality, seed).values.shape[1] for seed in seeds][0]
            for domain in (source, target)
        )
        if ours_long != theirs_long:
            problem = f"the {modality} vectors of {source.name} have {ours_long} numbers"
            remedy = f"give both the same features.{modality}_encoder"
            raise LeftOut(f"{problem}, those of {target.name} {theirs_long}; {remedy}")


def check_common_model(source: Domain, target: Domain) -> None:
    """Raises LeftOut unless both domains have the same folds of users, so that no model trains on
    test users of the other, and build views that can exchange their weights."""
    for domain in (source, target):
        if (protocol := domain.settings.split.protocol) != "by_user":
            problem = (
                f"under split.protocol: {protocol}, a model of {source.name} may train on test"
            )
            raise LeftOut(f"{problem} users of {target.name}; set by_user for both")
    for start in STARTS.values():
        if start.donor is None:
            continue
        theirs = _carried_settings(target, start.model)
        for key, value in _carried_settings(source, start.donor).items():
            if value != theirs[key]:
                problem = f"{source.name} has {key}: {value}, {target.name} {theirs[key]}"
                raise LeftOut(f"{problem}; set the same for both")


def _carried_settings(domain: Domain, name: str) -> dict[str, Any]:
    """The settings in which a donor and a model that receives its view must agree."""
    settings = vary(domain.settings, domain.variant(name), name)
    split, model = settings.split, asdict(settings.model)
    shared = {"split.protocol": split.protocol, "split.num_folds": split.num_folds}
    shared["features.num_components"] = settings.features.num_components
    # only training reads the last three; the views differ by design
    free = ("views", "dropout", "information_weight", "information_within")
    return shared | {f"model.{key}": value for key, value in model.items() if key not in free}


def _list(modalities: Sequence[str]) -> str:
    return " and ".join(modalities) or "no features"


def share_of_users(target: Domain, seed: int, share: float) -> Fold:
    """The seed's fold with a share of its training users: none at 0, otherwise at least one; the
    same users for every start. All of its validation users choose the checkpoint."""
    fold = target.fold(seed)
    long = [row for row, items in enumerate(fold.train) if len(items) > 1]
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "adapt")))
    chosen = generator.permutation(long)[: max(1, round(share * len(long))) if share else 0]
    rows = sorted(chosen.tolist())
    train = tuple(fold.train[row] for row in rows)
    return replace(fold, train=train, train_users=fold.train_users[rows])


def target_features(source: Domain, target: Domain, seed: int, share: float) -> Features:
    """The target's features in the source's principal components. Of the target's users, only that
    share is known, so that texts have the tags of these users alone."""
    return target.features(seed, basis=source, fold=share_of_users(target, seed, share))


def carry_view(
    source: Domain,
    target: Domain,
    name: str,
    seed: int,
    into: str = "pure-mm",
    features: Features | None = None,
) -> Trained:
    """The multimodal view of the source's model `name`, in the target's model `into`.

    All its weights are copied; none depends on item ids. It reads the target's `features`, by
    default those before any user of the target is known. In `bivrec` an untrained ID view stands
    beside it."""
    features = features or target_features(source, target, seed, 0.0)
    model = build_model(target, into, seed, features)
    donor = train_models(source, [name], [seed])[0].model
    view = {key: value for key, value in donor.state_dict().items() if ".multimodal." in key}
    model.load_state_dict(model.state_dict() | view)
    return Trained(f"{name} of {source.name}", seed, model)


def adapt(target: Domain, trained: Trained, share: float, num_steps: int) -> Trained:
    """The model after `num_steps` of training on a share of the target's training users. All models
    of a seed train on the same users, each with its own settings."""
    seed, settings = trained.seed, trained.model.settings
    few, model = share_of_users(target, seed, share), copy.deepcopy(trained.model)
    torch.manual_seed(derive_seed(seed, "adapt", "noise"))
    record = resume_fit(model, settings, few, derive_seed(seed, "adapt", "batches"), num_steps)
    return replace(trained, model=model, record=record)


def _rank_start(job: tuple[Domain, Domain, str, int, float]) -> pd.DataFrame:
    source, target, name, seed, share = job
    start, features = STARTS[name], target_features(source, target, seed, share)
    if start.donor:
        trained = carry_view(source, target, start.donor, seed, start.model, features)
    else:
        trained = Trained(name, seed, build_model(target, start.model, seed, features))
    for view in trained.model.views.values():
        view.clusters.tokens.requires_grad_(not start.fixed_tokens)
    if share:
        trained = adapt(target, trained, share, target.settings.transfer.num_steps)
    return rank_models(target, [trained]).assign(model=name, share=share)


def transfer(source: Domain, target: Domain) -> pd.DataFrame:
    """Ranks of the target's test users, by start (column model) and share of the target's training
    users (column share).

    The starts are those of `transfer.starts`. Share 0 is zero-shot: the carried views only, since a
    fresh ID view knows nothing. Raises LeftOut if the domains differ in their features, folds or
    models."""
    require_both_views(source, target)
    check_common_space(source, target)
    check_common_model(source, target)
    settings = target.settings
    jobs = [
        (source, target, name, seed, share)
        for share in (0.0, *settings.transfer.shares)
        for name in settings.transfer.starts
        for seed in settings.studies.retrained_seeds
        if share or can_start_untrained(STARTS[name])
    ]
    return pd.concat(run_jobs(_rank_start, jobs, target), ignore_index=True)
