"""Batches, training, checkpoints, tuning."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bivrec.data.domain import Domain
from bivrec.errors import DataError, SettingsError
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.experiment.checkpoints import load_checkpoint, save_checkpoint
from bivrec.experiment.cost import UNKNOWN_TO_COUNTER, count_costs
from bivrec.experiment.interests import interest_recovery
from bivrec.experiment.registry import build_model
from bivrec.experiment.runs import compare, rank_models, to_runs
from bivrec.experiment.training import train_model, train_models
from bivrec.experiment.tuning import tune
from bivrec.settings import load_settings, vary
from bivrec.training.batches import draw_batches
from bivrec.training.device import choose_device
from bivrec.training.seeds import derive_seed

TRAINING = load_settings("planted").training


def test_batches_hold_what_the_sequences_hold(planted):
    """Over one epoch each target is supervised exactly once, and is the item after its position."""
    train = planted.fold(0).train
    follows = {(int(a), int(b)) for row in train for a, b in itertools.pairwise(row)}
    wanted, seen = sum(len(row) - 1 for row in train), 0
    for batch in draw_batches(train, TRAINING, 24, 4, 0):
        assert batch.items.shape[1] % 4 == 0 and batch.items.shape[1] <= 24
        pairs = set(zip(batch.items[batch.mask].tolist(), batch.targets[batch.mask].tolist()))
        assert pairs <= follows
        assert torch.equal(batch.supervised, batch.mask) and (batch.probe < batch.mask.sum(1)).all()
        seen += int(batch.supervised.sum())
        if seen >= wanted:
            break
    assert seen == wanted


def test_one_target_a_row(planted):
    settings = replace(TRAINING, supervision="one_target")
    for batch in itertools.islice(draw_batches(planted.fold(0).train, settings, 24, 4, 0), 5):
        assert (batch.supervised.sum(1) == 1).all()
        assert torch.equal(batch.supervised.int().argmax(1), batch.mask.sum(1) - 1) and torch.equal(
            batch.probe, batch.mask.sum(1) - 1
        )


def test_sequences_too_short_to_learn_from():
    with pytest.raises(ValueError, match="no training sequence has two items"):
        next(draw_batches([np.array([1]), np.array([2])], TRAINING, 24, 4, 0))


def test_seeds_depend_on_their_names_only():
    assert derive_seed(0, "bivrec", "weights") == derive_seed(0, "bivrec", "weights")
    assert (
        len(
            {
                derive_seed(s, n, w)
                for s in range(3)
                for n in ("bivrec", "sasrec")
                for w in ("weights", "noise")
            }
        )
        == 12
    )


def test_training_repeats_bit_for_bit_and_beats_popularity(planted):
    first, second = train_model(planted, "sasrec", 0), train_model(planted, "sasrec", 0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values())
    )
    assert first.record.best_step in first.record.curve["step"].unique()
    ranks = rank_models(planted, [first, *train_models(planted, ["popularity"])])
    assert compare(ranks, ("sasrec", "id"), ("popularity", "id"), "ndcg@20")["low"] > 0


@pytest.mark.parametrize("name", ["bivrec", "gru4rec", "bivrec-one-target", "without-coarse-loss"])
@pytest.mark.parametrize("killed_at", [7, 31, 45])
def test_a_training_goes_on_where_it_was_killed(tmp_path, monkeypatch, name, killed_at):
    """Killed at any step, begun again: the same weights and curve as undisturbed, to the last bit."""
    domain = Domain(
        "planted",
        {
            "training.num_steps": 40,
            "training.step_factor": 1.0,
            "training.evaluate_every": 15,
            "model.final_temperature": 0.5,
        },
    )
    whole = train_model(domain, name, 0)
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path))
    family, count = type(whole.model), itertools.count(1)
    loss = family.loss

    def dying(self, batch):
        if next(count) == killed_at:
            raise KeyboardInterrupt
        return loss(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(family, "loss", dying)
        try:
            train_model(domain, name, 0)
        except KeyboardInterrupt:
            assert killed_at <= whole.record.curve["step"].max()
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"] * (killed_at > 15)
    steps, total = itertools.count(), whole.record.curve["step"].max()
    monkeypatch.setattr(family, "loss", lambda self, batch: (next(steps), loss(self, batch))[1])
    resumed = train_model(domain, name, 0)
    assert next(steps) == (0 if killed_at > total else total - (killed_at - 1) // 15 * 15)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    pd.testing.assert_frame_equal(
        whole.record.curve.drop(columns="seconds"),
        resumed.record.curve.drop(columns="seconds"),
        check_exact=True,
    )
    assert (whole.record.best_step, whole.record.num_targets) == (
        resumed.record.best_step,
        resumed.record.num_targets,
    )


def test_a_damaged_training_begins_anew(tmp_path, monkeypatch):
    domain = Domain("planted", {"training.num_steps": 20})
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path))
    whole = train_model(domain, "pure-id", 0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again = train_model(domain, "pure-id", 0)
    assert all(
        torch.equal(value, again.model.state_dict()[key])
        for key, value in whole.model.state_dict().items()
    )


def test_the_validation_users_choose(planted):
    """The weights kept are those of the best step: their validation figure is the curve's maximum."""
    trained = train_model(planted, "pure-id", 0)
    curve = trained.record.curve[trained.record.curve["metric"] == "ndcg@20"].set_index("step")[
        "value"
    ]
    again = mean_metrics(rank_cases(trained.model, planted.fold(0).validation)).set_index("metric")[
        "value"
    ]["ndcg@20"]
    assert again == pytest.approx(curve.max()) and trained.record.best_step == curve.idxmax()


def test_side_by_side_is_one_by_one():
    """Two workers give the bytes that one gives."""
    one = train_models(Domain("planted", {"training.num_steps": 10}), ["sasrec", "pure-mm"])
    two = train_models(
        Domain("planted", {"training.num_steps": 10, "machine.num_workers": 2}),
        ["sasrec", "pure-mm"],
    )
    for a, b in zip(one, two):
        assert a.name == b.name and all(
            torch.equal(x, y)
            for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values())
        )


def test_memory_of_a_step_is_the_same_whatever_lay_in_memory_before(planted):
    """Counted by storages that are held: a place given out twice within a step would hide one."""
    found, lying = set(), []
    for number in range(6):
        lying += [torch.empty(1000 * number + 37 * k) for k in range(40)]
        del lying[::2]
        found.add(count_costs(planted, "bivrec", 3)["memory_mb"])
    assert len(found) == 1


def test_a_gpu_that_is_not_there_is_said():
    if not torch.cuda.is_available():
        with pytest.raises(
            SettingsError, match="machine.device: 'cuda' is set, but PyTorch finds no GPU"
        ):
            choose_device(load_settings("planted", {"machine.device": "cuda"}).machine)


def test_a_model_that_diverges_is_said():
    domain = Domain(
        "planted",
        {"training.learning_rate": 1e12, "training.clip_norm": 1e12, "training.num_steps": 20},
    )
    with pytest.raises(ValueError, match="lower training.learning_rate"):
        train_model(domain, "bivrec", 0)


def test_checkpoints(planted, tmp_path):
    trained = train_model(Domain("planted", {"training.num_steps": 10}), "bivrec", 0)
    domain, path = Domain("planted", {"training.num_steps": 10}), tmp_path / "bivrec-0.safetensors"
    save_checkpoint(domain, trained, path)
    loaded = load_checkpoint(domain, "bivrec", 0, path)
    history = [planted.sequences.of(0)]
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.score(history).values(), trained.model.score(history).values())
    )
    assert (
        load_checkpoint(Domain("planted", {"training.num_steps": 11}), "bivrec", 0, path) is None
    )  # other settings
    assert (
        load_checkpoint(domain, "bivrec", 1, path) is None
        and load_checkpoint(domain, "bivrec", 0, tmp_path / "none") is None
    )
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="bivrec-0.safetensors is damaged"):
        load_checkpoint(domain, "bivrec", 0, path)


def test_an_unknown_model_is_said(planted):
    with pytest.raises(SettingsError, match="there is no model 'gru'"):
        build_model(planted, "gru", 0)


def test_runs_have_their_columns(planted):
    from bivrec.experiment.runs import RUN_COLUMNS

    runs = to_runs(planted, "training", rank_models(planted, train_models(planted, ["popularity"])))
    assert list(runs.columns) == RUN_COLUMNS and not runs.duplicated(RUN_COLUMNS[:-1]).any()
    assert {"ndcg@20", "recall@20", "hr@10", "comirec_ndcg@20"} <= set(runs["metric"])


def test_the_true_interests_are_found_again(planted):
    """On planted an item's kind is known: the interest it is given to tells it, and tells nothing without Cluster attention."""
    whole = interest_recovery(planted, [train_model(planted, "bivrec", seed) for seed in range(5)])
    assert (whole.groupby("view")["agreement"].mean() >= 0.8).all()
    without = interest_recovery(planted, [train_model(planted, "without-cluster-attention", 0)])
    assert (without["agreement"] < 0.1).all()


def test_tuning_tries_the_same_grid_on_every_model():
    trials = tune(Domain("planted", {"tuning.num_steps": 2}), ["sasrec", "bivrec"])
    assert (
        trials.groupby("model")["training.learning_rate"].unique().map(list).tolist()
        == [[0.004, 0.008]] * 2
    )
    assert (
        trials.groupby("model")["view"].nunique().to_dict() == {"bivrec": 3, "sasrec": 1}
        and (trials["best_step"] <= 4).all()
    )


def test_models_hold_what_the_tuning_chose(root):
    """params.yaml has each model's best trial by mean over folds, views and domains, as results/full records them."""
    settings = load_settings("movies-classic")
    trials = pd.concat(
        [
            pd.read_csv(root / "results" / "full" / "09_tuning" / name / "trials.csv")
            for name in settings.studies.datasets
        ]
    )
    grid = list(settings.tuning.grid)
    means = trials.groupby(["model", *grid])["value"].mean()
    assert set(means.index.get_level_values("model")) == set(settings.tuning.models)
    for name in settings.tuning.models:
        chosen = vary(settings, settings.models[name])
        assert (chosen.training.learning_rate, chosen.model.dropout) == means[name].idxmax(), name
    assert [*settings.tuning.grid] == ["training.learning_rate", "model.dropout"]
    reported = {seed % settings.split.num_folds for seed in settings.studies.seeds}
    assert (
        not {(seed + 1) % settings.split.num_folds for seed in settings.tuning.seeds} & reported
    )  # who chose tests nothing


def test_products_in_place_and_attention_on_a_cpu_are_counted():
    """PyTorch's own counter passes over both, which would make the softmax a third cheaper than it is."""
    a, b, query = (
        torch.randn(6, 4),
        torch.randn(4, 5),
        torch.randn(2, 2, 50, 32, requires_grad=True),
    )
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        torch.zeros(6, 5).addmm_(a, b)
    assert counter.get_total_flops() == 2 * 6 * 4 * 5
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        torch.nn.functional.scaled_dot_product_attention(
            query, query, query, is_causal=True
        ).sum().backward()
    assert counter.get_total_flops() == 7 * (
        2 * 2 * 2 * 50 * 50 * 32
    )  # two products forward, five backward
