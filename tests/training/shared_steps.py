"""A few training steps of several models, alone or under torchrun, saved as safetensors:
shared_steps.py FOLDER.
"""

import itertools
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.utils import parameters_to_vector

from bivrec.data.domain import Domain
from bivrec.experiment.registry import build_model
from bivrec.experiment.training import train_model
from bivrec.training.batches import draw_batches
from bivrec.training.distributed import average_gradients, num_processes, rank, shared_loss

WEIGHTS = ("coarse_weight", "fine_weight", "item_weight", "mutual_weight")
CASES = {
    "every position": ("bivrec", {}),
    "one target": ("bivrec-one-target", {}),
    "sampled": ("bivrec", {"training.num_negatives": 40}),
    "contrasts": ("bivrec", {f"cross_view.{weight}": 0.1 for weight in WEIGHTS}),
    "few rows": ("bivrec", {"training.batch_size": 1}),
    "sasrec-fused": ("sasrec-fused", {}),
    "sasrec-sum": ("sasrec-sum", {}),
    "mmsrec": ("mmsrec", {}),
}


def train_steps(name: str, changes: dict, num_steps: int = 4) -> dict[str, torch.Tensor]:
    """Losses and last weights, without dropout and noise, which every process draws for itself."""
    domain = Domain("planted", changes)
    model = build_model(domain, name, 0).eval()
    parameters, losses = list(model.parameters()), []
    optimizer = torch.optim.SGD(parameters, 0.1)
    train, settings = domain.fold(0).train, model.settings.training
    batches = draw_batches(train, settings, model.max_length, model.multiple, 0)
    for batch in itertools.islice(batches, num_steps):
        optimizer.zero_grad()
        loss = shared_loss(model, batch)
        loss.backward()
        average_gradients(parameters)
        optimizer.step()
        mean = loss.detach().clone()
        if num_processes() > 1:
            torch.distributed.all_reduce(mean)
        losses.append(mean / num_processes())
    return {"losses": torch.stack(losses), "weights": parameters_to_vector(parameters).detach()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {}
    for case, arguments in CASES.items():
        results |= {f"{case}/{key}": x for key, x in train_steps(*arguments).items()}
    domain = Domain("planted", {"training.num_steps": 20, "training.evaluate_every": 10})
    trained = train_model(domain, "bivrec", 0)
    results["fit/weights"] = parameters_to_vector(trained.model.parameters()).detach()
    results["fit/first"] = torch.tensor(trained.record.curve["loss"].iloc[0])
    save_file(results, Path(sys.argv[1]) / f"{rank()}-of-{num_processes()}.safetensors")
