"""A few training steps of several models, alone or under torchrun: python tests/shared_steps.py OUT. Kept as safetensors."""

import itertools
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from bivrec.data.domain import Domain
from bivrec.experiment.registry import build_model
from bivrec.experiment.training import train_model
from bivrec.training.batches import draw_batches
from bivrec.training.distributed import average_gradients, num_processes, rank, shared_loss

CASES = {
    "every position": ("bivrec", {}),
    "one target": ("bivrec-one-target", {}),
    "sampled": ("bivrec", {"training.num_negatives": 40}),
    "contrasts": (
        "bivrec",
        {
            "cross_view.coarse_weight": 0.1,
            "cross_view.fine_weight": 0.1,
            "cross_view.item_weight": 0.1,
            "cross_view.mutual_weight": 0.1,
        },
    ),
    "few rows": ("bivrec", {"training.batch_size": 1}),
    "sasrec-fused": ("sasrec-fused", {}),
    "sasrec-sum": ("sasrec-sum", {}),
    "mmsrec": ("mmsrec", {}),
}


def train_steps(name: str, changes: dict, num_steps: int = 4) -> dict[str, torch.Tensor]:
    """Losses and last weights, without dropout and without noise, which every process draws for itself."""
    domain = Domain("planted", changes=changes)
    model = build_model(domain, name, 0).eval()
    parameters, losses = list(model.parameters()), []
    optimiser = torch.optim.SGD(parameters, 0.1)
    torch.manual_seed(0)
    for batch in itertools.islice(
        draw_batches(
            domain.fold(0).train, model.settings.training, model.max_length, model.multiple, 0
        ),
        num_steps,
    ):
        optimiser.zero_grad()
        loss = shared_loss(model, batch)
        loss.backward()
        average_gradients(parameters)
        optimiser.step()
        whole = loss.detach().clone()
        if num_processes() > 1:
            torch.distributed.all_reduce(whole)
        losses.append(whole / num_processes())
    return {
        "losses": torch.stack(losses),
        "weights": torch.cat([value.detach().flatten() for value in parameters]),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {
        f"{case}/{key}": value
        for case, told in CASES.items()
        for key, value in train_steps(*told).items()
    }
    whole = train_model(
        Domain("planted", changes={"training.num_steps": 20, "training.evaluate_every": 10}),
        "bivrec",
        0,
    )
    found["fit/weights"] = torch.cat(
        [value.detach().flatten() for value in whole.model.parameters()]
    )
    found["fit/first"] = torch.tensor(whole.record.curve["loss"].iloc[0])
    save_file(found, Path(sys.argv[1]) / f"{rank()}-of-{num_processes()}.safetensors")
