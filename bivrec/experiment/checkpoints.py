"""Trained weights and what they belong to."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bivrec.data.domain import Domain, Features
from bivrec.errors import DataError
from bivrec.experiment.registry import Trained, build_model
from bivrec.outputs import output_folder
from bivrec.settings import Settings, profile_folder, training_profile, vary

CODE = ("data", "model", "kernels", "training", "baselines", "evaluation")


def describe_run(domain: Domain, name: str, seed: int) -> str:
    """What a checkpoint must match to be used: code, dataset, model, seed, and every setting that the training read."""
    settings = TypeAdapter(Settings).dump_python(
        vary(domain.settings, domain.variant(name), name), mode="json"
    )
    read = {
        key: settings[key]
        for key in ("split", "features", "model", "cross_view", "baseline", "training")
    }
    code = hashlib.sha256(
        b"".join(
            p.read_bytes()
            for room in CODE
            for p in sorted(Path(__file__).parents[1].glob(f"{room}*/**/*.py"))
        )
    ).hexdigest()
    return json.dumps(
        {"code": code, "dataset": domain.name, "model": name, "seed": seed, "settings": read},
        sort_keys=True,
    )


def save_checkpoint(domain: Domain, trained: Trained, path: Path) -> None:
    """Weights and their description as safetensors, put in place whole."""
    state = {key: value.contiguous().cpu() for key, value in trained.model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        state, path.with_suffix(".part"), {"run": describe_run(domain, trained.name, trained.seed)}
    )
    os.replace(path.with_suffix(".part"), path)


def load_checkpoint(
    domain: Domain, name: str, seed: int, path: Path | None = None, features: Features | None = None
):
    """A trained model from its checkpoint, or None when there is none for these settings."""
    profile = training_profile(domain.profile, domain.settings.studies)
    path = (
        path
        or profile_folder("build", profile)
        / "03_training"
        / domain.name
        / f"{name}-{seed}.safetensors"
    )
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
        raise DataError(
            f"the checkpoint {path.name} is damaged; remove it and run `make repro`"
        ) from None
    return model.eval()


def keep_checkpoints(domain: Domain, models: Sequence[Trained]) -> None:
    """Every trained model's weights, for the later stages."""
    if folder := output_folder("build"):
        for trained in models:
            if trained.record:
                save_checkpoint(
                    domain, trained, folder / f"{trained.name}-{trained.seed}.safetensors"
                )
