"""Encoders recorded as CUDA graphs, so that small batches do not wait for the host.

`benchmarks/h200.json` holds its speed (`medium`: milliseconds a step, kernel by kernel and
recorded).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from bivrec.kernels.methods import replace_methods


class _Original(nn.Module):
    """An encoder with its own forward, whatever now stands in its place."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Any:
        return type(self.encoder).forward(self.encoder, *inputs)


class Recorder:
    """Replaces an encoder's forward; records a CUDA graph when an input shape occurs again."""

    def __init__(self, encoder: nn.Module, pool: Any):
        self.original, self.pool = _Original(encoder), pool
        self.graphs: dict[tuple, Callable | None] = {}

    def __call__(self, *inputs: Tensor, **options: Any) -> Any:
        if options or not (self.original.encoder.training and torch.is_grad_enabled()):
            return type(self.original.encoder).forward(self.original.encoder, *inputs, **options)
        key = tuple(x.shape for x in inputs)
        if key not in self.graphs:
            self.graphs[key] = None
            return self.original(*inputs)
        self.graphs[key] = self.graphs[key] or self.record(inputs)
        return self.graphs[key](*inputs)

    def record(self, inputs: tuple[Tensor, ...]) -> Callable:
        """The encoder as a graph, forward and backward, for inputs of these shapes.

        Its parameters are inputs of the graph, so that they receive their gradients.
        """
        names, parameters = zip(*self.original.named_parameters())

        def call(*tensors: Tensor) -> Any:
            weights = dict(zip(names, tensors[len(inputs) :]))
            return torch.func.functional_call(self.original, weights, tensors[: len(inputs)])

        samples = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        samples += [p.detach().requires_grad_(p.requires_grad) for p in parameters]
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        with torch.random.fork_rng([inputs[0].device]):
            graph = torch.cuda.make_graphed_callables(
                call, tuple(samples), allow_unused_input=True, pool=self.pool
            )
        return lambda *tensors: graph(*tensors, *parameters)


def record_encoders(model: nn.Module) -> AbstractContextManager[None]:
    """A context in which the model's `recordable` encoders run as CUDA graphs in training."""
    encoders = [module for module in model.modules() if getattr(module, "recordable", False)]
    pool = torch.cuda.graph_pool_handle()  # one memory for all graphs: one runs at a time
    return replace_methods({encoder: ("forward", Recorder(encoder, pool)) for encoder in encoders})
