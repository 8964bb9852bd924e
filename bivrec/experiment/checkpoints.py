"""Trained weights, and the run that they belong to."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bivrec.data.domain import Domain
from bivrec.data.sequences import Sequences
from bivrec.errors import DataError
from bivrec.experiment.code import training_code
from bivrec.experiment.own import is_own, own_code
from bivrec.experiment.registry import Trained, build_model
from bivrec.model.base import SequentialModel
from bivrec.outputs import output_folder
from bivrec.settings import Settings, can_do_with, profile_folder, vary

# read by a training
SECTIONS = ("split", "features", "model", "cross_view", "baseline", "training")


def describe_run(domain: Domain, name: str, seed: int) -> str:
    """What a checkpoint must match: code, data, model, family, seed, and all features and settings
    that it read."""
    variant = domain.variant(name)
    varied = vary(domain.settings, variant, name)
    settings = TypeAdapter(Settings).dump_python(varied, mode="json")
    run = {"code": training_code(), "dataset": domain.name, "model": name, "seed": seed}
    run["family"] = variant.family
    run["data"] = hash_data(domain.sequences)
    if not can_do_with(domain.settings, variant, ()):
        read = varied.features.modalities
        run["features"] = {modality: domain.hash_features(modality, seed) for modality in read}
    run["chosen by"] = varied.studies.primary_metric
    run["kernels"] = varied.machine.kernels  # equal up to rounding, which training amplifies
    if is_own(variant.family):
        run["own"] = own_code()
    return json.dumps(run | {"settings": {key: settings[key] for key in SECTIONS}}, sort_keys=True)


def hash_data(sequences: Sequences) -> str:
    """The SHA-256 of every user's id, items and times, and of the items' ids."""
    digest = hashlib.sha256("\0".join(map(str, sequences.catalogue["item"])).encode())
    for values in (sequences.items, sequences.starts, sequences.users, sequences.times):
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def checkpoint_folder(domain: Domain) -> Path:
    """Where the pipeline saves the trained models of a dataset."""
    return profile_folder("build", domain.profile) / "03_training" / domain.name


def save_checkpoint(domain: Domain, trained: Trained, path: Path) -> None:
    """Weights and their description as safetensors, written atomically."""
    state = {key: value.contiguous().cpu() for key, value in trained.model.state_dict().items()}
    run, part = describe_run(domain, trained.name, trained.seed), path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, part, {"run": run})
    os.replace(part, path)


def save_checkpoints(domain: Domain, models: Sequence[Trained]) -> None:
    """Saves every model trained by gradients for later stages; only inside the pipeline."""
    if folder := output_folder("build"):
        for trained in models:
            if trained.record:
                path = folder / f"{trained.name}-{trained.seed}.safetensors"
                save_checkpoint(domain, trained, path)


def load_checkpoint(
    domain: Domain, name: str, seed: int, path: Path | None = None
) -> SequentialModel | None:
    """A trained model from its checkpoint; None without one of this code and these settings.

    Raises DataError if the file is damaged.
    """
    path = path or checkpoint_folder(domain) / f"{name}-{seed}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("run") != describe_run(domain, name, seed):
                return None
            state = {key: file.get_tensor(key) for key in file.keys()}
        model = build_model(domain, name, seed)
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError):
        raise DataError(
            f"the checkpoint {path.name} is damaged; remove it and run `make repro`"
        ) from None
    return model.eval()
