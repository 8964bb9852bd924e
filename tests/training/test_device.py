"""Where trainings run."""

import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.evaluation import rank_cases
from bivrec.experiment.training import train_model
from bivrec.settings import load_settings
from bivrec.training.device import choose_device

SHORT = {"training.num_steps": 30, "training.evaluate_every": 10}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_reported():
    settings = load_settings("planted", {"machine.device": "cuda"})
    with pytest.raises(SettingsError, match="machine.device: 'cuda' is set, but PyTorch finds no"):
        choose_device(settings.machine)


@needs_gpu
def test_training_repeats_bit_for_bit_on_request():
    changes = {"machine.deterministic": True, "training.precision": "bfloat16"}
    domain = Domain("planted", SHORT | changes)
    first, second = (train_model(domain, "bivrec", 0).model.state_dict() for _ in range(2))
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@needs_gpu
def test_gpu_and_cpu_rank_the_same():
    domain = Domain("planted", SHORT)
    model, test = train_model(domain, "bivrec", 0).model, domain.fold(0).test
    gpu, cpu = rank_cases(model, test), rank_cases(model.cpu(), test)
    assert (gpu["rank"] == cpu["rank"]).mean() > 0.99
