"""Processes that share each batch under torchrun, on one machine or several."""

import os
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from bivrec.model.base import Batch, SequentialModel


def init_processes(backend: str) -> None:
    """Joins the other processes that torchrun started, if any; a second call does nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group(backend)


def num_processes() -> int:
    """How many processes share each batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rows(count: int) -> slice:
    """This process's share of `count` rows: contiguous, and equal between processes up to one."""
    return slice(count * rank() // num_processes(), count * (rank() + 1) // num_processes())


def gather_rows(encoded: Any, count: int) -> Any:
    """All processes' `count` rows of a tensor, or of every tensor in nested dicts.

    Every process takes the same loss from the whole, so the gradient of its own rows is that loss's
    gradient times the number of processes, by which `average_gradients` divides.
    """
    if isinstance(encoded, dict):
        return {name: gather_rows(part, count) for name, part in encoded.items()}
    whole, values = encoded.new_zeros(count, *encoded.shape[1:]), encoded.detach()
    whole[local_rows(count)] = values
    dist.all_reduce(whole)
    whole[local_rows(count)] = values + num_processes() * (encoded - values)
    return whole


def shared_loss(model: SequentialModel, batch: Batch) -> Float[Tensor, ""]:
    """This process's part of a batch's loss; the mean of the parts has the gradient of the whole.

    Each process encodes its rows and weights their row loss by their share of the targets. The
    losses between rows need all rows, which are gathered.
    """
    if num_processes() == 1:
        return model.loss(batch)
    rows = local_rows(len(batch.items))
    parts = {part.name: getattr(batch, part.name) for part in fields(batch)}
    local = replace(batch, **{name: x[rows] for name, x in parts.items() if name != "seed"})
    tables = model.tables()
    encoded = model.encode_batch(local, tables)
    row_loss = model.row_loss(encoded, local, tables)
    if not len(local.items):  # a batch of fewer rows than processes: a mean over nothing
        row_loss = row_loss.nan_to_num()
    weight = num_processes() * local.supervised.sum() / batch.supervised.sum()
    whole = gather_rows(encoded, len(batch.items))
    return weight * row_loss + model.batch_loss(whole, batch, tables)


def same_on_all(number: int, device: torch.device) -> bool:
    """Whether every process has the same number."""
    extremes = torch.tensor([number, -number], device=device)
    if num_processes() > 1:
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
    return bool(extremes.sum() == 0)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces each gradient by its mean over processes, in one message."""
    if num_processes() > 1:
        gradients = [p.grad for p in parameters if p.grad is not None]
        message = torch.nn.utils.parameters_to_vector(gradients)
        dist.all_reduce(message)
        torch.nn.utils.vector_to_parameters(message / num_processes(), gradients)
