"""What a training costs."""

import itertools
from collections.abc import Sequence

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from bivrec.data.domain import Domain
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.runs import RUN_COLUMNS
from bivrec.settings import vary
from bivrec.training.batches import draw_batches

UNKNOWN_TO_COUNTER = {  # operators of ours that PyTorch's counter passes over: the same products in place, and attention on a CPU
    torch.ops.aten.addmm_: lambda _, a, b, out_shape=None, **__: 2 * a[0] * a[1] * b[1],
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}


def count_costs(domain: Domain, name: str, num_batches: int = 10) -> dict[str, float]:
    """What a training step costs on any machine. flops_per_step: floating-point operations of all matrix products that
    PyTorch's own operators take, forward and backward, the mean over a few batches, since rows of like length go together.
    memory_mb: weights, gradients, the optimiser's two moments, the average, frozen features, and the most that any of the
    batches keeps for its backward pass; what is let go at once is not counted."""
    model, settings = (
        build_model(domain, name, 0).train(),
        vary(domain.settings, domain.variant(name), name).training,
    )
    batches = draw_batches(
        domain.fold(0).train, settings, model.max_length, model.multiple, 0, model.device
    )
    weights = sum(p.nbytes for p in model.parameters())
    lasting = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.buffers()
    }
    still, most = {p.untyped_storage().data_ptr() for p in model.parameters()} | lasting.keys(), 0
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        for batch in itertools.islice(batches, num_batches):
            held: dict[
                int, torch.UntypedStorage
            ] = {}  # themselves, so that no place is given out twice

            def hold(tensor: torch.Tensor, held: dict = held) -> torch.Tensor:
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
                loss = model.loss(batch)
            most = max(
                most, sum(storage.nbytes() for place, storage in held.items() if place not in still)
            )
            loss.backward()
    return {
        "flops_per_step": counter.get_total_flops() / num_batches,
        "memory_mb": (5 * weights + sum(lasting.values()) + most) / 1e6,
    }


def cost_runs(
    domain: Domain, models: Sequence[Trained], study: str, seconds: bool = False
) -> pd.DataFrame:
    """What each training cost: parameters, operations and memory of a step, targets seen, epochs, best step; and seconds
    (all, of an epoch, to the best step), which no two runs agree on: apart in the default profile, whose runs are the same bytes each time, and with
    the rest in the others."""
    names = dict.fromkeys(trained.name for trained in models if trained.record)
    rows, counted = [], {name: {} if seconds else count_costs(domain, name) for name in names}
    for trained in models:
        if trained.record:
            record, targets = (
                trained.record,
                sum(len(row) - 1 for row in domain.fold(trained.seed).train),
            )
            figures = {
                "parameters": trained.num_parameters,
                **counted[trained.name],
                "targets": record.num_targets,
                "epochs": record.num_targets / targets,
                "best_step": record.best_step,
            }
            to_best = record.curve.loc[record.curve["step"] == record.best_step, "seconds"].iloc[0]
            clock = {"seconds": round(record.seconds, 1), "seconds_to_best": round(to_best, 1)}
            clock["seconds_per_epoch"] = round(record.seconds / figures["epochs"], 2)
            for metric, value in (
                clock if seconds else figures if domain.profile == "default" else figures | clock
            ).items():
                rows.append(
                    (
                        domain.profile,
                        domain.name,
                        domain.settings.split.protocol,
                        study,
                        "",
                        trained.name,
                        "",
                        trained.seed,
                        "train",
                        metric,
                        value,
                    )
                )
    return pd.DataFrame(rows, columns=RUN_COLUMNS)
