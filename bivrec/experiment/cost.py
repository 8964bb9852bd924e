"""What a training costs."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from bivrec.data.domain import Domain
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.runs import RUN_COLUMNS, label_run
from bivrec.training.batches import draw_batches

Storages = dict[int, torch.UntypedStorage]  # by address

_flash_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Operators that PyTorch's counter omits: products in place, attention on a CPU.
UNKNOWN_TO_COUNTER = {
    torch.ops.aten.addmm_: lambda _, a, b, out_shape=None, **__: 2 * a[0] * a[1] * b[1],
    _flash_attention: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _flash_attention_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v),
}


@contextmanager
def saved_storages() -> Iterator[Storages]:
    """What autograd saves for the backward pass; held, so that no address is reused."""
    storages: Storages = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        yield storages


def storages_of(tensors: Iterable[torch.Tensor]) -> Storages:
    """The tensors' storages; those of views are counted once."""
    return {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}


def num_bytes(storages: Storages) -> int:
    """Their total size."""
    return sum(storage.nbytes() for storage in storages.values())


def count_costs(domain: Domain, name: str, num_batches: int = 10) -> dict[str, float]:
    """What a training step costs on any machine, counted over a few batches.

    flops_per_step: mean floating-point operations of the matrix products of PyTorch's own
    operators, forward and backward. memory_mb: weights, gradients, the optimiser's two moments, the
    averaged weights, frozen features, and the most that a batch saves for its backward pass;
    temporaries are not counted.
    """
    seed = domain.settings.studies.seeds[0]
    model = build_model(domain, name, seed).train()
    train, settings = domain.fold(seed).train, model.settings.training
    batches = draw_batches(train, settings, model.max_length, model.multiple, 0, model.device)
    weights, buffers = storages_of(model.parameters()), storages_of(model.buffers())
    peak = 0
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        for batch in itertools.islice(batches, num_batches):
            with saved_storages() as saved:
                loss = model.loss(batch)
            loss.backward()
            fixed = weights.keys() | buffers.keys()
            activations = {key: storage for key, storage in saved.items() if key not in fixed}
            peak = max(peak, num_bytes(activations))
    memory = 5 * sum(p.nbytes for p in model.parameters()) + num_bytes(buffers) + peak
    return {"flops_per_step": counter.get_total_flops() / num_batches, "memory_mb": memory / 1e6}


def count_epochs(domain: Domain, trained: Trained) -> float:
    """How often a training saw the targets of its fold."""
    targets = sum(len(sequence) - 1 for sequence in domain.fold(trained.seed).train)
    return trained.record.num_targets / targets


def read_clock(trained: Trained, epochs: float) -> dict[str, float]:
    """Seconds of a training: in total, up to the best step, and per epoch."""
    record = trained.record
    to_best = record.curve.loc[record.curve["step"] == record.best_step, "seconds"].iloc[0]
    return {
        "seconds": round(record.seconds, 1),
        "seconds_to_best": round(to_best, 1),
        "seconds_per_epoch": round(record.seconds / epochs, 2),
    }


def cost_runs(
    domain: Domain, models: Sequence[Trained], study: str, seconds: bool = False
) -> pd.DataFrame:
    """What each training cost, in the columns of runs.csv: size, cost of a step, seconds.

    Seconds differ from run to run. The default profile, whose results are byte-identical, omits
    them; the other profiles include them. `seconds=True` returns the seconds alone.
    """
    models = [trained for trained in models if trained.record]
    names = [] if seconds else dict.fromkeys(trained.name for trained in models)
    counted, rows = {name: count_costs(domain, name) for name in names}, []
    for trained in models:
        epochs, figures = count_epochs(domain, trained), {}
        if not seconds:
            record, size = trained.record, {"parameters": trained.num_parameters}
            seen = {"targets": record.num_targets, "epochs": epochs, "best_step": record.best_step}
            figures = size | counted[trained.name] | seen
        if seconds or domain.profile != "default":
            figures |= read_clock(trained, epochs)
        run = label_run(domain, study) | {"model": trained.name, "seed": trained.seed}
        run |= {"condition": "", "view": "", "split": "train"}
        rows += [run | {"metric": name, "value": value} for name, value in figures.items()]
    return pd.DataFrame(rows, columns=RUN_COLUMNS)
