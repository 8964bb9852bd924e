"""Damaged checkpoints, and models that do not fit their data."""

import struct

from bivrec.data.domain import Domain
from bivrec.experiment.checkpoints import load_checkpoint, save_checkpoint
from bivrec.experiment.registry import build_model
from bivrec.experiment.training import train_models


def test_checkpoints_that_are_damaged(project, refuses, tmp_path_factory):
    from safetensors.torch import load_file, save_file

    domain, path = (
        Domain("planted", {"training.num_steps": 2, "training.warmup_steps": 1}),
        tmp_path_factory.mktemp("built") / "pure-id-0.safetensors",
    )
    save_checkpoint(domain, train_models(domain, ["pure-id"])[0], path)
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        described = opened.metadata()
    content = path.read_bytes()
    weights = {
        key: value.clone() for key, value in load_file(path).items()
    }  # the file's memory is about to change
    name = next(iter(weights))
    for damaged in (
        b"",
        content[:7],
        content[:100],
        struct.pack("<Q", 1 << 60) + content[8:],
        bytes(500),
    ):
        path.write_bytes(damaged)
        assert (
            "the checkpoint pure-id-0.safetensors is damaged; remove it and run `make repro`"
            in refuses(lambda: load_checkpoint(domain, "pure-id", 0, path))
        )
    for damaged in (
        {**weights, name: weights[name][:1].clone()},
        {key: value for key, value in weights.items() if key != name},
    ):
        save_file(damaged, path, described)
        assert "pure-id-0.safetensors is damaged; remove it" in refuses(
            lambda: load_checkpoint(domain, "pure-id", 0, path)
        )


def test_more_interests_than_items(project, refuses):
    domain = Domain("planted", {"model.num_interests": 121})
    problem = "model.num_interests (K) is 121, more than the 120 items of planted"
    message = refuses(lambda: build_model(domain, "bivrec", 0))
    assert message == f"params.yaml: {problem}; lower it"
