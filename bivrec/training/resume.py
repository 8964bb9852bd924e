"""The state of an unfinished training as one safetensors file."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Any]  # nested dicts of tensors; names without a slash


def save_state(path: Path, record: dict[str, Any], tensors: Tensors) -> None:
    """Writes a JSON record and nested tensors atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(_flatten(tensors), part, {"record": json.dumps(record)})
    os.replace(part, path)


def load_state(path: Path) -> tuple[dict[str, Any], Tensors]:
    """What `save_state` wrote; two empty dicts if the file is missing or damaged, so that training
    starts again.
    """
    try:
        os.utime(path)  # in use: when a stage ends, it removes what it did not use
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()["record"])
            return record, _unflatten({name: file.get_tensor(name) for name in file.keys()})
    except (FileNotFoundError, SafetensorError):
        return {}, {}


def _flatten(tensors: Tensors, prefix: str = "") -> dict[str, Tensor]:
    flat = {}
    for name, value in tensors.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value.contiguous().cpu()
    return flat


def _unflatten(flat: dict[str, Tensor]) -> Tensors:
    tensors: Tensors = {}
    for path, tensor in flat.items():
        *groups, name = path.split("/")
        group = tensors
        for key in groups:
            group = group.setdefault(key, {})
        group[name] = tensor
    return tensors
