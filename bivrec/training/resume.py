"""A training under way, saved and found again."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def _save_run(path: Path, told: dict[str, Any], **tensors: Sequence[Tensor]) -> None:
    """A training under way, put in place whole."""
    flat = {
        f"{name}.{number}": tensor.contiguous().cpu()
        for name, group in tensors.items()
        for number, tensor in enumerate(group)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(flat, path.with_suffix(".part"), {"told": json.dumps(told)})
    os.replace(path.with_suffix(".part"), path)


def _load_run(path: Path) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """What `_save_run` wrote; nothing where there is no such file, or a damaged one: the training begins anew."""
    try:
        with safe_open(path, "pt") as file:
            told, tensors = json.loads(file.metadata()["told"]), {}
            for key in sorted(file.keys(), key=lambda key: int(key.split(".")[1])):
                tensors.setdefault(key.split(".")[0], []).append(file.get_tensor(key))
        return told, tensors
    except (FileNotFoundError, SafetensorError):
        return {}, {}
