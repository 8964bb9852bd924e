"""The scoring function of a trained model as an ONNX graph."""

import logging
from pathlib import Path

import numpy as np
import torch

from bivrec.errors import DataError
from bivrec.model.base import ItemRows, Mask, SequentialModel, pad
from bivrec.portable.recommender import Recommender


class Scoring(torch.nn.Module):
    """Padded rows of item numbers in, the scores of the catalogue out, a tensor per view."""

    def __init__(self, model: SequentialModel):
        super().__init__()
        self.model = model

    def forward(self, items: ItemRows, mask: Mask) -> tuple[torch.Tensor, ...]:
        tables = self.model.tables()
        interests = self.model.encode_last(items, mask, tables)
        return tuple(self.model.score_catalogue(interests, tables).values())


def check_packages() -> None:
    """Raises DataError without the packages of the extra `onnx`."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        problem = "ONNX needs the packages onnx and onnxscript"
        remedy = "`make .venv/onnx` installs them in the project, `pip install '.[onnx]'` elsewhere"
        raise DataError(f"{problem}; {remedy}") from None


def export_onnx(recommender: Recommender, path: str | Path) -> None:
    """Writes the scoring function as ONNX, weights and features included.

    Inputs: items [batch position], int64, the numbers of a history's items, oldest first, padded at
    the end (`model.base.pad`), and mask [batch position], bool, true for items. Batch and position
    are free; position is a multiple of `model.multiple`, at most `model.max_length`. Outputs: the
    scores [batch catalogue] of each view. Raises DataError without the packages of the extra `onnx`
    and for a model that only counts interactions."""
    model, name = recommender.trained.model, recommender.trained.name
    if not isinstance(model, SequentialModel):
        raise DataError(f"{name} has no weights to export; export a model that is trained")
    check_packages()
    views = [*model.score([recommender.find(recommender.ids[:1])])]
    batch, groups = torch.export.Dim("batch", min=1), torch.export.Dim("groups", min=1)
    axes = {0: batch, 1: model.multiple * groups if model.multiple > 1 else groups}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of vision ops
    traced = [np.zeros(length, "int64") for length in (1, 3, 2 * model.multiple + 1)]
    rows = pad(traced, model.max_length, model.multiple)
    # strict: without it, each len() in a model fixes the size of the batch
    scoring, shapes = Scoring(model.eval()).cpu(), (axes, axes)
    program = torch.export.export(scoring, rows, dynamic_shapes=shapes, strict=True)
    names = {"input_names": ["items", "mask"], "output_names": views}
    torch.onnx.export(program, **names, verbose=False).save(path)
